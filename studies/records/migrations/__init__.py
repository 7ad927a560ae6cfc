"""Alembic migrations of our tables; their version table is our own, because Optuna uses Alembic too."""
