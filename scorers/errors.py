"""Everything that can go wrong while scoring. Each message is one line: what was expected, what came, what to
do.

ScorerError
├── UnknownScorerError     no kind of that name
├── BrokenPluginError      an installed plug-in cannot be loaded, or claims a name that is taken
├── ScorerSettingsError    an option is unknown, missing or makes no sense
├── MissingWeightsError    a weight file is not on this machine and could not be fetched
├── WrongWeightsError      a weight file is there but is not what it should be
├── ReferenceImagesError   the reference folder cannot serve: missing, unreadable, too few images
└── SuiteImagesError       the rendered images cannot be scored: wrong type or shape, too few
"""

from __future__ import annotations

from basics.errors import MergetuneError


class ScorerError(MergetuneError):
    """Base of all errors of this package; the command line prints its message and no traceback."""


class UnknownScorerError(ScorerError):
    """No scorer kind has the name that was asked for."""


class BrokenPluginError(ScorerError):
    """A third-party scorer was asked for and its entry point cannot be used."""


class ScorerSettingsError(ScorerError):
    """The options of a scorer do not parse, or contradict each other."""


class MissingWeightsError(ScorerError):
    """A weight file is needed, is not here, and could not be downloaded."""


class WrongWeightsError(ScorerError):
    """A weight file exists but has the wrong digest, keys, shapes or kind."""


class ReferenceImagesError(ScorerError):
    """The folder of reference images is missing, unreadable or holds too few images."""


class SuiteImagesError(ScorerError):
    """The images handed in cannot be scored."""
