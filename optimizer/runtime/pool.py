"""A pool of the runtimes of several studies, kept loaded as long as memory allows."""

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
from optimizer.runtime.setup import Runtime, estimate_plan_memory
from studies.records.values import StoredStudy

_log = logging.getLogger(__name__)

OpenPlan = Callable[[StoredStudy], Plan]
"""Opens a study's files; raises an error for the user if they cannot be used."""

BuildRuntime = Callable[[Plan, StoredStudy], Runtime]
"""Loads the models and scorers of a plan; raises an error for the user if that fails."""


class RuntimePool:
    """The runtimes of several studies, loaded on demand; the least recently used are dropped when memory is short.

    Args:
        free_bytes: the free memory of a device; None if it is unknown. Then runtimes are dropped only when loading
            another one has failed.
    """

    def __init__(
        self,
        open_plan: OpenPlan,
        build_runtime: BuildRuntime,
        free_bytes: Callable[[torch.device], int | None] = device_free,
    ) -> None:
        self._open_plan, self._build_runtime, self._free_bytes = open_plan, build_runtime, free_bytes
        self._loaded: OrderedDict[int, Runtime] = OrderedDict()  # study id -> runtime, the most recently used last

    @property
    def loaded(self) -> tuple[int, ...]:
        """Ids of the studies that are loaded, the most recently used last."""
        return tuple(self._loaded)

    def of(self, study: StoredStudy) -> Runtime:
        """Return a study's runtime, loading it if necessary.

        Raises:
            OptimizerError, StudyError, ScorerError, SpaceError: files are missing or changed, or cannot be used here.
            NoMemoryError, torch.OutOfMemoryError: it does not fit into memory, even alone.
        """
        if study.id not in self._loaded:
            plan = self._open_plan(study)
            self._make_room(plan)
            self._loaded[study.id] = self._build(plan, study)
        self._loaded.move_to_end(study.id)
        return self._loaded[study.id]

    def drop(self, study_id: int) -> None:
        """Drop a study's runtime from memory, if it is loaded."""
        if self._loaded.pop(study_id, None) is not None:
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _make_room(self, plan: Plan) -> None:
        device = choose_device(plan.spec.render.device)
        need = estimate_plan_memory(plan, device)
        wanted = need.live + need.sources + max(need.working[-1], RESERVED.get(device.type, 0))
        while self._loaded and (free := self._free_bytes(device)) is not None and free < wanted:
            self._drop_oldest()

    def _build(self, plan: Plan, study: StoredStudy) -> Runtime:
        while True:
            try:
                return self._build_runtime(plan, study)
            except (torch.OutOfMemoryError, NoMemoryError):
                if not self._loaded:
                    raise
            self._drop_oldest()  # outside the handler, whose traceback keeps the loaded tensors alive

    def _drop_oldest(self) -> None:
        oldest = next(iter(self._loaded))
        _log.info("dropping the models of study %d from memory to make room", oldest)
        self.drop(oldest)
