"""Which samples and columns of a feature store a head reads."""
