"""Scorers of the distance between the rendered images and reference images."""
