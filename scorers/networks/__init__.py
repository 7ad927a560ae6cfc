"""Networks that scorers share, and how they run: repeatably, in batches that fit."""
