"""The errors of a search space, as one tree.

MergetuneError and ValueError
└── SpaceError                      the base of all errors of this package
    ├── UnknownArchitectureError    the tensors are not those of a checkpoint of a known family
    ├── UnknownBlockError           there is no block of this name
    ├── UnknownPresetError          no preset has this name
    ├── UnmatchedPatternError       a pattern in the settings matches no place
    ├── BoundsError                 bounds are empty, not finite, or differ within one parameter
    ├── FrozenError                 a fixed ratio is not finite, or other settings contradict it
    ├── GroupError                  a group is empty, overlaps, or has a misleading name
    ├── EmptySpaceError             nothing is left to search
    ├── SlotError                   the merge method's ratio names cannot name parameters
    ├── BlockWeightsError           a block-weight string has the wrong number of values, or a value is no number
    └── RatioError                  values do not fit the space: missing, unknown, not finite, out of bounds
        └── OutsideSpaceError       valid ratios that no parameters of this space produce

The command line prints `str(error)` unchanged: every message is one line that says what was expected, what was given,
and what to do.
"""

from __future__ import annotations

from basics.errors import MergetuneError


class SpaceError(MergetuneError, ValueError):
    """The base of all errors of this package."""


class UnknownArchitectureError(SpaceError):
    """The tensors are not those of a complete checkpoint of a known family."""


class UnknownBlockError(SpaceError):
    """There is no block of this name."""


class UnknownPresetError(SpaceError):
    """No preset has this name."""


class UnmatchedPatternError(SpaceError):
    """A pattern in the settings matches no place of the architecture."""


class BoundsError(SpaceError):
    """Bounds are empty, not finite, apply to nothing that is searched, or differ within one parameter."""


class FrozenError(SpaceError):
    """A fixed ratio is not finite, or other settings contradict it."""


class GroupError(SpaceError):
    """A group is empty, overlaps another, holds a frozen place, or has a misleading name."""


class EmptySpaceError(SpaceError):
    """Every place is frozen."""


class SlotError(SpaceError):
    """The merge method's ratio names cannot name parameters."""


class BlockWeightsError(SpaceError):
    """A block-weight string has the wrong number of values, or a value is not a finite number."""


class RatioError(SpaceError):
    """Values do not fit the space: missing, unknown, not finite or out of bounds."""


class OutsideSpaceError(RatioError):
    """Valid ratios that no parameters of this space produce."""
