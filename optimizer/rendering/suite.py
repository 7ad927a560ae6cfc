"""The suite's items on their way through the pipeline: stages, groups of one size, cut into batches, with their noise.

An item's noise comes from a CPU generator seeded with the item's seed: it depends on nothing else, so it is the
same in every trial, on every device, in every batch and order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from types import MappingProxyType

import torch
from torch import Tensor

from studies.spec.suite import SuiteItem, SuiteSettings

LATENT_FACTOR = 8  # pixels a latent cell covers, in SD1.5 and SDXL alike


def stages(suite: SuiteSettings, size: int | None) -> tuple[tuple[SuiteItem, ...], ...]:
    """Groups of items after each of which a trial may end, in item order within each; every item once.

    A render's last bits depend on what shares its batch, and a batch never crosses a stage: so what was rendered is
    the same whether a trial goes on or not. The shuffle follows from the suite alone, by a hash, which unlike a
    random generator is the same in every version of every library.

    Args:
        size: items of a stage, the last may have fewer; None renders everything in one stage.
    """
    items = suite.items()
    if size is None:
        return (items,)
    digest = suite.digest
    shuffled = sorted(items, key=lambda item: hashlib.sha256(f"{digest} {item.index}".encode()).digest())
    cuts = [shuffled[start : start + size] for start in range(0, len(shuffled), size)]
    return tuple(tuple(sorted(cut, key=lambda item: item.index)) for cut in cuts)


def batches(
    items: Sequence[SuiteItem], batch_size: int | None, most: Mapping[tuple[int, int], int] = MappingProxyType({})
) -> Iterator[list[SuiteItem]]:
    """Items of one size together, in batches; every item once.

    Args:
        batch_size: images at once; None takes what fits a usual GPU: 8 at 512 x 512, more when smaller.
        most: (width, height) -> images at once that fit this one.
    """
    by_size = sorted(items, key=lambda item: (item.width, item.height))  # stable: order within a size stays
    for (width, height), group in groupby(by_size, key=lambda item: (item.width, item.height)):
        same = list(group)
        size = batch_size or usual_batch(width, height)
        size = min(size, most.get((width, height), size))
        for start in range(0, len(same), size):
            yield same[start : start + size]


def usual_batch(width: int, height: int) -> int:
    return max(1, min(64, 8 * 512 * 512 // (width * height)))


def noise(item: SuiteItem, channels: int) -> tuple[Tensor, torch.Generator]:
    """First latent noise [channels, h / 8, w / 8] float32, and the generator for what a sampler draws later."""
    generator = torch.Generator("cpu").manual_seed(item.seed)
    shape = (channels, item.height // LATENT_FACTOR, item.width // LATENT_FACTOR)
    return torch.randn(shape, generator=generator), generator
