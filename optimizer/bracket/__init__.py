"""Many checkpoints pitted against each other, round by round, down to one: `mergetune bracket`."""
