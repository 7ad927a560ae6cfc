"""What was meant by a command that does not exist: a file's name, or a command of another group."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Any, Final

from optimizer.cli.common import YAML_SUFFIXES
from optimizer.merging.files.names import CHECKPOINT_SUFFIXES
from studies.system.advice import quoted

UNKNOWN: Final = re.compile(r"No such command '(.*?)'\.?(?: Did you mean .*)?", re.DOTALL)


def meant_instead(message: str, program: Any) -> str | None:
    """Return what to type instead of an unknown command, as the end of a message; None where that is not what is wrong.

    Args:
        message: click's.
        program: click's command of the whole program.
    """
    found = UNKNOWN.fullmatch(message)
    if found is None:
        return None
    word = found[1]
    suffix, file = PurePath(word).suffix.lower(), quoted(word)
    if suffix in YAML_SUFFIXES:
        return f"to start the study of a spec, type `mergetune study start {file}`"
    if suffix in CHECKPOINT_SUFFIXES:
        return f"to see what a checkpoint is, type `mergetune inspect {file}`"
    groups = {name: getattr(group, "commands", {}) for name, group in program.commands.items()}
    return next((f"did you mean `mergetune {name} {word}`?" for name, inner in groups.items() if word in inner), None)
