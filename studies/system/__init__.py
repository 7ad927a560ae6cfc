"""What everything else in this package stands on: strict YAML and JSON, passwords, processes."""
