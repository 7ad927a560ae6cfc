"""Commands as messages advise them: they name the database, or they would be carried out on another one."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys

DEFAULT_STORAGE = "sqlite:///mergetune.db"
STORAGE_VARIABLE = "MERGETUNE_STORAGE"


def advised(command: str, url: str, options: str = "") -> str:
    """Return a command as people type it.

    Args:
        command: without `mergetune`, and without `--storage`.
        url: of the database.
        options: what follows, each with a leading space.
    """
    return f"mergetune {command}{storage_option(url)}{options}"


def quoted(word: str) -> str:
    """Return a word as this system's shells take it: in quotes if it needs them."""
    return subprocess.list2cmdline([word]) if sys.platform == "win32" else shlex.quote(word)


def storage_option(url: str) -> str:
    """Return the `--storage` option for a command, with a leading space; empty if none is needed."""
    from studies.system.database_url import (  # it loads sqlalchemy, which help does not need
        complete_url,
        storage_argument,
    )

    if url == complete_url(os.environ.get(STORAGE_VARIABLE) or DEFAULT_STORAGE):
        return ""
    return f" --storage {storage_argument(url)}"
