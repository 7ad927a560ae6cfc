"""Which merge ratios exist: the block map of a checkpoint and the space a study searches. No torch."""
