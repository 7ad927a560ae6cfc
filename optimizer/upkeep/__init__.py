"""Upkeep of a study database: finding and mending what is wrong, and making room."""
