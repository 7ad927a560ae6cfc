"""What every other package stands on: messages, errors, settings and files. No torch."""
