"""Scores that people give: what is asked of them, and not computed."""
