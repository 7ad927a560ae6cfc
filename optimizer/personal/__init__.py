"""The scorer `personal`: votes of all studies of a database train a small head on CLIP embeddings."""
