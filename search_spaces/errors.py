"""What can be wrong with a search space, as one tree.

MergetuneError and ValueError
└── SpaceError                      everything this package raises on purpose
    ├── UnknownArchitectureError    the tensors are not those of a checkpoint of a known family
    ├── UnknownBlockError           a name is not that of a U-Net block
    ├── UnknownPresetError          no preset has this name
    ├── UnmatchedPatternError       a pattern in the settings names nothing
    ├── BoundsError                 a range is empty, not finite, or not the same within one parameter
    ├── FrozenError                 a fixed ratio is not finite, or other settings contradict it
    ├── GroupError                  a group is empty, overlaps, or has a misleading name
    ├── EmptySpaceError             nothing is left to search
    ├── SlotError                   the merge method's ratio names cannot name parameters
    ├── BlockWeightsError           a block-weight string has the wrong count or no numbers
    └── RatioError                  values do not fit the space: missing, unknown, not finite, out of bounds
        └── OutsideSpaceError       valid ratios that no parameters of this space produce

The command line prints `str(error)` as it is: every message is one line that says what was expected, what
came, and what to do.
"""

from __future__ import annotations

from basics.errors import MergetuneError


class SpaceError(MergetuneError, ValueError):
    """Base of all errors of this package."""


class UnknownArchitectureError(SpaceError):
    """The tensors are not those of a complete checkpoint of a known family."""


class UnknownBlockError(SpaceError):
    """A name is not that of a U-Net block."""


class UnknownPresetError(SpaceError):
    """No preset has this name."""


class UnmatchedPatternError(SpaceError):
    """A pattern in the settings names no place of the architecture."""


class BoundsError(SpaceError):
    """A range is empty, not finite, set on nothing searched, or not the same within one parameter."""


class FrozenError(SpaceError):
    """A fixed ratio is not finite, or other settings contradict it."""


class GroupError(SpaceError):
    """A group is empty, overlaps another, holds a frozen place, or has a misleading name."""


class EmptySpaceError(SpaceError):
    """Every place is frozen."""


class SlotError(SpaceError):
    """The merge method's ratio names cannot name parameters."""


class BlockWeightsError(SpaceError):
    """A block-weight string has the wrong count of numbers, or something that is no number."""


class RatioError(SpaceError):
    """Values do not fit the space: missing, unknown, not finite or out of bounds."""


class OutsideSpaceError(RatioError):
    """Ratios that are valid in themselves but that no parameters of this space produce."""
