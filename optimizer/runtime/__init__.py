"""A study made ready to run: files found and checked, memory estimated, models and scorers loaded."""
