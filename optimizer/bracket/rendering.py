"""The pictures of each checkpoint in each round, one checkpoint in memory at a time."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Final

import torch

from basics.messages import counted
from optimizer.bracket.contestants import Contestant
from optimizer.bracket.kept import KeptRender, KeptRenders
from optimizer.bracket.setup import BracketPlan
from optimizer.errors import CheckpointError
from optimizer.merging.engine.ingredients import Ingredients
from optimizer.merging.files.parents import Parents
from optimizer.rendering.largest_batches import LargestBatches
from optimizer.runtime.device_choice import choose_device
from optimizer.runtime.digest_cache import DigestCache
from optimizer.runtime.plan import Plan
from optimizer.runtime.render_keys import key_of_renders
from optimizer.runtime.setup import build_renderer
from studies.spec.fingerprints import Hash

KEY_DIGITS: Final = 16  # of each of the two digests of a folder's name


class ContestantRenderer:
    """Renders checkpoints, and keeps their pictures.

    Args:
        kept: where the pictures are.
    """

    def __init__(self, plan: BracketPlan, kept: KeptRenders) -> None:
        self._plan, self._kept = plan, kept
        self.device = choose_device(plan.bracket.spec.render.device)
        hashed = DigestCache().of_file
        self._keys = tuple(_key_of_round(each, self.device, hashed) for each in plan.rounds)
        self._vae = plan.rounds[0].ingredients.vae
        self._sound: set[str] = set()  # sha256 of the checkpoints that hold no NaN; the files may not change
        self._largest = LargestBatches()  # the same for all, as they need the same memory

    @property
    def keys(self) -> tuple[str, ...]:
        """A digest of each round: of everything beside the checkpoint that shapes its pictures."""
        return self._keys

    def key(self, number: int, contestant: Contestant) -> str:
        """Return the key of a contestant's pictures.

        Args:
            number: of the round, from 1.
        """
        return f"{contestant.sha256[:KEY_DIGITS]}-{self._keys[number - 1][:KEY_DIGITS]}"

    def kept(self, number: int, contestant: Contestant) -> KeptRender | None:
        """Return the pictures of a round that are rendered already; None if they are not.

        Args:
            number: of the round, from 1.
        """
        return self._kept.load(self.key(number, contestant))

    def rendered(self, number: int, contestant: Contestant, on_images: Callable[[int], None]) -> KeptRender:
        """Return the pictures of a round; render them if they are not kept.

        Args:
            number: of the round, from 1.
            on_images: called with the number of images that are done.

        Raises:
            CheckpointError: the file has changed since the bracket was made ready.
            NoMemoryError, UnscorableTrial: the memory is too small.
            OSError: the pictures cannot be written.
        """
        known = self.kept(number, contestant)
        if known is not None:
            return known
        contestant.opened.require_unchanged()
        render = self._render(self._plan.rounds[number - 1], contestant, on_images)
        contestant.opened.require_unchanged()
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()  # for the next checkpoint
        self._kept.keep(self.key(number, contestant), render)
        return render

    @torch.inference_mode()
    def _render(self, plan: Plan, contestant: Contestant, on_images: Callable[[int], None]) -> KeptRender:
        spec = plan.spec
        ingredients = Ingredients(Parents.of([contestant.checkpoint]), vae=self._vae)
        try:
            if contestant.sha256 not in self._sound:
                ingredients.require_sound()
        except CheckpointError:
            return KeptRender(images=(), faults=(), failure="it holds NaN or infinity (`mergetune inspect` says where)")
        self._sound.add(contestant.sha256)
        _, renderer = build_renderer(
            ingredients,
            spec.suite,
            spec.render,
            self.device,
            spec.export.dtype,
            largest_batches=self._largest,
            loras=plan.suite_loras,
        )
        renders = renderer.render(on_images)
        return KeptRender(images=renders.images, faults=renders.faults)


def failure_of(render: KeptRender, limit: int) -> str | None:
    """Say why a checkpoint cannot win with these pictures; None if it can.

    Args:
        limit: how many of them may be degenerate.
    """
    if render.failure is not None:
        return render.failure
    broken = [(index, fault) for index, fault in enumerate(render.faults) if fault is not None]
    if len(broken) <= limit:
        return None
    index, fault = broken[0]
    return f"{len(broken)} of {counted(len(render.faults), 'image')} are broken: item {index} ({fault})"


def _key_of_round(plan: Plan, device: torch.device, hashed: Hash) -> str:
    return key_of_renders(plan.spec, plan.spec.suite, device, hashed, vae=plan.spec.vae)
