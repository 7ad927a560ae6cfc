"""The block map of a checkpoint, and the space of merge ratios that a study searches. No torch."""
