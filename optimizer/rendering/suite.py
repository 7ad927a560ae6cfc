"""The suite's items in the order of rendering: stages, divided into batches of one size and one sampling."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from types import MappingProxyType

from studies.spec.samplers import Sampling
from studies.spec.suite import SuiteItem, SuiteSettings

LATENT_FACTOR = 8  # side of the square of pixels that a latent cell covers, in SD1.5 and SDXL


def stages(suite: SuiteSettings, size: int | None, order: str | None = None) -> tuple[tuple[SuiteItem, ...], ...]:
    """Divide the items into stages, after each of which a trial may be stopped; in item order within each stage.

    A render's last bits depend on the other images of its batch, and a batch never spans two stages. So renders are the
    same whether a trial continues or not. The shuffle depends on the suite alone, as it was when its study began: it
    uses a hash, because a random generator may change with a library's version.

    Args:
        size: items of a stage, of which the last may have fewer; None renders everything in one stage.
        order: what decides the shuffle; None: the suite's digest.
    """
    items = suite.items()
    if size is None:
        return (items,)
    order = order or suite.digest
    shuffled = sorted(items, key=lambda item: hashlib.sha256(f"{order} {item.index}".encode()).digest())
    chunks = [shuffled[start : start + size] for start in range(0, len(shuffled), size)]
    return tuple(tuple(sorted(chunk, key=lambda item: item.index)) for chunk in chunks)


def alike_together(
    stages: Sequence[Sequence[SuiteItem]], kinds: Mapping[int, Hashable]
) -> tuple[tuple[tuple[SuiteItem, ...], ...], ...]:
    """Divide the items of each stage by their kind; the kind with which the stage before ended comes first.

    Args:
        kinds: index of an item -> its kind.
    """
    divided, before = [], None
    for stage in stages:
        groups: dict[Hashable, list[SuiteItem]] = {}
        for item in stage:
            groups.setdefault(kinds[item.index], []).append(item)
        order = sorted(groups, key=lambda kind, before=before: kind != before)  # type: ignore[misc]
        before = order[-1]
        divided.append(tuple(tuple(groups[kind]) for kind in order))
    return tuple(divided)


def batches(
    items: Sequence[SuiteItem],
    batch_size: int | None,
    most: Mapping[tuple[int, int], int] = MappingProxyType({}),
    tokens: Mapping[int, Hashable] = MappingProxyType({}),
) -> Iterator[list[SuiteItem]]:
    """Divide items into batches of one size, one sampling and one length of prompts; every item is in exactly one.

    Args:
        batch_size: images in a batch; None takes `usual_batch`.
        most: width and height of the image -> limit of this device; no limit for other sizes.
        tokens: index of an item -> tokens of its prompts in each pass; those that are missing are equally long.
    """
    groups: dict[tuple[int, int, Sampling, Hashable], list[SuiteItem]] = {}
    for item in sorted(items, key=lambda item: (item.width, item.height)):  # stable: keeps the order within a size
        groups.setdefault((item.width, item.height, item.sampling, tokens.get(item.index)), []).append(item)
    for same in groups.values():
        of_image = same[0].image_size
        size = batch_size or usual_batch(*of_image)
        size = min(size, most.get(of_image, size))
        for start in range(0, len(same), size):
            yield same[start : start + size]


def usual_batch(width: int, height: int) -> int:
    """Return how many images fit an average GPU: 8 at 512 x 512, more if they are smaller, at most 64."""
    return max(1, min(64, 8 * 512 * 512 // (width * height)))
