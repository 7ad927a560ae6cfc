"""People as judges: the page on which they compare renders, which pair is shown next, and what their votes say."""
