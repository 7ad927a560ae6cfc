"""Generation settings out of pictures that other programs have published, and as part of a spec."""
