"""Scorers of how good an image looks, whatever its prompt."""
