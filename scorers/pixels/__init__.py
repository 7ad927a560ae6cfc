"""Scorers that measure pixels, without a network."""
