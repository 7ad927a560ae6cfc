"""One trial: a recipe is merged, rendered and scored, and compared with other trials."""
