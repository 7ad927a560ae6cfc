"""A fake CUDA card, to find tensors on the wrong device and places where the host waits, without a real card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import SimpleNamespace, TracebackType
from typing import Any, Self

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary

CARD = torch.device("cuda:0")
FEW = 4096  # elements up to which a copy to the card keeps its values: a schedule, never weights or an image
MEMORY_BYTES = 80 << 30

aten = torch.ops.aten


class FakeCard(TorchDispatchMode):
    """A card whose tensors have shape, dtype and device, but no values; tensors on the CPU are real.

    Operations on tensors of two devices raise RuntimeError as they do on a real card, where scalars
    on the CPU are allowed, too. Tensors that come back from the card have no values either, except small ones that were
    copied there unchanged. Reading a number gives 0, and `nonzero` finds one element.

    Attributes:
        waits: how often the host waited for the card: `number`, `nonzero`, `to the card`, `from the card`,
            `synchronize`. A copy in either direction waits unless it is non-blocking.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.waits: Counter[str] = Counter()
        self._fake = FakeTensorMode()
        # Tensor on the card -> the same tensor on the CPU.
        self._small = WeakTensorKeyDictionary()

    def __enter__(self) -> Self:
        self._fake.__enter__()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        self._fake.__exit__(kind, error, trace)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        if FakeTensor not in types and not _names_the_card(options):
            with unset_fake_temporarily():
                return func(*args, **options)
        packet = func.overloadpacket
        if packet is aten._to_copy:
            return self._copied_over(func, args[0], options)
        if packet in {aten._local_scalar_dense, aten.item, aten.equal}:  # `item` in inference mode
            return self._number(*args)
        if packet is aten.nonzero:
            self.waits["nonzero"] += args[0].device == CARD
            return torch.zeros((1, args[0].dim()), dtype=torch.int64, device=args[0].device)
        if packet is aten.copy_:
            self._count(args[1].device, args[0].device, *args[2:], **options)
        if any(map(_is_real, (*args, *options.values()))):
            args, options = tree_map_only(Tensor, self._pretended, (args, options))
        return func(*args, **options)

    def _number(self, *tensors: Tensor) -> float | int | bool:
        """Return 0 in the tensor's type; for two tensors, that they differ."""
        self.waits["number"] += tensors[0].device == CARD
        if len({tensor.device for tensor in tensors}) > 1:
            raise RuntimeError("Expected all tensors to be on the same device, but one is on the CPU")
        if len(tensors) > 1 or tensors[0].dtype == torch.bool:
            return False
        return 0.0 if tensors[0].is_floating_point() else 0

    def _pretended(self, tensor: Tensor) -> Tensor:
        return tensor if isinstance(tensor, FakeTensor) else self._fake.from_tensor(tensor)

    def _copied_over(self, func: Any, tensor: Tensor, options: Mapping[str, Any]) -> Tensor:
        """Copy a tensor to another dtype or device."""
        made: Tensor = func(self._pretended(tensor), **options)
        self._count(tensor.device, made.device, **options)
        if not isinstance(tensor, FakeTensor) and tensor.numel() <= FEW:
            self._small[made] = tensor
        if made.device.type == "cpu" and tensor in self._small:
            with unset_fake_temporarily():
                small: Tensor = self._small[tensor].to(made.dtype, copy=True)
            return small
        return made

    def _count(self, source: torch.device, target: torch.device, non_blocking: bool = False, **_: object) -> None:
        if source != target and not non_blocking:
            self.waits["to the card" if target == CARD else "from the card"] += 1


def _is_real(value: object) -> bool:
    """Return whether it is, or contains, a tensor on the CPU."""
    if isinstance(value, list | tuple):
        return any(map(_is_real, value))
    return isinstance(value, Tensor) and not isinstance(value, FakeTensor)


def _names_the_card(options: Mapping[str, Any]) -> bool:
    return options.get("device") is not None and torch.device(options["device"]).type == "cuda"


class _Queue:
    """A stand-in for streams and events: there is nothing to wait for."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def _pass(self, *_: object, **__: object) -> None: ...

    wait_stream = wait_event = record_event = record = wait = synchronize = _pass


@contextmanager
def registered_worker(card: FakeCard) -> Iterator[FakeCard]:
    """Give the card, with torch.cuda's functions for memory and streams as far as merging and rendering call them.

    Memory is pageable, as on a system that pins none. Tensors made in one block can be used in the next one of this
    card.
    """

    def nothing(*_: object, **__: object) -> None: ...

    def synchronize(_: object = None) -> None:
        card.waits["synchronize"] += 1

    def one_queue(*_: object) -> AbstractContextManager[None]:
        return nullcontext()

    runtime = SimpleNamespace(cudaHostRegister=lambda *_: 1, cudaGetErrorString=lambda _: "this card is not there")
    with pytest.MonkeyPatch.context() as patch, card:
        for name, stand_in in {
            "Stream": _Queue,
            "Event": _Queue,
            "current_stream": _Queue,
            "stream": one_queue,
            "device": one_queue,
            "cudart": lambda: runtime,
            "synchronize": synchronize,
            "empty_cache": nothing,
            "mem_get_info": lambda *_: (MEMORY_BYTES, MEMORY_BYTES),
            "memory_reserved": lambda *_: 0,
            "memory_allocated": lambda *_: 0,
        }.items():
            patch.setattr(torch.cuda, name, stand_in)
        patch.setattr(Tensor, "record_stream", nothing, raising=False)
        yield card
