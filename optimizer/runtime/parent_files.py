"""The parents' contents: their sha256, and the places in which they are equal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from optimizer.merging.files.checkpoint import letters
from optimizer.merging.files.sources import sha256_of_model
from optimizer.runtime.digest_cache import DigestCache
from optimizer.runtime.plan import Plan
from search_spaces.blocks import place_of, places
from studies.errors import StudyChangedError
from studies.records.values import ParentFile


def hash_parents(
    plan: Plan,
    known: Sequence[ParentFile] = (),
    progress: Callable[[int], None] | None = None,
    *,
    digests: DigestCache | None = None,
) -> tuple[ParentFile, ...]:
    """Hash each parent, and the other files that are merged, which may not change from now on.

    Args:
        known: the parents as they were hashed before.
        progress: called with the bytes of each chunk of a parent that was read.
        digests: remembers what was hashed; None: every file is read.

    Raises:
        StudyChangedError: a known parent has changed.
        CheckpointError: a file has changed since it was opened.
    """
    digests = digests or DigestCache()
    files = []
    hashed: dict[Path, str] = {}  # those of parents

    def of_parent(file: Path) -> str:
        hashed[file] = digests.of_file(file, progress)
        return hashed[file]

    by_letter = {parent.letter: parent for parent in known}
    for letter, checkpoint in zip(letters(len(plan.checkpoints)), plan.checkpoints, strict=True):
        size, mtime_ns = checkpoint.size_bytes, checkpoint.mtime_ns
        old = by_letter.get(letter)
        digest = sha256_of_model(checkpoint.path, checkpoint.files, of_parent)
        if old is not None and digest != old.sha256:
            raise StudyChangedError(
                f"parent {letter} ({checkpoint.path}) is not the file the study began with: sha256 {digest[:10]}... "
                f"instead of {old.sha256[:10]}...; put the old file back, name the folder that the old one is in with "
                "--models FOLDER, or start a new study"
            )
        files.append(ParentFile(letter=letter, path=checkpoint.path, sha256=digest, bytes=size, mtime_ns=mtime_ns))
    if plan.ingredients.opened is not None:
        plan.ingredients.opened.remember(lambda file: hashed.get(file) or digests.of_file(file))
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
