"""Whether a suite has images of the shape that a scorer is meant for."""

from __future__ import annotations

from collections.abc import Iterator

from scorers.pixels.kinds import DUPLICATE_SUBJECT
from studies.spec.study import StudySpec

_ELONGATED = 1.4  # longer side / shorter side; SDXL's 1216 x 832 and SD1.5's 768 x 512 are above


def shape_notes(spec: StudySpec) -> Iterator[str]:
    """Yield a line for each scorer of repeated subjects that looks at no wide or tall image."""
    for name, entry in spec.scorers.items():
        items = spec.suite.looked_at_by(name)
        if entry.kind != DUPLICATE_SUBJECT.name or any(
            max(item.width, item.height) >= _ELONGATED * min(item.width, item.height) for item in items
        ):
            continue
        yield (
            f"scorer {name!r} looks for a subject that is drawn twice along the longer side, and no image that it "
            f"looks at is {_ELONGATED:g} times as long as it is short: render wide or tall ones, or leave it out"
        )
