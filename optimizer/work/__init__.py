"""Workers: which study and trial comes next, the trial loop, and what is recorded of it."""
