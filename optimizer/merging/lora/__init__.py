"""LoRA files: read as ingredients of a merge, extracted from the difference of two checkpoints."""
