"""Which trial comes next: probes first, then a sampler that can be rebuilt from the database."""
