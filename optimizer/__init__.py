"""Merging, rendering, searching, and the command line that drives them."""
