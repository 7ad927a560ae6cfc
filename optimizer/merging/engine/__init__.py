"""The merge itself: planned once, carried out in memory (resident) or to a file (export)."""
