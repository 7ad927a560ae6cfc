"""The base of all errors that this program raises on purpose."""

from __future__ import annotations

from basics.texts import MESSAGE_CHARACTERS, shortened


class MergetuneError(Exception):
    """An error that the user can correct: the message says what was expected, what was given and what to do.

    Each package has its own base class below this one: SpaceError, ScorerError, StudyError, OptimizerError. The command
    line prints the message as one line and ends with exit code 2.

    Args:
        message: shortened in its middle if it is longer than any that is not about hostile input: what was given may be
            megabytes.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(shortened(message, MESSAGE_CHARACTERS))
