"""The built-in demo study: its spec, small trained checkpoints, prompts and reference pictures."""
