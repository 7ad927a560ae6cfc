"""The spec of a study: what a user asks for, parsed once."""
