"""Reading labelled samples and their input vectors from a feature store."""
