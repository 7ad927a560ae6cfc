"""Checkpoints in, one merged model out: in memory (resident) or to a file (export)."""
