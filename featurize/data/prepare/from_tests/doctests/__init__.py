"""Problems from the doctests of installed packages: functions, their statements and their tests."""
