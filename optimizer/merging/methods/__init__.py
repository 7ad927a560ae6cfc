"""The arithmetic of merging, as pure functions."""
