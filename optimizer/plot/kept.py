"""The cells of a plot that are rendered already: they lie in a folder beside it, so that none is rendered twice.

A cell has a key of everything that shapes its pictures: the whole spec, the merge with its parents' sha256, what is
rendered of it, and the software. Its record is written last, so a process that is killed leaves whole cells only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from basics.digests import json_digest
from optimizer.errors import PlotError
from optimizer.merging.engine.export import write_file
from optimizer.plot.tables import Cell
from optimizer.runtime.digest_cache import DigestCache
from optimizer.trial.kept_images import digests_of, read_kept, read_record
from studies.files.png import encode_png
from studies.records.stored_studies import software_versions
from studies.spec.final import FinalSettings
from studies.spec.fingerprints import scorer_fingerprints, suite_fingerprints
from studies.spec.study import StudySpec


@dataclass(frozen=True)
class CellKeys:
    """The keys of cells of one spec, rendered on one kind of device.

    Args:
        device: such as `cpu`.
    """

    spec: StudySpec
    device: str
    _digests: DigestCache = field(default_factory=DigestCache, init=False, repr=False)
    _beside: dict[str, Mapping[str, str]] = field(default_factory=dict, init=False, repr=False)

    def of(self, cell: Cell) -> str:
        """Return a cell's key, 64 hex digits."""
        digest = cell.suite.digest
        if digest not in self._beside:  # embeddings and LoRAs that are read while it is rendered
            alone = self.spec.model_copy(update={"suite": cell.suite, "final": FinalSettings()})
            self._beside[digest] = suite_fingerprints(alone, self._digests.of_file)
        return json_digest(
            {
                **self._common,
                "recipe": cell.recipe.to_json(),
                "suite": digest,
                "counting": cell.suite.scoring_digest,
                "beside": self._beside[digest],
            }
        )

    @cached_property
    def scorers(self) -> str:
        """One sha256 of the files that the spec's scorers read; their options are part of every cell's key."""
        return json_digest(scorer_fingerprints(self.spec))

    @cached_property
    def _common(self) -> dict[str, Any]:
        return {"spec": self.spec.to_json(), "device": self.device, "software": software_versions()}


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptScores:
    """The scores of a cell."""

    scorers: str  # see `CellKeys.scorers`
    means: Mapping[str, float | None]  # None: the scorer looks at none of the cell's images


@dataclass(frozen=True, slots=True)
class KeptCells:
    """A folder of cells that are rendered.

    Args:
        folder: is made when the first cell is kept.
    """

    folder: Path

    def images(self, key: str) -> tuple[Tensor, ...] | None:
        """Return a cell's images as they were rendered, uint8 [3, h, w]; None if it is not there, or not whole."""
        record = self._record(key)
        if record is None:
            return None
        numbers = range(1, len(record["pixels"]) + 1)
        return read_kept([self._picture(key, number) for number in numbers], record["pixels"])

    def required_images(self, key: str) -> tuple[Tensor, ...]:
        """Return the images of a cell that was rendered.

        Raises:
            PlotError: somebody has removed or changed them since.
        """
        images = self.images(key)
        if images is None:
            raise PlotError(f"a rendered cell has gone from {self.folder}: run the command again, it is rendered anew")
        return images

    def keep(self, key: str, images: Sequence[Tensor]) -> None:
        """Keep a cell's images, uint8 [3, h, w].

        Raises:
            ExportError: they cannot be written.
        """
        self._make_folder()
        for number, image in enumerate(images, start=1):
            write_file(self._picture(key, number), encode_png(image.numpy()), overwrite=True)
        self._write_record(key, {"pixels": digests_of(images)})

    def scores(self, key: str, scorers: str) -> Mapping[str, float | None] | None:
        """Return a cell's scores; None if it has none, or of scorers with other files."""
        record = self._record(key) or {}
        scores = record.get("scores")
        return None if scores is None or record.get("scorers") != scorers else dict(scores)

    def keep_scores(self, key: str, scores: KeptScores) -> None:
        """Add scores to a cell that is kept.

        Raises:
            ExportError: they cannot be written.
        """
        record = self._record(key) or {}
        self._write_record(key, {**record, "scorers": scores.scorers, "scores": dict(scores.means)})

    def size_bytes(self) -> int:
        """Return the bytes of all files in the folder."""
        return sum(file.stat().st_size for file in self.folder.glob("*") if file.is_file())

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise PlotError(
                f"the rendered cells cannot be kept in {self.folder}: {error.strerror}; give another path with -o"
            ) from error

    def _record(self, key: str) -> dict[str, Any] | None:
        record = read_record(self.folder / f"{key}.json")
        return record if record is not None and _is_record(record) else None

    def _write_record(self, key: str, record: Mapping[str, Any]) -> None:
        write_file(self.folder / f"{key}.json", json.dumps(record).encode(), overwrite=True)

    def _picture(self, key: str, number: int) -> Path:
        return self.folder / f"{key}-{number}.png"


def _is_record(record: Mapping[str, Any]) -> bool:
    """Return whether what was read is a record of ours."""
    if not isinstance(record.get("pixels"), list) or not record["pixels"]:
        return False
    scores = record.get("scores") or {}
    return isinstance(scores, dict) and all(
        value is None or (isinstance(value, (int, float)) and math.isfinite(value)) for value in scores.values()
    )
