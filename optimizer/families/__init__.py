"""What is known of each family's files and running models: one module for each, the registry, and what they share."""
