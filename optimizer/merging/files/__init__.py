"""Checkpoint files: recognising them, and naming, reading, hashing and comparing their tensors."""
