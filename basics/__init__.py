"""What every other package stands on: messages, settings and files. No torch."""
