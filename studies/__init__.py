"""What was asked and what was found: specs, recipes and the study database. No torch."""
