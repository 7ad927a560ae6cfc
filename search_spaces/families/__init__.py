"""What is known of each family of models without torch: one module for each, and the registry."""
