"""Families of models, as far as files and running models go: one module each, the registry, and what they share."""
