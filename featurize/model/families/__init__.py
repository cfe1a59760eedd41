"""Where a backbone comes from: Hugging Face, GGUF and Meta llama-MTP files."""
