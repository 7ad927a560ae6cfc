"""Scorers of how well an image fits its prompt."""
