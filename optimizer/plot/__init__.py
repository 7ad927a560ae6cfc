"""Tables of pictures of many merges: ratios and settings along axes, permutations of parents, ablations of blocks."""
