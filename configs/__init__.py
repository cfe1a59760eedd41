"""Loading and checking configurations, and everything the terminal shows."""
