"""Everything needed to make one merge, as a value and as a file."""
