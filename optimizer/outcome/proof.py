"""The proof that an exported file is the model that was scored: its tensors first, its renders second.

The file's tensors are read back and compared, to the bit, with those that the recipe merges in memory. This proves the
claim on every device. The renders are compared as well, because they are what people look at. But equal weights give
equal pixels only where the same kernels add in the same order, and libraries choose kernels by version, batch,
alignment and free memory. So a difference in pixels is reported with its size, and the file is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from optimizer.errors import ScoredImageLost
from optimizer.merging.engine.resident import ResidentModel
from optimizer.merging.files.checkpoint import Checkpoint
from optimizer.merging.files.sources import TensorInfo
from optimizer.rendering.variation import grey_levels
from optimizer.trial.evaluation import pixels_digest
from optimizer.trial.ranking import parent_trials
from optimizer.trial.scored_images import read_images
from studies.errors import ArtifactError
from studies.files.artifacts import Artifacts
from studies.records.stored_renders import load_renders
from studies.records.stored_trials import load_trials
from studies.records.study_records import StudyRecords
from studies.records.values import StoredTrial

# ------------------------------------------------------------------------------------------ tensors


def different_tensors(
    file: Checkpoint,
    layout: Mapping[str, TensorInfo],
    resident: ResidentModel,
    on_compared: Callable[[int], None],
) -> list[str]:
    """List the keys of a written file whose tensors differ in any bit from those in memory.

    Each tensor is read, brought to the device and into the live dtype by itself, so no second model is held.

    Args:
        layout: what the file should have (`export_layout`); markers among it are empty and need not be live.
        on_compared: called with the bytes of each tensor.
    """
    live = resident.live_tensors()
    different = sorted(file.tensors.keys() - layout.keys())
    for key, info in layout.items():
        right = file.tensors.get(key) == info
        if right and key in live:
            written = file.tensor(key).to(resident.device).to(live[key].dtype)
            right = _same_bits(written, resident.live_tensor(key))
        if not right:
            different.append(key)
        on_compared(info.nbytes)
    return different


_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of an element


def _same_bits(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors of one dtype and shape are equal bit by bit, minus zero and NaN included."""
    integers = _INTEGERS[one.element_size()]
    return torch.equal(one.contiguous().view(integers), other.contiguous().view(integers))


# ------------------------------------------------------------------------------------------ renders


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderComparison:
    """The renders of a file beside the trial's that were scored."""

    scored: int
    different: int  # of those that were scored, in any pixel
    distance: float | None = None  # grey levels of 255 on average; None if no scored image is stored
    nearest: float | None = None  # the same between the trial's images and those of the nearest parent; None: unknown

    @property
    def bound(self) -> float | None:
        """Grey levels below which the file's renders are surely nearer to the scored ones than to any parent's.

        Mean absolute difference is a metric. By the triangle inequality

            d(file, parent) >= d(scored, parent) - d(file, scored),

        which is more than d(file, scored) as long as that is less than half of d(scored, parent).
        """
        return None if self.nearest is None else self.nearest / 2


def compare_renders(
    records: StudyRecords, trial: StoredTrial, artifacts: Artifacts, images: Sequence[Tensor]
) -> RenderComparison:
    """Compare the suite rendered from a file, uint8 [3, h, w] an item, with what a trial's digests and images say."""
    stored = load_renders(records, trial)
    different = sum(pixels_digest(images[each.item]) != each.pixels_sha256 for each in stored)
    scored = _stored_images(records, trial, artifacts) if different else {}
    if not scored:
        return RenderComparison(scored=len(stored), different=different)
    return RenderComparison(
        scored=len(stored),
        different=different,
        distance=_distance(scored, dict(enumerate(images))),
        nearest=min(_parent_distances(records, artifacts, scored), default=None),
    )


def _stored_images(records: StudyRecords, trial: StoredTrial, artifacts: Artifacts) -> dict[int, Tensor]:
    """Read a trial's images by item, as they were scored; empty where one of them is lost."""
    try:
        return read_images(artifacts, [each for each in load_renders(records, trial) if each.file is not None])
    except (ScoredImageLost, ArtifactError):  # the proof does not depend on them
        return {}


def _parent_distances(records: StudyRecords, artifacts: Artifacts, scored: Mapping[int, Tensor]) -> Iterator[float]:
    """Yield how far a trial's images are from each parent's of the same items, without parents that look the same."""
    for parent in parent_trials(load_trials(records)).values():
        images = _stored_images(records, parent, artifacts)
        if scored.keys() <= images.keys() and (distance := _distance(scored, images)) > 0:
            yield distance


def _distance(some: Mapping[int, Tensor], others: Mapping[int, Tensor]) -> float:
    """Return the mean over the items of `some`, in grey levels of 255."""
    return float(np.mean([grey_levels(image, others[item]) for item, image in some.items()]))
