"""The parents of a merge, read key by key as if all had parent A's layout.

Differences between parents, and tensors that only some have, are handled here once, so that the two executors of a
merge see parents that agree. The merged result has A's keys in A's dtypes and shapes, without EMA copies, and the whole
components (a VAE, a text encoder) that A lacks and another parent has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import torch
from torch import Tensor

from basics.messages import counted
from optimizer.errors import CheckpointError, ParentsDifferError
from optimizer.families.registry import model_families, model_family
from optimizer.merging.files.checkpoint import Checkpoint, component_of, is_mergeable, letters
from optimizer.merging.files.layout import is_live
from optimizer.merging.files.sources import TensorInfo, abbreviated
from search_spaces.blocks import EMA, UNET, VAE, Architecture, text_encoders

MARKERS = frozenset({"v_pred", "ztsnr"})  # tensors whose presence alone says what a model predicts
PLAIN_CHANNELS = 4  # of a latent; inpainting models read 9 channels, InstructPix2Pix models 8


class Parents:
    """Opened checkpoints of one architecture, parent A first; created by `Parents.of`.

    Attributes:
        checkpoints: in the order of the parents.
        tensors: the keys of the merged result with A's dtype and shape, in A's order, then those of the components
            that A lacks, as stored by the first parent that has them.
        notes: the notes of each checkpoint, then one line for everything that is kept, left out, taken from another
            parent or extended.
    """

    def __init__(self, checkpoints: Sequence[Checkpoint], homes: Mapping[str, int], notes: Sequence[str]) -> None:
        self.checkpoints = tuple(checkpoints)
        self.tensors: Mapping[str, TensorInfo] = {key: checkpoints[home].tensors[key] for key, home in homes.items()}
        self.notes = tuple(notes)
        self._homes = homes  # key -> index of the parent whose values are kept where no ratio applies
        self._merged = frozenset(key for key in homes if self._can_merge(key))

    @classmethod
    def of(cls, checkpoints: Sequence[Checkpoint]) -> Parents:
        """Check that checkpoints can be merged with each other, and choose where each tensor of the result comes from.

        Raises:
            ParentsDifferError: architectures or shapes differ (the first three keys are named).
            CheckpointError: one of them is of no known family.
        """
        first = checkpoints[0]
        for letter, other in _others(checkpoints):
            _require_same_architecture(first, other, letter)
        _require_whole_unets(checkpoints)
        checkpoints, incomplete = _without_incomplete(checkpoints)
        first = checkpoints[0]
        homes = {key: 0 for key in first.tensors if component_of(key, first.architecture) != EMA}
        added_components = _components_from_others(checkpoints)
        for component, home in added_components.items():
            owner = checkpoints[home]
            homes |= {key: home for key in owner.tensors if component_of(key, owner.architecture) == component}
        for letter, other in _others(checkpoints):
            _require_same_shapes(first, other, letter)
        return cls(checkpoints, homes, [*incomplete, *_notes(checkpoints, homes, added_components)])

    def without(self, component: str, note: str) -> Parents:
        """Return the same parents as if none had a component.

        Args:
            note: says why.
        """
        homes = {key: home for key, home in self._homes.items() if component_of(key, self.architecture) != component}
        checkpoints = [checkpoint.without(component) for checkpoint in self.checkpoints]
        return Parents(checkpoints, homes, [*self.notes, note])

    def live_keys(self, component: str) -> frozenset[str]:
        """Return the keys of the result whose tensors a component's live model has."""
        return live_keys(self.tensors, self.architecture).get(component, frozenset())

    @property
    def first(self) -> Checkpoint:
        """Parent A."""
        return self.checkpoints[0]

    @property
    def architecture(self) -> Architecture:
        return self.first.architecture

    def is_merged(self, key: str) -> bool:
        """Return whether a ratio applies: every parent has floating-point weights of a block or component there."""
        return key in self._merged

    def _can_merge(self, key: str) -> bool:
        return all(
            key in parent.tensors and is_mergeable(key, parent.tensors[key], self.architecture)
            for parent in self.checkpoints
        )

    def info(self, key: str, index: int) -> TensorInfo:
        """Return dtype and shape of what `tensor` gives: the parent's own dtype, the result's shape.

        Args:
            index: of the parent.

        Raises:
            KeyError: that parent has no such tensor.
        """
        own, result = self.checkpoints[index].tensors[key], self.tensors[key]
        if _is_narrower(key, own, result):
            return TensorInfo(_common_dtype(own.dtype, result.dtype), result.shape)
        return TensorInfo(own.dtype, result.shape)

    def tensor(self, key: str, index: int) -> Tensor:
        """Read a parent's values for a key of the result, in the result's shape, on the CPU.

        Where A is an inpainting or InstructPix2Pix model, a plain model's first convolution is extended by A's extra
        channels. Any weighted mean then gives A's values there, and any difference is zero. The dtype is then one that
        holds both parents' values exactly.

        Args:
            index: of the parent.

        Raises:
            KeyError: that parent has no such tensor.
        """
        info = self.info(key, index)
        stored = self.checkpoints[index].tensor(key)
        own, result = self.checkpoints[index].tensors[key], self.tensors[key]
        if not _is_narrower(key, own, result):
            return stored.view(result.shape)
        extra = self.kept(key)[:, own.shape[1] :]
        return torch.cat([stored.to(info.dtype), extra.to(info.dtype)], dim=1)

    def home(self, key: str) -> int:
        """Return the index of the parent whose values are used where nothing is merged."""
        return self._homes[key]

    def kept(self, key: str) -> Tensor:
        """Read the values used where nothing is merged: A's, or those of the parent that provides the component."""
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


