"""The base of all errors that this program raises on purpose."""

from __future__ import annotations


class MergetuneError(Exception):
    """An error that the user can correct: the message says what was expected, what was given and what to do.

    Each package has its own base class below this one: SpaceError, ScorerError, StudyError, OptimizerError. The command
    line prints the message as one line and ends with exit code 2.
    """
