"""The files of scorers: which they need, where they come from, and how they are opened without running code."""
