"""How people and programs watch the work: events, logs, metrics, the dashboard."""
