"""Runtimes of several studies, kept loaded between their trials as memory allows."""

from __future__ import annotations

import gc
import logging
from collections import OrderedDict
from collections.abc import Callable

import torch

from optimizer.errors import NoMemoryError
from optimizer.merging.engine.placement import RESERVED, device_free
from optimizer.runtime.device_choice import choose_device
from optimizer.runtime.plan import Plan
from optimizer.runtime.setup import Runtime, need_of
from studies.records.values import StoredStudy

_log = logging.getLogger(__name__)

Plans = Callable[[StoredStudy], Plan]
"""Opens the files of a study; raises what the user has to mend."""

Builds = Callable[[Plan, StoredStudy], Runtime]
"""Loads what a plan needs; likewise."""


class Runtimes:
    """Loads a study's runtime when it is asked for, and drops the least recently used ones when memory is short.

    Args:
        free_bytes: of a device; None where nobody can tell, and then nothing is dropped before it must be.
    """

    def __init__(
        self, plans: Plans, builds: Builds, free_bytes: Callable[[torch.device], int | None] = device_free
    ) -> None:
        self._plans, self._builds, self._free_bytes = plans, builds, free_bytes
        self._held: OrderedDict[int, Runtime] = OrderedDict()  # study id -> runtime, the latest used last

    @property
    def held(self) -> tuple[int, ...]:
        """Ids of the studies that are loaded, the latest used last."""
        return tuple(self._held)

    def of(self, study: StoredStudy) -> Runtime:
        """The runtime of a study.

        Raises:
            OptimizerError, StudyError, ScorerError, SpaceError: files are missing or changed, or cannot be used here.
            torch.OutOfMemoryError: it does not fit, even alone; NoMemoryError says so before.
        """
        if study.id not in self._held:
            plan = self._plans(study)
            self._make_room(plan)
            self._held[study.id] = self._built(plan, study)
        self._held.move_to_end(study.id)
        return self._held[study.id]

    def drop(self, study_id: int) -> None:
        """Forget a study's runtime, if it is loaded."""
        if self._held.pop(study_id, None) is not None:
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _make_room(self, plan: Plan) -> None:
        device = choose_device(plan.spec.render.device)
        need = need_of(plan, device)
        wanted = need.live + need.sources + max(need.working[-1], RESERVED.get(device.type, 0))
        while self._held and (free := self._free_bytes(device)) is not None and free < wanted:
            self._drop_oldest()

    def _built(self, plan: Plan, study: StoredStudy) -> Runtime:
        while True:
            try:
                return self._builds(plan, study)
            except (torch.OutOfMemoryError, NoMemoryError):
                if not self._held:
                    raise
            self._drop_oldest()  # outside the handler, or its traceback would hold what was loaded

    def _drop_oldest(self) -> None:
        oldest = next(iter(self._held))
        _log.info("the models of study %d are dropped from memory to make room", oldest)
        self.drop(oldest)
