"""Formats of backbone files: Hugging Face folders, GGUF files and Meta's llama-MTP folders."""
