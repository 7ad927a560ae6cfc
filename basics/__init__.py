"""Messages, errors, settings and files that every other package uses. No torch."""
