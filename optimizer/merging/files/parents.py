"""Checkpoints that go into one merge, read key by key as if all had parent A's layout.

What only some parents have, and how they differ, is settled here once; the two executors of a merge see parents that
agree. The merged result has A's keys in A's dtypes and shapes, without EMA copies, and the whole components (a VAE, a
text encoder) that A lacks and another parent has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import torch
from torch import Tensor

from optimizer.errors import ParentsDifferError
from optimizer.families.registry import model_families, model_family
from optimizer.merging.files.checkpoint import Checkpoint, component_of, is_mergeable, letters
from optimizer.merging.files.sources import TensorInfo, some
from search_spaces.blocks import EMA, VAE, Architecture, text_encoders

MARKERS = frozenset({"v_pred", "ztsnr"})  # tensors whose presence alone says what a model predicts
PLAIN_CHANNELS = 4  # of a latent; inpainting models read 9 channels, InstructPix2Pix models 8


class Parents:
    """Opened checkpoints of one architecture, parent A first; made by `Parents.of`.

    Attributes:
        checkpoints: as they were opened.
        tensors: the keys of the merged result with A's dtype and shape, in A's order, then those of the components
            that A lacks, as the first parent that has them stores them.
        notes: one line for everything that is kept, left out, taken from another parent or extended, after what each
            checkpoint's own notes say.
    """

    def __init__(self, checkpoints: Sequence[Checkpoint], homes: Mapping[str, int], notes: Sequence[str]) -> None:
        self.checkpoints = tuple(checkpoints)
        self.tensors: Mapping[str, TensorInfo] = {key: checkpoints[home].tensors[key] for key, home in homes.items()}
        self.notes = tuple(notes)
        self._homes = homes  # key -> the parent whose value is kept where no ratio applies
        self._merged = frozenset(key for key in homes if self._can_merge(key))

    @classmethod
    def of(cls, checkpoints: Sequence[Checkpoint]) -> Parents:
        """Check that checkpoints can be merged with each other, and settle what only some of them have.

        Raises:
            ParentsDifferError: another architecture, or other shapes (the first three keys are named).
            CheckpointError: one of them is of no known family.
        """
        first = checkpoints[0]
        for letter, other in _others(checkpoints):
            _require_same_architecture(first, other, letter)
        homes = {key: 0 for key in first.tensors if component_of(key, first.architecture) != EMA}
        taken = _components_from_others(checkpoints)
        for component, home in taken.items():
            owner = checkpoints[home]
            homes |= {key: home for key in owner.tensors if component_of(key, owner.architecture) == component}
        for letter, other in _others(checkpoints):
            _require_same_shapes(first, other, letter)
        return cls(checkpoints, homes, _notes(checkpoints, homes, taken))

    @property
    def first(self) -> Checkpoint:
        """Parent A."""
        return self.checkpoints[0]

    @property
    def architecture(self) -> Architecture:
        return self.first.architecture

    def is_merged(self, key: str) -> bool:
        """Whether a ratio applies: every parent has it, as floating-point weights of a block or component."""
        return key in self._merged

    def _can_merge(self, key: str) -> bool:
        return all(
            key in parent.tensors and is_mergeable(key, parent.tensors[key], self.architecture)
            for parent in self.checkpoints
        )

    def info(self, key: str, index: int) -> TensorInfo:
        """Parent `index`'s tensor as `tensor` gives it: its own dtype, the result's shape.

        Raises:
            KeyError: that parent has no such tensor.
        """
        own, wanted = self.checkpoints[index].tensors[key], self.tensors[key]
        if _is_narrower(key, own, wanted):
            return TensorInfo(_common_dtype(own.dtype, wanted.dtype), wanted.shape)
        return TensorInfo(own.dtype, wanted.shape)

    def tensor(self, key: str, index: int) -> Tensor:
        """Parent `index`'s values of a key of the result, in the result's shape.

        A plain model's first convolution is extended by A's own extra channels where A is an inpainting or
        InstructPix2Pix model, so that any weighted mean gives A's there, and any difference nothing. The dtype is
        then one that holds both parents' values exactly.

        Raises:
            KeyError: that parent has no such tensor.
        """
        info = self.info(key, index)
        stored = self.checkpoints[index].tensor(key)
        own, wanted = self.checkpoints[index].tensors[key], self.tensors[key]
        if not _is_narrower(key, own, wanted):
            return stored.view(wanted.shape)
        extra = self.kept(key)[:, own.shape[1] :]
        return torch.cat([stored.to(info.dtype), extra.to(info.dtype)], dim=1)

    def kept(self, key: str) -> Tensor:
        """The value where nothing is merged: A's, or that of the parent whose component was taken."""
        return self.checkpoints[self._homes[key]].tensor(key)


def _others(checkpoints: Sequence[Checkpoint]) -> list[tuple[str, Checkpoint]]:
    return list(zip(letters(len(checkpoints))[1:], checkpoints[1:], strict=True))


# --------------------------------------------------------------------------------------------- shapes


def _require_same_architecture(first: Checkpoint, other: Checkpoint, letter: str) -> None:
    if other.architecture != first.architecture:
        raise ParentsDifferError(
            f"parents of different architecture: A ({first.path.name}) is {first.architecture}, "
            f"{letter} ({other.path.name}) is {other.architecture}; merge models of one family only"
        )


