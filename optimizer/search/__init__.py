"""The next trial of a study: first the probes, then a sampler that can be rebuilt from the database."""
