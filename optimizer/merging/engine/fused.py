"""Add difference in one pass over memory, compiled on first use, for models large enough to repay that.

Written with library calls, A + r(B - C) needs eight passes over the cache, and takes three times as long as a copy.
`torch.compile` makes one loop of them. It is trusted only after it has given the same bits as the library calls on this
machine; without a compiler, or with other bits, those go on being used.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from basics.messages import first_line

_log = logging.getLogger(__name__)

WORTH_COMPILING = 1 << 28  # elements of a model; compiling takes seconds, and half a minute the first time
SAMPLE = (1 << 16) + 13  # elements compared; the odd tail goes through the loop's remainder
# Without this the compiler leaves out a rounding to half precision that is widened again at once. One thread, because
# there is one small loop to compile.
OPTIONS: dict[str, Any] = {"emulate_precision_casts": True, "compile_threads": 1}

Reference = Callable[[Sequence[Tensor], Sequence[float], Tensor, torch.dtype], None]


def _add_difference(a: Tensor, b: Tensor, c: Tensor, ratio: Tensor, live: Tensor, export_dtype: torch.dtype) -> None:
    live.copy_(((b.float() - c.float()) * ratio + a.float()).to(export_dtype))


class FusedAddDifference:
    """The compiled loop; every combination of dtypes is compiled and checked when it first comes.

    Args:
        reference: what it must agree with: (inputs, ratios, live, export dtype).
    """

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        self._compiled: Callable[..., None] = torch.compile(
            _add_difference, dynamic=True, fullgraph=True, options=OPTIONS
        )
        self._agrees: dict[tuple[torch.dtype, ...], bool] = {}

    def __call__(
        self, inputs: Sequence[Tensor], ratios: Sequence[float], live: Tensor, export_dtype: torch.dtype
    ) -> bool:
        """Merge 1-D tensors into `live`; False, with nothing touched, where the library calls must do it."""
        kind = (*(tensor.dtype for tensor in inputs), live.dtype, export_dtype)
        if kind not in self._agrees:
            self._agrees[kind] = self._check(kind, live.device)
        if self._agrees[kind]:
            self._run(inputs, ratios, live, export_dtype)
        return self._agrees[kind]

    def _run(self, inputs: Sequence[Tensor], ratios: Sequence[float], live: Tensor, export_dtype: torch.dtype) -> None:
        # A tensor, because a number would be compiled in.
        ratio = torch.tensor(ratios[0], dtype=torch.float32, device=live.device)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a compiler, about its own settings
            self._compiled(*inputs, ratio, live, export_dtype)

    def _check(self, kind: tuple[torch.dtype, ...], device: torch.device) -> bool:
        generator = torch.Generator().manual_seed(0)
        inputs = [(torch.randn(SAMPLE, generator=generator) * 0.05).to(dtype).to(device) for dtype in kind[:3]]
        found, wanted = (torch.zeros(SAMPLE, dtype=kind[3], device=device) for _ in range(2))
        self._reference(inputs, (0.37,), wanted, kind[4])
        try:
            self._run(inputs, (0.37,), found, kind[4])
        except Exception as error:  # noqa: BLE001 - no compiler, no writable cache ...: each is a reason to do without
            _log.info("add difference is not compiled here: %s", first_line(error))
            return False
        if not torch.equal(found, wanted):
            _log.info("add difference, compiled, rounds otherwise here: library calls are used")
            return False
        return True
