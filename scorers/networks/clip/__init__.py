"""CLIP: which one the settings mean, its files, weights and tokenizer, and its embeddings."""
