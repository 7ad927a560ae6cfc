"""What images and scores depend on beyond the recipe, and where two studies differ in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from optimizer.rendering.sameness import same_renders, same_stages
from optimizer.rendering.tiles import tiled_sizes
from optimizer.runtime.plan import Plan
from studies.records.stored_studies import software_versions
from studies.records.values import ParentFile, StoredStudy
from studies.spec.fingerprints import THE_EMBEDDINGS, scorer_fingerprint, suite_fingerprints, those_of_suite
from studies.spec.study import StudySpec
from studies.spec.suite import SuiteSettings

SCORING_SOFTWARE: Final = ("mergetune", "open_clip_torch")  # the machine's description holds the rest


def score_differences(plan: Plan, parents: Sequence[ParentFile], other: StoredStudy) -> Iterator[str]:
    """Say why the other study's scores do not hold in a new one; nothing where they do.

    Args:
        plan, parents: of the new study.
    """
    spec = plan.spec
    yield from image_differences(plan, parents, other)
    if _prompts(spec.suite) != _prompts(other.spec.suite):  # a scorer may read what the text encoders do not
        yield "prompts are written otherwise, and scorers read them too"
    elif others := [
        name for name in spec.scorers if _looked_at(name, spec.suite) != _looked_at(name, other.spec.suite)
    ]:
        yield f"other prompts are left out of {', '.join(others)}"
    scorers = [name for name in spec.scorers if not _same_scorer(name, spec, other)]
    if scorers:
        yield f"other scorers: {', '.join(scorers)}"
    changed = changed_software(other)
    if changed:
        yield f"another version of {', '.join(changed)}"


def image_differences(plan: Plan, parents: Sequence[ParentFile], other: StoredStudy) -> Iterator[str]:
    """Say why the other study's images are not what a new one would render and score of the same merges."""
    spec, theirs = plan.spec, other.spec
    if [file.sha256 for file in parents] != [file.sha256 for file in other.parents]:
        yield "the parents stand in another order"
    read, read_there = suite_fingerprints(spec), those_of_suite(other.fingerprints)
    if read.get(THE_EMBEDDINGS) != read_there.get(THE_EMBEDDINGS):
        yield "other embeddings"
    elif read != read_there:
        yield "other LoRAs of the suite"
    elif not same_renders(spec.suite, theirs.suite, plan.space.architecture):
        yield "another suite"
    elif not _same_stages(spec, theirs):
        yield "the suite is written otherwise, and racing would divide it into other stages"
    if spec.export.dtype != theirs.export.dtype:
        yield "another export dtype"
    yield from _rendered_otherwise(spec, theirs)
    if spec.render.degenerate_limit < theirs.render.degenerate_limit:
        yield "fewer broken images are allowed"


def _rendered_otherwise(spec: StudySpec, theirs: StudySpec) -> Iterator[str]:
    """Say which settings of the renders change pixels and differ."""
    if _batching(spec) != _batching(theirs):
        yield "another dtype or batch size of the renders"
    if spec.render.fp16_accumulation != theirs.render.fp16_accumulation:
        yield "the U-Net sums in fp16 in one of the two (`fp16_accumulation`)"
    if bool(tiled_sizes(spec.suite, spec.render)) != bool(tiled_sizes(theirs.suite, theirs.render)):
        yield "images are decoded in tiles in one of the two (`vae_tiling`)"


def _same_stages(spec: StudySpec, theirs: StudySpec) -> bool:
    if spec.racing is None:
        return True
    orders = spec.racing.order, None if theirs.racing is None else theirs.racing.order
    return same_stages(spec.suite, theirs.suite, spec.racing.batch, orders)


def _prompts(suite: SuiteSettings) -> list[str]:
    """Return each item's prompt as it is written, which is how scorers get it."""
    return [item.prompt for item in suite.items()]


def _looked_at(scorer: str, suite: SuiteSettings) -> list[int]:
    """Return the items that a scorer looks at."""
    return [item.index for item in suite.looked_at_by(scorer)]


def _batching(spec: StudySpec) -> tuple[Any, ...]:
    """Return what decides, beside the suite, which renders are computed together and in which dtype."""
    return spec.render.dtype, spec.render.batch_size, None if spec.racing is None else spec.racing.batch


def _same_scorer(name: str, spec: StudySpec, other: StoredStudy) -> bool:
    """Return whether both have the same settings, and files of the same content wherever they lie."""
    ours, theirs = spec.scorers[name], other.spec.scorers.get(name)
    if theirs is None or ours.kind != theirs.kind or _without_paths(ours.options) != _without_paths(theirs.options):
        return False
    what, digest = scorer_fingerprint(name, ours)
    return other.fingerprints.get(what) == digest


def _without_paths(value: Any) -> Any:
    """Replace the paths in options: where files lie makes no difference."""
    if isinstance(value, Mapping):
        return {name: _without_paths(inner) for name, inner in value.items()}
    return "a file" if isinstance(value, str) and Path(value).is_absolute() else value


def changed_software(other: StoredStudy) -> list[str]:
    """List the packages that scores may depend on and that have another version now than when the study began.

    Those that a machine's description names are left to the comparison of the descriptions.
    """
    now = software_versions()
    return [name for name in SCORING_SOFTWARE if now[name] != other.software.get(name)]
