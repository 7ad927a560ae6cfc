"""The report of a study: one page that says what came out, and shows it."""
