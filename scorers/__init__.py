"""Scorers, which turn images into numbers. Importing this package loads no weights and no torch."""
