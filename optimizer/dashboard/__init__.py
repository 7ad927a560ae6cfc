"""The dashboard: optuna-dashboard with our gates in front of it, and what its pages show of a study."""
