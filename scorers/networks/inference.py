"""Inference that is repeatable: the same image always gets the same number."""

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

#: Largest batch of a scoring network. It bounds the memory, whatever the size of the suite.
BATCH_SIZE = 16


@contextmanager
def repeatable() -> Iterator[None]:
    """Run a scoring network without gradients, in full float32, with deterministic kernels.

    Scores are compared to the third digit, between trials that ran weeks apart and on different workers. TF32 and half
    precision differ by more than that between generations of GPUs, and the renderer may have enabled both. So they are
    disabled here, and the renderer's settings are restored afterwards.
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
    """A network on its device, which processes images in batches that fit into the device's memory.

    Args:
        network: on the host. It is moved to the device permanently, unless `in_turns` is set.
        in_turns: move the network to the device only while it is used; its weights also stay in host memory.

    Attributes:
        batch_size: largest batch; it is halved, from then on, when memory does not suffice.
    """

    def __init__(self, network: torch.nn.Module, device: str = "cpu", *, in_turns: bool = False) -> None:
        self.device, self.batch_size = device, BATCH_SIZE
        self._host_values: list[tuple[Tensor, Tensor]] = []  # (tensor of the network, its values on the host)
        if in_turns:
            tensors = (*network.parameters(), *network.buffers())
            self._host_values = [(tensor, tensor.data) for tensor in tensors]
        else:
            network.to(device)

    @contextmanager
    def on_device(self) -> Iterator[None]:
        """Hold the network on the device, with deterministic kernels in float32 (see `repeatable`)."""
        try:
            with torch.inference_mode(mode=False):  # a tensor made in inference mode cannot become a parameter's data
                for tensor, values in self._host_values:
                    tensor.data = values.to(self.device)
            with repeatable():
                yield
        finally:
            for tensor, values in self._host_values:
                tensor.data = values

    def map(self, images: Sequence[Tensor], forward: Callable[[list[Tensor]], Tensor]) -> Tensor:
        """Apply `forward` in batches: float32 [n, d] on the CPU, in the order of `images`.

        The last bits of a row depend on the other images in its batch, so after a halving all images are processed
        again.

        Args:
            images: n >= 1 tensors [3, h, w]; sizes may differ, and a batch holds images of one size.
            forward: at most `batch_size` images of one size -> [b, d]. It also preprocesses them and moves them to the
                device, so that no more than one batch of network input exists.

        Raises:
            RuntimeError: memory does not suffice for a single image, or `forward` fails.
            MemoryError: memory does not suffice for a single image.
        """
        return self.map_numbers(images, lambda numbers: forward([images[number] for number in numbers]))

    def map_numbers(self, images: Sequence[Tensor], forward: Callable[[list[int]], Tensor]) -> Tensor:
        """Apply `forward` as `map` does, to the numbers of the images of a batch, counted from 0.

        It is for networks that need more of each image than its pixels, such as its prompt.
        """
        batch_size = self.batch_size
        with self.on_device():
            while True:
                try:
                    rows = _map_batches(images, forward, batch_size)
                    break
                except (RuntimeError, MemoryError) as error:
                    if not lacks_memory(error) or min(batch_size, len(images)) == 1:
                        raise
                # The memory is free only outside the except block, once the error and its frames are gone.
                batch_size = -(-min(batch_size, len(images)) // 2)
                torch.cuda.empty_cache()  # does nothing if CUDA is not in use
        if batch_size < self.batch_size:
            self.batch_size = batch_size  # set only after success: another program may have held the memory briefly
            _log.warning("out of memory: a scorer's network processes %d images at once from now on", batch_size)
        return rows


def _map_batches(images: Sequence[Tensor], forward: Callable[[list[int]], Tensor], batch_size: int) -> Tensor:
    """Apply `forward` to batches of images of one size: float32 [n, d] on the CPU, in the order of `images`."""
    order = sorted(range(len(images)), key=lambda index: tuple(images[index].shape))
    rows: dict[int, Tensor] = {}
    for _, same_size in groupby(order, key=lambda index: tuple(images[index].shape)):
        indices = list(same_size)
        for start in range(0, len(indices), batch_size):
            batch = indices[start : start + batch_size]
            output = forward(batch).float().cpu()
            rows.update(zip(batch, output, strict=True))
    return torch.stack([rows[index] for index in range(len(images))])
