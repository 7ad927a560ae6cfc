"""Scorers of how close images are to those of another model."""
