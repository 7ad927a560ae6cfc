"""Checkpoint files: what they are, what they hold, and how their tensors are named and read."""