def _require_same_shapes(first: Checkpoint, other: Checkpoint, letter: str) -> None:
    shared = {key: (info, other.tensors[key]) for key, info in first.tensors.items() if key in other.tensors}
    convolution = model_family(first.architecture).keys.first_convolution
    if convolution is not None and convolution in shared:
        _require_first_channels(first, other, letter, convolution)
    differing = [
        f"{key} is {_shape(mine)} in A and {_shape(theirs)} in {letter}"
        for key, (mine, theirs) in shared.items()
        if not mine.fits(theirs) and not _is_narrower(key, theirs, mine)
    ]
    if differing:
        raise ParentsDifferError(
            f"{other.path.name} has other shapes than {first.path.name} in {len(differing)} tensors: "
            f"{'; '.join(differing[:3])}; the parents must be of the same model family"
        )


def _require_first_channels(first: Checkpoint, other: Checkpoint, letter: str, key: str) -> None:
    mine, theirs = first.tensors[key], other.tensors[key]
    if len(mine.shape) == len(theirs.shape) == 4 and mine.shape[1] < theirs.shape[1]:
        raise ParentsDifferError(
            f"{letter} ({other.path.name}) reads {theirs.shape[1]} input channels and A ({first.path.name}) "
            f"{mine.shape[1]}: an inpainting or InstructPix2Pix model must be parent A, name it first"
        )


def _is_narrower(key: str, own: TensorInfo, wanted: TensorInfo) -> bool:
    """Whether this is a plain model's first convolution beside one of more input channels."""
    if key not in _first_convolutions() or len(own.shape) != 4 or len(wanted.shape) != 4:
        return False
    same = (own.shape[0], *own.shape[2:]) == (wanted.shape[0], *wanted.shape[2:])
    return same and own.shape[1] == PLAIN_CHANNELS < wanted.shape[1]


@cache
def _first_convolutions() -> frozenset[str | None]:
    """Keys of the first convolution in files of any family."""
    return frozenset(family.keys.first_convolution for family in model_families())


def _common_dtype(one: torch.dtype, other: torch.dtype) -> torch.dtype:
    """A dtype that holds the values of both exactly."""
    if one == other:
        return one
    return torch.float64 if torch.float64 in {one, other} else torch.float32


def _shape(info: TensorInfo) -> str:
    return "x".join(map(str, info.shape)) or "a number"


# ----------------------------------------------------------------------------------------- differences


def _components_from_others(checkpoints: Sequence[Checkpoint]) -> dict[str, int]:
    """Components that A lacks -> index of the first parent that has it."""
    found: dict[str, int] = {}
    for component in (*text_encoders(checkpoints[0].architecture), VAE):
        having = [index for index, checkpoint in enumerate(checkpoints) if component in checkpoint.components]
        if having and having[0] > 0:
            found[component] = having[0]
    return found


def _notes(checkpoints: Sequence[Checkpoint], homes: Mapping[str, int], taken: Mapping[str, int]) -> list[str]:
    names = letters(len(checkpoints))
    notes = [
        f"parent {letter} ({checkpoint.path.name}): {note}"
        for letter, checkpoint in zip(names, checkpoints, strict=True)
        for note in checkpoint.notes
    ]
    notes += [f"parent A has no {component}: {names[home]}'s is taken as it is" for component, home in taken.items()]
    for letter, other in _others(checkpoints):
        notes += _missing_notes(checkpoints[0], other, letter)
        notes += _extra_notes(other, letter, homes)
        notes += _channel_notes(checkpoints[0], other, letter)
    return notes + _ema_notes(checkpoints)


def _missing_notes(first: Checkpoint, other: Checkpoint, letter: str) -> list[str]:
    """Whole components are named as such, other keys by the first three."""
    architecture = first.architecture
    gone = [component for component in first.components if component not in other.components]
    notes = [f"{letter} has no {component}: parent A's stays" for component in gone]
    keys = sorted(
        key for key in first.tensors if key not in other.tensors and component_of(key, architecture) not in {EMA, *gone}
    )
    if keys:
        notes.append(f"{_tensors(keys)} not in {letter} and stay parent A's: {some(keys)}")
    return notes


def _extra_notes(other: Checkpoint, letter: str, homes: Mapping[str, int]) -> list[str]:
    keys = sorted(key for key in other.tensors if key not in homes and component_of(key, other.architecture) != EMA)
    marks = [key for key in keys if is_marker(key)]
    rest = [key for key in keys if not is_marker(key)]
    notes = []
    if marks:
        told = "the result is marked as A is, unless a study's `suite` says what it predicts"
        notes.append(f"{letter} is marked {', '.join(marks)} and A is not: {told}")
    if rest:
        notes.append(f"{_tensors(rest)} only in {letter} and left out: {some(rest)}")
    return notes


def _tensors(keys: Sequence[str]) -> str:
    return "1 tensor is" if len(keys) == 1 else f"{len(keys)} tensors are"


def _channel_notes(first: Checkpoint, other: Checkpoint, letter: str) -> list[str]:
    key = model_family(first.architecture).keys.first_convolution
    if key is None or key not in first.tensors or key not in other.tensors:
        return []
    own, wanted = other.tensors[key], first.tensors[key]
    if not _is_narrower(key, own, wanted):
        return []
    extended = "first convolution is extended by A's extra channels, which the merge leaves as they are"
    return [f"{letter} reads {own.shape[1]} input channels and A {wanted.shape[1]}: {letter}'s {extended}"]


def _ema_notes(checkpoints: Sequence[Checkpoint]) -> list[str]:
    counts = {
        letter: sum(component_of(key, checkpoint.architecture) == EMA for key in checkpoint.tensors)
        for letter, checkpoint in zip(letters(len(checkpoints)), checkpoints, strict=True)
    }
    having = [f"{count} of {letter}" for letter, count in counts.items() if count]
    return [f"EMA copies of the U-Net are left out: {', '.join(having)}"] if having else []


def is_marker(key: str) -> bool:
    """Whether a key says what the model predicts, instead of being one of its weights."""
    return key in MARKERS or key.startswith("edm_")
