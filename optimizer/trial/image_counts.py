"""Whether suites are large enough for the scorers that look at their images."""

from __future__ import annotations

from collections.abc import Mapping

from scorers.errors import SuiteImagesError
from scorers.protocol import ScorerInfo
from studies.spec.search import RacingSettings
from studies.spec.study import StudySpec


def check_image_counts(spec: StudySpec, infos: Mapping[str, ScorerInfo]) -> None:
    """Refuse a suite, a final or a race whose first stage has fewer images than a scorer needs.

    Args:
        infos: of the spec's scorers, by their names.

    Raises:
        SuiteImagesError: one has too few.
    """
    for info in infos.values():
        info.check_count(len(spec.suite.items()))
        if spec.final.top:
            _check_final(info, len(spec.held_out.items()))
        if spec.racing is not None:
            _check_first_stage(info, spec.racing)


def _check_final(info: ScorerInfo, count: int) -> None:
    try:
        info.check_count(count)
    except SuiteImagesError as error:
        raise SuiteImagesError(f"final: {error}") from error


def _check_first_stage(info: ScorerInfo, settings: RacingSettings) -> None:
    if settings.batch < info.min_images:
        raise SuiteImagesError(
            f"racing: scorer {info.name!r} needs at least {info.min_images} images, and the first check is after "
            f"{settings.batch}: use a larger `batch`, or leave racing off"
        )
