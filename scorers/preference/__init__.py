"""Scorers of what people prefer: networks trained on choices between images of the same prompt."""
