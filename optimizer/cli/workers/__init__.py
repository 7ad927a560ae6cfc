"""How commands run workers: in this process, in others on this computer, on a Ray cluster."""
