"""Merge methods: the arithmetic of merging, as pure functions."""
