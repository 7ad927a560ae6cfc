"""The machine: merging, rendering, searching, and the command line that drives them."""
