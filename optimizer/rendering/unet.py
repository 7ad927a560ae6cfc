"""The U-Net's call: kernel by kernel, or all kernels at once from a CUDA graph.

A step launches thousands of kernels. Where the GPU computes them faster than Python launches them, it waits. A CUDA
graph is a recording of a call's kernels that is launched as one. It reads the weights where they lie, and a resident
merge changes them in place, so a graph recorded before a merge is right after it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from basics.messages import first_line
from optimizer.rendering.guidance import attentions_of, identity_attention

WARM_UPS = 2  # calls before a recording: libraries choose kernels and allocate workspaces at the first ones
CALLED_WITH = ("x", "time", "text")  # what every U-Net is given; other inputs are SDXL's added conditions
MOST_GRAPHS = 32  # for as many input shapes; a suite has a few: sizes, lengths of prompts, the last batch

Layers = tuple[str, ...]

_log = logging.getLogger(__name__)


class UnetCall(Protocol):
    """A U-Net as the denoiser calls it."""

    def __call__(
        self, x: Tensor, time: Tensor, text: Tensor, added: Mapping[str, Tensor], perturbed: Layers = ()
    ) -> Tensor:
        """Return the U-Net's output [n, c, h, w], which the next call may overwrite.

        Args:
            x: scaled noisy latents [n, c, h, w], extra channels included, in the U-Net's dtype.
            time: [n] float32.
            text: embedded prompts [n, tokens, width].
            added: diffusers' `added_cond_kwargs`, empty for architectures without them.
            perturbed: layers whose self-attention is the identity in this call, as `PagSettings` names them.
        """

    def release(self) -> bool:
        """Free what calls keep on the device, for good, and return whether there was any."""


@contextmanager
def fp16_accumulation() -> Iterator[None]:
    """Sum fp16 matrix products in fp16 in this block, instead of in float32; other dtypes stay as they are.

    https://docs.pytorch.org/docs/stable/notes/cuda.html#full-fp16-accmumulation-in-fp16-gemms
    """
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_fp16_accumulation
    matmul.allow_fp16_accumulation = True
    try:
        yield
    finally:
        matmul.allow_fp16_accumulation = before


class LaunchedUnet:
    """A U-Net whose kernels are launched one by one. Implements `UnetCall`.

    Args:
        accumulates_in_fp16: whether its fp16 matrix products are summed in fp16.
    """

    def __init__(self, unet: UNet2DConditionModel, *, accumulates_in_fp16: bool = False) -> None:
        self._unet = unet
        self._sums = fp16_accumulation if accumulates_in_fp16 else nullcontext
        self._attentions: dict[Layers, tuple[Any, ...]] = {(): ()}  # of layers that were asked for so far

    def __call__(
        self, x: Tensor, time: Tensor, text: Tensor, added: Mapping[str, Tensor], perturbed: Layers = ()
    ) -> Tensor:
        """Compute the output."""
        kwargs: dict[str, Any] = {"added_cond_kwargs": dict(added)} if added else {}
        if perturbed not in self._attentions:
            self._attentions[perturbed] = attentions_of(self._unet, perturbed)
        with self._sums(), identity_attention(self._attentions[perturbed]):
            output: Tensor = self._unet(x, time, encoder_hidden_states=text, return_dict=False, **kwargs)[0]
        return output

    def release(self) -> bool:
        """Return that nothing is kept."""
        return False


class GraphedUnet:
    """A U-Net on a GPU that records a graph for each set of input shapes and layers. Implements `UnetCall`.

    A graph is used only if its first output equals that of launched kernels to the bit. Where it does not, or where
    recording fails, kernels are launched.

    Args:
        accumulates_in_fp16: as for `LaunchedUnet`.
    """

    def __init__(self, unet: UNet2DConditionModel, *, accumulates_in_fp16: bool = False) -> None:
        self._launched = LaunchedUnet(unet, accumulates_in_fp16=accumulates_in_fp16)
        self._device = unet.device
        self._graphs: dict[tuple[object, ...], _Graph | None] = {}  # None: kernels are launched for these
        self._pool: Any = None  # of memory, which all graphs share: only one runs at a time
        self._records = True

    @torch.inference_mode()
    def __call__(
        self, x: Tensor, time: Tensor, text: Tensor, added: Mapping[str, Tensor], perturbed: Layers = ()
    ) -> Tensor:
        """Compute the output by a graph, if there is or can be one."""
        inputs = {"x": x, "time": time, "text": text, **added}
        key = perturbed, *((name, tensor.shape, tensor.dtype) for name, tensor in inputs.items())
        if key not in self._graphs and self._records and len(self._graphs) < MOST_GRAPHS:
            self._graphs[key] = self._record(inputs, perturbed)
        graph = self._graphs.get(key)
        return self._launched(x, time, text, added, perturbed) if graph is None else graph.replay(inputs)

    def release(self) -> bool:
        """Free all graphs, and record none any more."""
        kept = any(graph is not None for graph in self._graphs.values())
        self._graphs.clear()
        self._pool, self._records = None, False
        return kept

    def _record(self, inputs: Mapping[str, Tensor], perturbed: Layers) -> _Graph | None:
        """Record a graph; return None if that fails, or if its output is another one."""
        try:
            with torch.cuda.device(self._device):
                self._pool = self._pool or torch.cuda.graph_pool_handle()
                graph, expected = _record(partial(self._launched, perturbed=perturbed), inputs, self._pool)
                same = torch.equal(graph.replay(inputs), expected)
        except RuntimeError as error:  # a lack of memory included: launched kernels need less
            _log.info("the U-Net's kernels are launched one by one: %s", first_line(error))
            self._pool = None  # it may belong to the recording that failed
            return None
        if not same:
            _log.info("the U-Net's kernels are launched one by one: a graph of them has another output")
        return graph if same else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Graph:
    """A recorded call with the tensors that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    inputs: Mapping[str, Tensor]
    output: Tensor

    def replay(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Compute the output for inputs of the recorded shapes."""
        for name, tensor in inputs.items():
            self.inputs[name].copy_(tensor)
        self.graph.replay()
        return self.output


def _record(call: Callable[..., Tensor], inputs: Mapping[str, Tensor], pool: Any) -> tuple[_Graph, Tensor]:
    """Record a call's kernels.

    Args:
        pool: memory for the call's intermediate tensors.

    Returns:
        The graph, and what launched kernels compute of these inputs.
    """
    kept = {name: tensor.clone() for name, tensor in inputs.items()}
    x, time, text = (kept[name] for name in CALLED_WITH)
    added = {name: tensor for name, tensor in kept.items() if name not in CALLED_WITH}
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            expected = call(x, time, text, added)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # Other threads may use the device meanwhile, for instance to save a picture.
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        output = call(x, time, text, added)
    return _Graph(graph=graph, inputs=kept, output=output), expected
