"""A checkpoint becomes a live diffusers pipeline, and the suite becomes images."""
