"""One trial: a recipe merged, rendered and scored, and how it compares with others."""
