"""Running a network so that the same image always gets the same number."""

from __future__ import annotations

from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

#: Images that go through a scoring network at once: bounds memory, whatever the size of the suite.
BATCH_SIZE = 16


@contextmanager
def repeatable() -> Iterator[None]:
    """No gradients, full float32, deterministic kernels: for the forward of a scoring network.

    Scores of trials that lie weeks and workers apart are compared in the third digit. TF32 and half precision
    differ between GPU generations by more than that, and the renderer may have allowed both for itself; so
    they are shut out here and the renderer's settings are put back afterwards.
    """
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with (
            torch.no_grad(),
            torch.autocast("cpu", enabled=False),
            torch.autocast("cuda", enabled=False),
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


def map_batches(images: Sequence[Tensor], forward: Callable[[list[Tensor]], Tensor]) -> Tensor:
    """Rows of `forward`, [n, d] float32 on the CPU, in the order of `images`.

    Args:
        images: n >= 1 tensors [3, h, w]; sizes may differ, those of one size go through together.
        forward: at most BATCH_SIZE images of one size -> [b, d]. It also resizes and moves them to its device,
            so that never more than a batch of network inputs exists.
    """
    order = sorted(range(len(images)), key=lambda index: tuple(images[index].shape))
    rows: dict[int, Tensor] = {}
    with repeatable():
        for _, same_size in groupby(order, key=lambda index: tuple(images[index].shape)):
            indices = list(same_size)
            for start in range(0, len(indices), BATCH_SIZE):
                batch = indices[start : start + BATCH_SIZE]
                output = forward([images[index] for index in batch]).float().cpu()
                rows.update(zip(batch, output, strict=True))
    return torch.stack([rows[index] for index in range(len(images))])
