"""The checkpoints that compete: opened by their headers, checked against each other, hashed and named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from basics.messages import counted
from optimizer.bracket.checkpoint_files import ListedFile, require_several
from optimizer.errors import BracketError, CheckpointError
from optimizer.families.registry import model_family
from optimizer.merging.files.change_guard import OpenedFiles
from optimizer.merging.files.checkpoint import Checkpoint, component_of, model_name
from optimizer.merging.files.parents import Parents
from optimizer.merging.files.sources import sha256_of_model
from optimizer.runtime.digest_cache import DigestCache
from search_spaces.blocks import UNET

NAMED: Final = 3  # files that a message names


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A checkpoint in a bracket."""

    number: int  # from 1, in the order in which they were given
    name: str  # which no other has
    checkpoint: Checkpoint
    sha256: str
    opened: OpenedFiles  # its files as they were before they were hashed


@dataclass(frozen=True, kw_only=True)
class FoundCheckpoints:
    """The checkpoints among files."""

    checkpoints: tuple[Checkpoint, ...]
    left_out: tuple[str, ...]  # what of folders is no checkpoint, with the reason


def open_checkpoints(files: Sequence[ListedFile]) -> FoundCheckpoints:
    """Open files by their headers.

    Models in a folder that are no checkpoints, such as LoRAs, are left out. One that is named itself is refused.

    Raises:
        CheckpointError: a file is missing, damaged, or named and no checkpoint.
    """
    checkpoints, left_out = list[Checkpoint](), list[str]()
    for file in files:
        checkpoint = Checkpoint.open(file.path)
        try:
            _require_model(checkpoint)
        except CheckpointError as error:
            if file.named:
                raise
            left_out.append(str(error))
        else:
            checkpoints.append(checkpoint)
    return FoundCheckpoints(checkpoints=tuple(checkpoints), left_out=tuple(left_out))


def _require_model(checkpoint: Checkpoint) -> None:
    """Refuse a file without a U-Net. One that lacks a few tensors is refused for that later.

    Raises:
        CheckpointError: it is of no known family, or has hardly a tensor of a U-Net, as a LoRA of such names.
    """
    architecture = checkpoint.architecture
    essential = model_family(architecture).keys.essential
    unet = [key for key in essential if component_of(key, architecture) == UNET]
    if 2 * sum(key in checkpoint.tensors for key in unet) < len(unet):
        raise CheckpointError(f"{checkpoint.path.name}: it has no U-Net, so it is no checkpoint that can be rendered")


# ------------------------------------------------------------------------------------------ checks


def require_alike(checkpoints: Sequence[Checkpoint]) -> None:
    """Refuse checkpoints that cannot be merged with each other: the winners are to be the parents of a search.

    Raises:
        BracketError: there are fewer than two, or they are of several architectures.
        CheckpointError: shapes differ, or a U-Net is incomplete.
    """
    require_several(len(checkpoints))
    _require_one_architecture(checkpoints)
    first, *others = checkpoints
    for other in others:
        Parents.of([first, other])


def _require_one_architecture(checkpoints: Sequence[Checkpoint]) -> None:
    kinds = Counter(checkpoint.architecture for checkpoint in checkpoints)
    usual = checkpoints[0].architecture if len(set(kinds.values())) == 1 else kinds.most_common(1)[0][0]
    others = [checkpoint for checkpoint in checkpoints if checkpoint.architecture != usual]
    if others:
        named = ", ".join(f"{other.path.name} is {other.architecture}" for other in others[:NAMED])
        more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
        raise BracketError(
            f"all checkpoints of a bracket are of one architecture, and {named}{more}, while "
            f"{counted(kinds[usual], 'other')} {'is' if kinds[usual] == 1 else 'are'} {usual}: leave them out"
        )


def contestants_of(
    checkpoints: Sequence[Checkpoint], digests: DigestCache, progress: Callable[[int], None] | None = None
) -> tuple[Contestant, ...]:
    """Hash the checkpoints, and number and name them.

    Args:
        progress: called with the bytes of each chunk that was read.

    Raises:
        BracketError: two are the same.
    """
    opened = [OpenedFiles.now({f"checkpoint {each.path.name}": each.files}) for each in checkpoints]
    hashed: dict[str, Checkpoint] = {}
    for checkpoint in checkpoints:
        digest = sha256_of_model(checkpoint.path, checkpoint.files, lambda file: digests.of_file(file, progress))
        if digest in hashed:
            raise BracketError(
                f"{hashed[digest].path} and {checkpoint.path} hold the same, so neither can win: leave one of them out"
            )
        hashed[digest] = checkpoint
    names = _names([checkpoint.path for checkpoint in checkpoints])
    return tuple(
        Contestant(number=number, name=name, checkpoint=checkpoint, sha256=digest, opened=files)
        for number, (name, (digest, checkpoint), files) in enumerate(
            zip(names, hashed.items(), opened, strict=True), start=1
        )
    )


def _names(paths: Sequence[Path]) -> list[str]:
    """Return a name for each path: that of the model, with its folder or its suffix where several have it."""
    for name_of in (model_name, lambda path: path.name, lambda path: f"{path.resolve().parent.name}/{path.name}"):
        names = [name_of(path) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]
