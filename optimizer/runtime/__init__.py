"""Prepare a study to run: find and check its files, estimate its memory, load its models and scorers."""
