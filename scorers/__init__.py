"""Images in, numbers out. Importing this package loads no weights and no torch."""