def _is_narrower(key: str, own: TensorInfo, result: TensorInfo) -> bool:
    """Return whether this is a plain model's first convolution, and the result's has more input channels."""
    if key not in _first_convolutions() or len(own.shape) != 4 or len(result.shape) != 4:
        return False
    same_otherwise = (own.shape[0], *own.shape[2:]) == (result.shape[0], *result.shape[2:])
    return same_otherwise and own.shape[1] == PLAIN_CHANNELS < result.shape[1]


@cache
def _first_convolutions() -> frozenset[str | None]:
    """Return the keys of the first convolution in files of any family."""
    return frozenset(family.keys.first_convolution for family in model_families())


def _common_dtype(one: torch.dtype, other: torch.dtype) -> torch.dtype:
    """Return a dtype that holds the values of both exactly."""
    if one == other:
        return one
    return torch.float64 if torch.float64 in {one, other} else torch.float32


def _shape(info: TensorInfo) -> str:
    return "x".join(map(str, info.shape)) or "a number"


# ----------------------------------------------------------------------------------------- differences


def _require_whole_unets(checkpoints: Sequence[Checkpoint]) -> None:
    for letter, checkpoint in zip(letters(len(checkpoints)), checkpoints, strict=True):
        lacking = [key for key in checkpoint.lacking if component_of(key, checkpoint.architecture) == UNET]
        if lacking:
            raise CheckpointError(
                f"parent {letter} ({checkpoint.path.name}) has an incomplete U-Net, without {abbreviated(lacking)}: "
                "get the whole file again"
            )


def _without_incomplete(checkpoints: Sequence[Checkpoint]) -> tuple[list[Checkpoint], list[str]]:
    """Take away text encoders and VAEs that lack tensors which another parent's or every model's have.

    Each is then taken whole from another parent.

    Returns:
        The checkpoints without them, and a note on each.

    Raises:
        CheckpointError: no parent's text encoder is whole.
    """
    found, notes = list(checkpoints), list[str]()
    architecture = checkpoints[0].architecture
    live = [live_keys(checkpoint.tensors, architecture) for checkpoint in checkpoints]
    essential = {key for checkpoint in checkpoints for key in checkpoint.lacking}
    for component in (*text_encoders(architecture), VAE):
        own = [keys.get(component, frozenset()) for keys in live]
        largest = max(own, key=len)
        lacking = {key for key in essential if component_of(key, architecture) == component}
        whole = largest | lacking
        if component == VAE and whole not in own and lacking:  # it may be given beside the parents
            notes.append(f"no parent has a whole vae (without {abbreviated(sorted(lacking))}): give one with `vae:`")
            whole = largest
        for index, letter in enumerate(letters(len(checkpoints))):
            missing = sorted(whole - own[index])
            if missing and component in checkpoints[index].components:
                found[index] = found[index].without(component)
                count = f"{len(own[index])} of {len(largest)} tensors, " if len(own[index]) < len(largest) else ""
                notes.append(
                    f"{letter}'s {component} is incomplete ({count}without {abbreviated(missing)}) and is not used"
                )
        _require_one(component, checkpoints, found, notes)
    return found, notes


def _require_one(component: str, before: Sequence[Checkpoint], now: Sequence[Checkpoint], notes: Sequence[str]) -> None:
    """Refuse parents of which some have a text encoder, and none a whole one. A VAE can be given beside them."""
    had, has = (any(component in checkpoint.components for checkpoint in some) for some in (before, now))
    if component != VAE and had and not has:
        raise CheckpointError(f"no parent has a whole {component}: {'; '.join(notes)}; get a whole file")


