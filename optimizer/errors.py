"""What can go wrong while merging, rendering, searching and recording.

    OptimizerError
    ├── CheckpointError           a file that is not, or no longer, what it should be
    │   ├── ParentsDifferError    parents that cannot be merged with each other
    │   └── LoraError             a LoRA that cannot be read, or is not for this checkpoint
    ├── MissingFileError          a file of a stored study is not where it was, nor in the folders that were searched
    ├── OutsideFoldersError       a stored study names a file outside the folders that may be read
    ├── RenderError               a suite that this model cannot render
    │   └── PromptError           a prompt that cannot be read, or names an embedding or a LoRA that cannot be used
    ├── NoMemoryError             what is asked for does not fit this machine
    ├── UnscorableTrial           this trial is no good; the study goes on
    ├── FinalError                nothing to compare in a final, or nothing to compare with
    ├── BracketError              checkpoints that cannot compete, or a bracket that cannot go on
    ├── TooFewTrialsError         nothing can be said about what mattered yet
    ├── TooFewVotesError          nothing can be learned from people's votes yet
    ├── NothingToReportError      a study has no complete trial
    ├── WeightsError              weights of objectives that cannot be used
    ├── PlotError                 a plot that cannot be drawn as it was asked for
    ├── ExportError               the file was not written
    ├── NoCoreNodeError           ComfyUI cannot do a part of a merge with its own nodes
    ├── ScoredImageLost           an image that was scored is not stored any more
    ├── ObservationError          a log that cannot be written, or metrics that cannot be served
    └── StorageError              the study database or the folder beside it cannot be used
        └── DatabaseLostError     it is away, and did not come back: exit code 3

The base of all is basics.errors.MergetuneError.
"""

from __future__ import annotations

from basics.errors import MergetuneError
from studies.records.failures import FailureKind


class OptimizerError(MergetuneError):
    """Base of everything this package raises on purpose."""


class CheckpointError(OptimizerError):
    """A checkpoint is missing, damaged or cut off, of an unknown kind, quantised, or holds code to run."""


class ParentsDifferError(CheckpointError):
    """Parents differ in architecture, or in the shape of a tensor."""


class LoraError(CheckpointError):
    """A LoRA file is missing, broken, of a kind that is not supported, or made for another model."""


class MissingFileError(OptimizerError):
    """A file of a stored study is not where the study names it, and nothing of its content was found."""


class OutsideFoldersError(OptimizerError):
    """A file of a stored study is not in the model folders, and nothing else is read for it."""


class RenderError(OptimizerError):
    """The suite asks for something this model or scheduler cannot do."""


class PromptError(RenderError):
    """A prompt is not written as its syntax asks, or names an embedding that is not there or not for this model."""


class NoMemoryError(OptimizerError):
    """The memory that is free is less than what is needed; nothing stays loaded."""


class UnscorableTrial(OptimizerError):  # noqa: N818 - it is an outcome, told to the study as such
    """The trial cannot be scored; the message is kept as its reason.

    Args:
        kind: what kind of reason it is.
    """

    def __init__(self, reason: str, kind: FailureKind) -> None:
        super().__init__(reason)
        self.kind: FailureKind = kind


class FinalError(OptimizerError):
    """A study's final cannot be held."""


class BracketError(OptimizerError):
    """Checkpoints cannot compete with each other, or a bracket cannot go on as it began."""


class TooFewTrialsError(OptimizerError):
    """A study has too few trials to tell what mattered in it."""


class TooFewVotesError(OptimizerError):
    """Votes are too few, or too much by chance, to learn from them what people prefer."""


class NothingToReportError(OptimizerError):
    """A study has no result that a report could tell."""


class WeightsError(OptimizerError):
    """Weights that do not choose from a front of several objectives."""


class PlotError(OptimizerError):
    """A plot's axes, base or number of images do not fit the merge or its suite."""


class ExportError(OptimizerError):
    """The merged file could not be written, or is not the model that was scored."""


class NoCoreNodeError(OptimizerError):
    """ComfyUI's core nodes cannot do a part of a merge."""


class ScoredImageLost(OptimizerError):  # noqa: N818 - an outcome: what needs the image goes on without it
    """An image that a trial stored is gone, unreadable, or another than was scored."""


class ObservationError(OptimizerError):
    """What watches a worker cannot be set up."""


class StorageError(OptimizerError):
    """The study database cannot be reached or used."""


class DatabaseLostError(StorageError):
    """The study database went away in the middle of the work, or was away at its start, and did not come back."""
