"""The study database: what was asked, what was tried, who works on it."""
