"""The pictures of a report: the stored renders of some trials, small enough for one page or as they are.

A page holds its pictures as base64, which takes 4 bytes for 3. Without `full` they are JPEGs of one size and quality:
the best of `STEPS` with which all of them fit beside the page's text. If none does, prompts are left out at the end,
where the gain is best.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from PIL import Image

from optimizer.report.html import data_url
from optimizer.report.results import Results
from studies.errors import RenderLostError
from studies.files.artifacts import WRITERS, Artifacts
from studies.files.jpeg import encode_jpeg
from studies.records.kept_renders import stored_final_renders
from studies.records.stored_renders import load_renders
from studies.records.values import StoredTrial

PAGE_BYTES: Final = 15_000_000
# (longer side in pixels, JPEG quality), the best first.
STEPS: Final = ((1024, 90), (1024, 82), (768, 82), (640, 80), (512, 80), (448, 78), (384, 76), (320, 74), (256, 72))
SAMPLE: Final = 6  # pictures from which the size of all is estimated

Key = tuple[int, int]  # trial's number, item


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """The pictures of a report."""

    urls: Mapping[Key, str]  # data URLs
    lost: int  # renders that the database or the final names, but that are not in the store or not readable
    left_out: int  # that would make the page too large
    longer_side: int | None  # to which they were made smaller, in pixels; None: they have their own size


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureFile:
    """Where a render of a trial is."""

    key: Key
    name: str  # in the store


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The renders that a report may show."""

    renders: tuple[PictureFile, ...]  # in the order of the page
    named: int  # how many the database names, or the final was to store

    def placeholder(self) -> Pictures:
        """Return pictures without content: with them a page has all of its text, and every note that there may be."""
        urls = {render.key: data_url(b"", "jpeg") for render in self.renders}
        return Pictures(urls=urls, lost=max(1, self.named), left_out=max(1, self.named), longer_side=STEPS[0][0])


def shows_final(results: Results, artifacts: Artifacts, columns: Sequence[StoredTrial]) -> bool:
    """Return whether a report shows the final's suite: all of these trials took part, and its renders are stored.

    Where neither suite has stored renders, the final's is shown, for its scores.

    Raises:
        ArtifactError: the artifact store fails.
    """
    took_part = all(results.finalist(trial.number) is not None for trial in columns)
    if not (results.is_held_out and took_part):
        return False
    return bool(_of_final(results, artifacts, columns).renders) or not _of_search(results, columns).renders


def find_renders(
    results: Results, artifacts: Artifacts, columns: Sequence[StoredTrial], order: Sequence[int], *, held_out: bool
) -> Found:
    """Find the stored renders of some trials.

    Args:
        columns: the trials.
        order: the suite's items in the order of the page.
        held_out: whether those of the final, or those of the search.

    Raises:
        ArtifactError: the artifact store fails.
    """
    found = _of_final(results, artifacts, columns) if held_out else _of_search(results, columns)
    places = {item: position for position, item in enumerate(order)}
    in_order = sorted(found.renders, key=lambda each: (places.get(each.key[1], len(places)), each.key[0]))
    return Found(renders=tuple(in_order), named=found.named)


def whole_pictures(artifacts: Artifacts, found: Found) -> Pictures:
    """Read renders as they are: PNG, at any size.

    Raises:
        ArtifactError: the artifact store fails.
    """
    whole = {each.key: content for each in found.renders if (content := _read(artifacts, each)) is not None}
    return Pictures(urls=_urls(whole, "png"), lost=found.named - len(whole), left_out=0, longer_side=None)


def _of_final(results: Results, artifacts: Artifacts, columns: Sequence[StoredTrial]) -> Found:
    """Find the renders that the final stored; a study that keeps no renders has none to lose."""
    stored = stored_final_renders(results.study, artifacts, [trial.number for trial in columns])
    found = tuple(PictureFile(key=key, name=name) for key, name in stored.items())
    expected = len(columns) * len(results.suite(held_out=True).items())
    return Found(renders=found, named=len(found) if results.study.spec.render.keep == "none" else expected)


def _of_search(results: Results, columns: Sequence[StoredTrial]) -> Found:
    """Find the renders that the database names."""
    found = tuple(
        PictureFile(key=(trial.number, render.item), name=render.file)
        for trial in columns
        for render in load_renders(results.records, trial)
        if render.file is not None
    )
    return Found(renders=found, named=len(found))


def _read(artifacts: Artifacts, render: PictureFile) -> bytes | None:
    """Return a stored file; None where it is not there, or is no picture."""
    try:
        return artifacts.render_png(render.name)
    except RenderLostError:
        return None


def small_pictures(artifacts: Artifacts, found: Found, room: int) -> Pictures:
    """Make JPEGs of the best size and quality with which the page stays small.

    Files are read anew for every step that is tried, so that all of them are never in memory together.

    Args:
        room: bytes that the page has for the contents of pictures, in base64.

    Raises:
        ArtifactError: the artifact store fails.
    """
    made: dict[Key, _Jpeg] = {}
    side = 0
    for side, quality in _steps_that_may_fit(artifacts, found.renders, room):
        made = _encoded(artifacts, found.renders, side, quality)
        if sum(map(_size, made.values())) <= room:
            break
    kept = _that_fit(made, room)
    is_smaller = any(each.longer_side > side for each in made.values())
    return Pictures(
        urls=_urls(kept, "jpeg"),
        lost=found.named - len(made),
        left_out=len(made) - len(kept),
        longer_side=side if is_smaller else None,
    )


def _size(picture: _Jpeg) -> int:
    """Return how many bytes a picture has in base64."""
    return -(-len(picture.content) // 3) * 4


def _that_fit(made: Mapping[Key, _Jpeg], room: int) -> dict[Key, bytes]:
    """Return the first pictures that fit into a page together."""
    ends = accumulate(map(_size, made.values()))
    return {key: each.content for (key, each), end in zip(made.items(), ends, strict=True) if end <= room}


def _steps_that_may_fit(artifacts: Artifacts, renders: Sequence[PictureFile], room: int) -> Iterator[tuple[int, int]]:
    """Yield the steps with which a sample says that all fit; the last one in any case."""
    sample = renders[:: max(1, len(renders) // SAMPLE)]
    for side, quality in STEPS:
        made = _encoded(artifacts, sample, side, quality)
        bytes_each = sum(map(_size, made.values())) / max(1, len(made))
        if (side, quality) == STEPS[-1] or bytes_each * len(renders) <= room:
            yield side, quality


def _encoded(artifacts: Artifacts, renders: Sequence[PictureFile], side: int, quality: int) -> dict[Key, _Jpeg]:
    """Return those that can be read as JPEGs, in their order."""
    with ThreadPoolExecutor(WRITERS) as threads:
        made = threads.map(lambda render: _as_jpeg(artifacts, render, side, quality), renders)
        return {render.key: each for render, each in zip(renders, made, strict=True) if each is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Jpeg:
    """A picture made smaller."""

    content: bytes
    longer_side: int  # of the stored one, in pixels


def _as_jpeg(artifacts: Artifacts, render: PictureFile, side: int, quality: int) -> _Jpeg | None:
    """Return a render whose longer side has at most so many pixels; None where it cannot be read."""
    try:
        picture = artifacts.open_render(render.name)
    except RenderLostError:
        return None
    longer_side = max(picture.size)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return _Jpeg(content=encode_jpeg(picture, quality), longer_side=longer_side)


def _urls(contents: Mapping[Key, bytes], kind: str) -> dict[Key, str]:
    return {key: data_url(content, kind) for key, content in contents.items()}
