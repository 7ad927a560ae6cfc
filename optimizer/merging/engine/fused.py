"""Add difference in one pass over memory, compiled on first use, for models large enough to make that worthwhile.

With library calls, A + r(B - C) needs eight passes over the cache and takes three times as long as a copy.
`torch.compile` fuses them into one loop. The loop is used only once it has given the same bits as the library calls on
this machine. Without a compiler, or with different bits, the library calls are used.
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
SAMPLE = (1 << 16) + 13  # elements compared; the odd length also exercises the loop's remainder
# Without `emulate_precision_casts` the compiler omits a rounding to half precision whose result is widened again at
# once. One thread, because there is one small loop to compile.
OPTIONS: dict[str, Any] = {"emulate_precision_casts": True, "compile_threads": 1}

Reference = Callable[[Sequence[Tensor], Sequence[float], Tensor, torch.dtype], None]


def _add_difference(a: Tensor, b: Tensor, c: Tensor, ratio: Tensor, live: Tensor, export_dtype: torch.dtype) -> None:
    live.copy_(((b.float() - c.float()) * ratio + a.float()).to(export_dtype))


class FusedAddDifference:
    """A compiled loop for add difference; each combination of dtypes is compiled and checked on its first use.

    Args:
        reference: computes what the loop must reproduce bit for bit, from (inputs, ratios, live, export dtype).
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
        """Merge 1-D tensors into `live`.

        Returns:
            False, with `live` unchanged, where library calls must be used instead.
        """
        dtypes = (*(tensor.dtype for tensor in inputs), live.dtype, export_dtype)
        if dtypes not in self._agrees:
            self._agrees[dtypes] = self._agrees_for(dtypes, live.device)
        if self._agrees[dtypes]:
            self._run(inputs, ratios, live, export_dtype)
        return self._agrees[dtypes]

    def _run(self, inputs: Sequence[Tensor], ratios: Sequence[float], live: Tensor, export_dtype: torch.dtype) -> None:
        # A tensor, because a Python number would become a constant of the compiled code.
        ratio = torch.tensor(ratios[0], dtype=torch.float32, device=live.device)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler warns about its own settings
            self._compiled(*inputs, ratio, live, export_dtype)

    def _agrees_for(self, dtypes: tuple[torch.dtype, ...], device: torch.device) -> bool:
        """Compile for these dtypes (three inputs, live, export), and return whether the bits equal the reference's."""
        *input_dtypes, live_dtype, export_dtype = dtypes
        generator = torch.Generator().manual_seed(0)
        inputs = [(torch.randn(SAMPLE, generator=generator) * 0.05).to(dtype).to(device) for dtype in input_dtypes]
        compiled, reference = (torch.zeros(SAMPLE, dtype=live_dtype, device=device) for _ in range(2))
        self._reference(inputs, (0.37,), reference, export_dtype)
        try:
            self._run(inputs, (0.37,), compiled, export_dtype)
        except Exception as error:  # noqa: BLE001 - no compiler, no writable cache ...: any failure means do without
            _log.info(
                "add difference cannot be compiled on this machine (%s): library calls are used", first_line(error)
            )
            return False
        if not torch.equal(compiled, reference):
            _log.info("the compiled add difference rounds differently on this machine: library calls are used")
            return False
        return True
