"""The YAML configurations and the code that reads, merges and checks them."""
