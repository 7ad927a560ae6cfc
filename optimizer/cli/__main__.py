"""`python -m optimizer.cli` is `mergetune`."""

from __future__ import annotations

from optimizer.cli.main import run

if __name__ == "__main__":
    run()
