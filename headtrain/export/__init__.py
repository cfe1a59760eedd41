"""Exports of a critic: to formats that other programs load, and to the Hub."""
