"""Merging of checkpoints into one model: in memory (resident) or to a file (export)."""
