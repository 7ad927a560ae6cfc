"""What the operating system and the network do: host memory, and outages that are waited for."""
