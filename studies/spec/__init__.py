"""What a user asks for: the study's spec, parsed once."""
