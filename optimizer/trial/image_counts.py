"""Whether suites are large enough for the scorers that look at their images."""

from __future__ import annotations

from collections.abc import Mapping

from optimizer.rendering.batching import stages
from scorers.errors import SuiteImagesError
from scorers.protocol import ScorerInfo
from studies.spec.search import RacingSettings
from studies.spec.study import StudySpec


def check_image_counts(spec: StudySpec, infos: Mapping[str, ScorerInfo]) -> None:
    """Refuse a suite, a final or a stage of a race with fewer images than a scorer needs of those that it looks at.

    Args:
        infos: of the spec's scorers, by their names.

    Raises:
        SuiteImagesError: one has too few.
    """
    for name, info in infos.items():
        info.check_count(len(spec.suite.looked_at_by(name)))
        if spec.final.top:
            _check_final(info, len(spec.held_out.looked_at_by(name)))
        if spec.racing is not None:
            _check_stages(name, info, spec, spec.racing)


def _check_final(info: ScorerInfo, count: int) -> None:
    try:
        info.check_count(count)
    except SuiteImagesError as error:
        raise SuiteImagesError(f"final: {error}") from error


def _check_stages(name: str, info: ScorerInfo, spec: StudySpec, settings: RacingSettings) -> None:
    if settings.batch < info.min_images:
        raise SuiteImagesError(
            f"racing: scorer {info.name!r} needs at least {info.min_images} images, and the first check is after "
            f"{settings.batch}: use a larger `batch`, or leave racing off"
        )
    if len(spec.suite.looked_at_by(name)) == len(spec.suite.items()):
        return
    for stage in stages(spec.suite, settings.batch, settings.order):
        count = sum(name not in item.without for item in stage)
        if 0 < count < info.min_images:
            raise SuiteImagesError(
                f"racing: scorer {name!r} needs at least {info.min_images} images, and one of the stages has {count} "
                "that it looks at: use another `batch`, leave it out of fewer prompts, or leave racing off"
            )
