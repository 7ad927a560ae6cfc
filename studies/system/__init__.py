"""What the rest of this package builds on: strict YAML and JSON, passwords, processes, database URLs."""
