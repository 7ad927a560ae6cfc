"""The checkpoints that scorers compare with and that are no parents: rendered once, and kept with downloaded weights.

The folder of their renders is named by the digests of the checkpoint and of all else that shapes them, so another
study of the same suite finds them, and those of another suite are never taken for its own. The search's suite and that
of the final are rendered together, while nothing else is in memory.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from basics.messages import counted
from optimizer.errors import CheckpointError
from optimizer.merging.engine.ingredients import Ingredients
from optimizer.merging.files.checkpoint import Checkpoint
from optimizer.merging.files.parents import Parents
from optimizer.rendering.render import Renderer
from optimizer.runtime.digest_cache import DigestCache
from optimizer.runtime.plan import Plan
from optimizer.runtime.render_keys import key_of_renders
from optimizer.trial.kept_images import keep_images, load_images, read_record, write_record
from optimizer.trial.references import LoadRenders, compared_files
from studies.spec.suite import SuiteSettings

FOLDER: Final = "references"
RECORD: Final = "renders.json"
KEY_DIGITS: Final = 16  # of each of the two digests of a folder's name

Render = Callable[[Ingredients], Renderer]  # loads a checkpoint, and gives the renderer of the search's suite

_log = logging.getLogger(__name__)


def reference_renders(plan: Plan, device: torch.device, cache_dir: Path, render: Render) -> dict[str, LoadRenders]:
    """Return path -> how the renders of that checkpoint are loaded; what is not kept yet is rendered now.

    Args:
        render: see `Render`; it is not called where all is kept.

    Raises:
        CheckpointError: a checkpoint cannot be used, holds NaN or infinity, or renders more broken images than
            `degenerate_limit` allows.
        RenderError: it cannot render the suite.
        NoMemoryError: it does not fit into memory.
    """
    return {to: _Kept(plan, device, cache_dir, to).complete(render) for to in compared_files(plan.spec)}


class _Kept:
    """The kept renders of one checkpoint."""

    def __init__(self, plan: Plan, device: torch.device, cache_dir: Path, to: str) -> None:
        self._plan, self._to = plan, to
        self._hashed = DigestCache().of_file
        self._key = partial(key_of_renders, plan.spec, device=device, hashed=self._hashed)
        self._folder, self._sha256 = cache_dir / FOLDER, self._hashed(Path(to))

    def complete(self, render: Render) -> LoadRenders:
        """Render and keep what is not kept yet; returns how the images of a suite are loaded.

        Kept images are judged again: another study may have allowed more broken ones.
        """
        spec = self._plan.spec
        suites = (spec.suite, *([spec.held_out] if spec.final.top else []))
        kept = [suite for suite in suites if self.load(suite) is not None]
        for suite in kept:
            self._refuse_broken(self._record(suite)["faults"])
        if missing := [suite for suite in suites if suite not in kept]:
            self._render(missing, render)
        return self._required

    def load(self, suite: SuiteSettings) -> tuple[Tensor, ...] | None:
        """Return the images of a suite; None if they are not kept, or not as they were rendered."""
        record, count = self._record(suite), len(suite.items())
        if any(not isinstance(record.get(name), list) or len(record[name]) != count for name in ("pixels", "faults")):
            return None
        return load_images([self._picture(suite, index) for index in range(count)], record["pixels"])

    def _record(self, suite: SuiteSettings) -> Mapping[str, Any]:
        return read_record(self._of(suite) / RECORD) or {}

    def _required(self, suite: SuiteSettings) -> tuple[Tensor, ...]:
        images = self.load(suite)
        if images is None:
            raise CheckpointError(
                f"the renders of {self._to} to compare with are gone from {self._of(suite)}: start the command again"
            )
        return images

    @torch.inference_mode()
    def _render(self, suites: Sequence[SuiteSettings], render: Render) -> None:
        _log.info("rendering %s once, to compare with", self._to)
        ingredients = Ingredients(Parents.of([Checkpoint.open(Path(self._to))]))
        ingredients.require_sound()
        own = render(ingredients)
        for suite in suites:
            renderer = own
            if suite.digest != own.suite.digest:
                renderer = Renderer(own.models, suite, batch_size=own.batch_size, largest_batches=own.largest_batches)
            renders = renderer.render()
            self._refuse_broken(renders.faults)
            self._keep(suite, renders.images, renders.faults)
        del own, renderer
        gc.collect()

    def _refuse_broken(self, faults: Sequence[str | None]) -> None:
        broken = [(index, fault) for index, fault in enumerate(faults) if fault is not None]
        if len(broken) > self._plan.spec.render.degenerate_limit:
            item, fault = broken[0]
            raise CheckpointError(
                f"{self._to}, which scorers compare with, renders {len(broken)} of {counted(len(faults), 'image')} "
                f"broken (item {item}: {fault}), and nothing can be compared with those: name another checkpoint, or "
                "allow as many with `render: degenerate_limit`"
            )

    def _keep(self, suite: SuiteSettings, images: Sequence[Tensor], faults: Sequence[str | None]) -> None:
        self._of(suite).mkdir(parents=True, exist_ok=True)
        digests = keep_images([self._picture(suite, index) for index in range(len(images))], images)
        write_record(self._of(suite) / RECORD, {"pixels": digests, "faults": list(faults)})

    def _of(self, suite: SuiteSettings) -> Path:
        return self._folder / f"{self._sha256[:KEY_DIGITS]}-{self._key(suite)[:KEY_DIGITS]}"

    def _picture(self, suite: SuiteSettings, index: int) -> Path:
        return self._of(suite) / f"{index:04}.png"
