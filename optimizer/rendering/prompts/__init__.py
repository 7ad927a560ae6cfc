"""Prompts: how a text is read as A1111 or ComfyUI reads it, and what the text encoders make of it."""
