"""What is won when a judge picks one of n candidate outputs."""
