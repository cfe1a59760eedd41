"""Shortcuts: cheap judges that a head has to beat, and controls that must be at chance."""
