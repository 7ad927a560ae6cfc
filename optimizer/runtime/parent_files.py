"""The parents' contents: their sha256, and the places in which they are equal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from optimizer.merging.files.checkpoint import letters
from optimizer.runtime.plan import Plan
from search_spaces.blocks import place_of, places
from studies.errors import StudyChangedError
from studies.records.values import ParentFile


def hash_parents(
    plan: Plan,
    known: Sequence[ParentFile] = (),
    progress: Callable[[int], None] | None = None,
    *,
    trust_times: bool = True,
) -> tuple[ParentFile, ...]:
    """Hash each parent.

    Args:
        known: the parents as they were hashed before.
        progress: called with the bytes of each chunk that was read.
        trust_times: whether a known file is taken as unchanged if its size and modification time are.

    Raises:
        StudyChangedError: a known parent has changed.
    """
    files = []
    by_letter = {parent.letter: parent for parent in known}
    for letter, checkpoint in zip(letters(len(plan.checkpoints)), plan.checkpoints, strict=True):
        size, mtime_ns = checkpoint.size_bytes, checkpoint.mtime_ns
        old = by_letter.get(letter)
        unchanged = trust_times and old is not None and (old.bytes, old.mtime_ns) == (size, mtime_ns)
        digest = old.sha256 if old and unchanged else checkpoint.hash(progress)
        if old is not None and digest != old.sha256:
            raise StudyChangedError(
                f"parent {letter} ({checkpoint.path}) is not the file the study began with: sha256 {digest[:10]}... "
                f"instead of {old.sha256[:10]}...; put the old file back, name the folder that the old one is in with "
                "--models FOLDER, or start a new study"
            )
        files.append(ParentFile(letter=letter, path=checkpoint.path, sha256=digest, bytes=size, mtime_ns=mtime_ns))
    return tuple(files)


def equal_places(plan: Plan) -> frozenset[str]:
    """Find the frozen places, often the VAE, in which all parents are equal, so that their ratio has no effect."""
    parents = plan.ingredients.parents
    fixed = {place for place, slot, _ in plan.space.fixed if slot in plan.space.ratio_slots}
    different: set[str] = set()
    for key in parents.tensors:
        place = place_of(key, parents.architecture)
        if place in fixed and place not in different and parents.is_merged(key):
            stored = parents.tensor(key, 0)
            if not all(_same(stored, parents.tensor(key, index)) for index in range(1, len(parents.checkpoints))):
                different.add(place)
    return frozenset(fixed & set(places(parents.architecture))) - different


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and bool(torch.equal(one, other))
