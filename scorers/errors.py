"""The errors of scoring. Each message is one line: what was expected, what was given, what to do.

ScorerError
├── UnknownScorerError     no scorer has this name
├── BrokenPluginError      an installed plug-in cannot be loaded, or its name is already taken
├── ScorerSettingsError    an option is unknown, missing or invalid
├── MissingWeightsError    a weight file is not on this machine and could not be downloaded
├── MissingPackageError    a Python package that only this scorer needs is not installed
├── WrongWeightsError      a weight file exists but has the wrong content
├── ReferenceImagesError   the reference folder is missing, unreadable, or has too few images
└── SuiteImagesError       the rendered images cannot be scored: wrong type or shape, too few
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from basics.errors import MergetuneError


class ScorerError(MergetuneError):
    """The base of all errors of this package; the command line prints the message without a traceback."""


class UnknownScorerError(ScorerError):
    """No scorer has this name."""


class BrokenPluginError(ScorerError):
    """The entry point of a third-party scorer cannot be used."""


class ScorerSettingsError(ScorerError):
    """The options of a scorer are invalid, or contradict each other."""


class MissingWeightsError(ScorerError):
    """A weight file is not on this machine and could not be downloaded."""


class MissingPackageError(ScorerError):
    """A Python package that only this scorer needs is not installed."""


class WrongWeightsError(ScorerError):
    """A weight file exists but has the wrong digest, keys, shapes or kind."""


class ReferenceImagesError(ScorerError):
    """The folder of reference images is missing, unreadable, or has too few images."""


class SuiteImagesError(ScorerError):
    """The rendered images cannot be scored."""


@contextmanager
def of_scorer(name: str) -> Iterator[None]:
    """Begin the message of every error of options, files and packages with the scorer's name in the spec.

    A spec may have several scorers of one kind, and an option such as `weights` is one of many.
    """
    try:
        yield
    except (
        ScorerSettingsError,
        MissingWeightsError,
        MissingPackageError,
        WrongWeightsError,
        ReferenceImagesError,
    ) as error:
        raise type(error)(f"scorer {name!r}: {error}") from error
