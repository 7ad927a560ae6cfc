"""How people and programs watch the work: events, logs, metrics, notes of trials."""
