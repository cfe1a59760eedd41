"""What comes in: samples, prompts, and the tools that prepare them."""
