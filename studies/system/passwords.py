"""Passwords in files: they show up in no process list, environment or URL."""

from __future__ import annotations

from pathlib import Path

from studies.errors import PasswordError


def read_password_file(file: Path) -> str:
    """Return the file's first line without surrounding spaces.

    Raises:
        PasswordError: the file is missing, unreadable, empty or not text.
    """
    try:
        password = file.read_text(encoding="utf-8-sig").split("\n", maxsplit=1)[0].strip()
    except UnicodeDecodeError as error:
        raise PasswordError(
            f"the password file {file} is not UTF-8 text: write the password on its first line"
        ) from error
    except OSError as error:
        raise PasswordError(f"the password file {file} cannot be read: {error.strerror}") from error
    if not password:
        raise PasswordError(f"the password file {file} is empty: write the password on its first line")
    return password
