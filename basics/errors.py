"""The base of every error that our packages raise on purpose."""

from __future__ import annotations


class MergetuneError(Exception):
    """Something that the user can put right: the message says what was expected, what came and what to do.

    Each package has a base of its own below this one: SpaceError, ScorerError, StudyError, OptimizerError. The command
    line prints the message as one line and ends with exit code 2.
    """