def live_keys(tensors: Mapping[str, TensorInfo], architecture: Architecture) -> dict[str, frozenset[str]]:
    """Return component -> keys of the tensors that its live model has, without those that files may lack."""
    spare = model_family(architecture).keys.spare
    by_component: dict[str, set[str]] = {}
    for key, info in tensors.items():
        if is_live(key, architecture, len(info.shape)) and not (spare and spare.match(key)):
            by_component.setdefault(component_of(key, architecture), set()).add(key)
    return {component: frozenset(keys) for component, keys in by_component.items()}


def _components_from_others(checkpoints: Sequence[Checkpoint]) -> dict[str, int]:
    """Return each component that A lacks -> index of the first parent that has it."""
    homes: dict[str, int] = {}
    for component in (*text_encoders(checkpoints[0].architecture), VAE):
        owners = [index for index, checkpoint in enumerate(checkpoints) if component in checkpoint.components]
        if owners and owners[0] > 0:
            homes[component] = owners[0]
    return homes


def _notes(
    checkpoints: Sequence[Checkpoint], homes: Mapping[str, int], added_components: Mapping[str, int]
) -> list[str]:
    """Return the notes of all checkpoints, and those on how they differ.

    Args:
        homes: key of the result -> index of the parent that keeps it.
        added_components: component that A lacks -> index of the parent that provides it.
    """
    names = letters(len(checkpoints))
    notes = [
        f"parent {letter} ({checkpoint.path.name}): {note}"
        for letter, checkpoint in zip(names, checkpoints, strict=True)
        for note in checkpoint.notes
    ]
    notes += [
        f"parent A has no {component}: {names[home]}'s is taken as it is"
        for component, home in added_components.items()
    ]
    for letter, other in _others(checkpoints):
        notes += _missing_notes(checkpoints[0], other, letter)
        notes += _extra_notes(other, letter, homes)
        notes += _channel_notes(checkpoints[0], other, letter)
    return notes + _ema_notes(checkpoints)


def _missing_notes(first: Checkpoint, other: Checkpoint, letter: str) -> list[str]:
    """Name what `other` lacks: whole components as such, other keys by the first three."""
    architecture = first.architecture
    missing = [component for component in first.components if component not in other.components]
    notes = [f"{letter} has no {component}: parent A's stays" for component in missing]
    keys = sorted(
        key
        for key in first.tensors
        if key not in other.tensors and component_of(key, architecture) not in {EMA, *missing}
    )
    if keys:
        notes.append(f"{_tensors(keys)} not in {letter} and stay parent A's: {abbreviated(keys)}")
    return notes


def _extra_notes(other: Checkpoint, letter: str, homes: Mapping[str, int]) -> list[str]:
    keys = sorted(key for key in other.tensors if key not in homes and component_of(key, other.architecture) != EMA)
    markers = [key for key in keys if is_marker(key)]
    rest = [key for key in keys if not is_marker(key)]
    notes = []
    if markers:
        consequence = "the result is marked as A is, unless a study's `suite` says what it predicts"
        notes.append(f"{letter} is marked {', '.join(markers)} and A is not: {consequence}")
    if rest:
        notes.append(f"{_tensors(rest)} only in {letter} and left out: {abbreviated(rest)}")
    return notes


def _tensors(keys: Sequence[str]) -> str:
    return counted(len(keys), "tensor is", "tensors are")


def _channel_notes(first: Checkpoint, other: Checkpoint, letter: str) -> list[str]:
    key = model_family(first.architecture).keys.first_convolution
    if key is None or key not in first.tensors or key not in other.tensors:
        return []
    own, result = other.tensors[key], first.tensors[key]
    if not _is_narrower(key, own, result):
        return []
    extended = "first convolution is extended by A's extra channels, which the merge leaves as they are"
    return [f"{letter} reads {own.shape[1]} input channels and A {result.shape[1]}: {letter}'s {extended}"]


def _ema_notes(checkpoints: Sequence[Checkpoint]) -> list[str]:
    counts = {
        letter: sum(component_of(key, checkpoint.architecture) == EMA for key in checkpoint.tensors)
        for letter, checkpoint in zip(letters(len(checkpoints)), checkpoints, strict=True)
    }
    by_parent = [f"{count} of {letter}" for letter, count in counts.items() if count]
    return [f"EMA copies of the U-Net are left out: {', '.join(by_parent)}"] if by_parent else []


def is_marker(key: str) -> bool:
    """Return whether a key says what the model predicts, instead of being one of its weights."""
    return key in MARKERS or key.startswith("edm_")
