"""Rendering of the suite with a live diffusers pipeline over a resident merge."""
