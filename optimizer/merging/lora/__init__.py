"""LoRA files: reading them for a merge, and extracting them from the difference of two checkpoints."""
