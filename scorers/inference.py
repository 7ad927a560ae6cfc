"""Running a network so that the same image always gets the same number."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING

import torch

from scorers.memory import lacks_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

_log = logging.getLogger(__name__)

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


class Runner:
    """Runs one network on its device, over images in batches that the device's memory takes.

    Args:
        network: on the host. It is moved to the device for good, unless it takes turns.
        in_turns: whether it is on the device only while it is used; its weights stay in host memory beside.

    Attributes:
        most: images that go through at once; halved where they are too many, for all that comes later.
    """

    def __init__(self, network: torch.nn.Module, device: str = "cpu", *, in_turns: bool = False) -> None:
        self.device, self.most = device, BATCH_SIZE
        self._visitors: list[tuple[Tensor, Tensor]] = []  # each of the network's tensors, and its values on the host
        if in_turns:
            tensors = (*network.parameters(), *network.buffers())
            self._visitors = [(tensor, tensor.data) for tensor in tensors]
        else:
            network.to(device)

    @contextmanager
    def present(self) -> Iterator[None]:
        """Around what computes with the network; deterministic and in float32, see `repeatable`."""
        try:
            with torch.inference_mode(mode=False):  # a tensor that is made in it cannot become a parameter's values
                for tensor, values in self._visitors:
                    tensor.data = values.to(self.device)
            with repeatable():
                yield
        finally:
            for tensor, values in self._visitors:
                tensor.data = values

    def map(self, images: Sequence[Tensor], forward: Callable[[list[Tensor]], Tensor]) -> Tensor:
        """Rows of `forward`, [n, d] float32 on the CPU, in the order of `images`.

        The last bits of a row depend on what shares its batch, so after a halving all images go through again.

        Args:
            images: n >= 1 tensors [3, h, w]; sizes may differ, those of one size go through together.
            forward: at most `most` images of one size -> [b, d]. It also resizes and moves them to its device, so that
                never more than a batch of network inputs exists.

        Raises:
            RuntimeError, MemoryError: the memory does not even take one image.
        """
        most = self.most
        with self.present():
            while True:
                try:
                    rows = _map_batches(images, forward, most)
                    break
                except (RuntimeError, MemoryError) as error:
                    if not lacks_memory(error) or min(most, len(images)) == 1:
                        raise
                # Only here, where the error and all that its frames hold are gone, is there memory again.
                most = -(-min(most, len(images)) // 2)
                torch.cuda.empty_cache()  # does nothing where no card is in use
        if most < self.most:
            self.most = most  # only what was enough: another program may have held the memory for a moment
            _log.warning("out of memory: a scorer's network takes %d images at once from now on", most)
        return rows


def _map_batches(images: Sequence[Tensor], forward: Callable[[list[Tensor]], Tensor], most: int) -> Tensor:
    order = sorted(range(len(images)), key=lambda index: tuple(images[index].shape))
    rows: dict[int, Tensor] = {}
    for _, same_size in groupby(order, key=lambda index: tuple(images[index].shape)):
        indices = list(same_size)
        for start in range(0, len(indices), most):
            batch = indices[start : start + most]
            output = forward([images[index] for index in batch]).float().cpu()
            rows.update(zip(batch, output, strict=True))
    return torch.stack([rows[index] for index in range(len(images))])
