"""The pictures of a report: the stored renders of some trials, small enough for one page or as they are.

A page holds its pictures as base64, which takes 4 bytes for 3. Without `full` they are JPEGs of one size and quality:
the best of `STEPS` with which all of them fit. If none does, prompts are left out at the end, where the gain is best.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from optuna.artifacts.exceptions import ArtifactNotFound
from PIL import Image

from optimizer.report.results import Results
from studies.files.artifacts import WRITERS, Artifacts, render_file
from studies.records.stored_renders import load_renders
from studies.records.values import StoredTrial

PAGE_BYTES: Final = 15_000_000
PICTURE_BYTES: Final = PAGE_BYTES * 3 // 4 - 500_000  # of all pictures before base64; the rest is for text and figures
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
class _Stored:
    """Where a render of a trial is."""

    key: Key
    name: str  # in the store


def shows_final(results: Results, artifacts: Artifacts, columns: Sequence[StoredTrial]) -> bool:
    """Return whether a report shows the final's suite: all of these trials took part, and its renders are stored.

    Where no renders are stored at all, its scores count.

    Raises:
        ArtifactError: the artifact store fails.
    """
    took_part = all(results.finalist(trial.number) is not None for trial in columns)
    if not (results.is_held_out and took_part):
        return False
    return bool(_of_final(results, artifacts, columns)[0]) or not _of_search(results, columns)[0]


def load_pictures(
    results: Results,
    artifacts: Artifacts,
    columns: Sequence[StoredTrial],
    order: Sequence[int],
    *,
    held_out: bool,
    full: bool,
) -> Pictures:
    """Read the renders of some trials.

    Args:
        columns: the trials.
        order: the suite's items in the order of the page.
        held_out: whether those of the final, or those of the search.
        full: whether they stay as they are: PNG, at any size.

    Raises:
        ArtifactError: the artifact store fails.
    """
    found, named = _of_final(results, artifacts, columns) if held_out else _of_search(results, columns)
    places = {item: position for position, item in enumerate(order)}
    found.sort(key=lambda each: (places.get(each.key[1], len(places)), each.key[0]))
    contents = dict(_contents(artifacts, found))
    lost = named - len(contents)
    if full:
        return Pictures(urls=_urls(contents, "png"), lost=lost, left_out=0, longer_side=None)
    return _shrunk(contents, lost)


def _of_final(results: Results, artifacts: Artifacts, columns: Sequence[StoredTrial]) -> tuple[list[_Stored], int]:
    """Find the renders that the final stored, and how many there should be."""
    files = artifacts.of_final(results.study.key)
    present, labels = files.files(), results.suite(held_out=True).render_labels()
    wanted = {
        (trial.number, item): render_file(trial.number, label) for trial in columns for item, label in enumerate(labels)
    }
    found = [_Stored(key=key, name=files.name(file)) for key, file in wanted.items() if file in present]
    return found, len(wanted)


def _of_search(results: Results, columns: Sequence[StoredTrial]) -> tuple[list[_Stored], int]:
    """Find the renders that the database names."""
    found = [
        _Stored(key=(trial.number, render.item), name=render.file)
        for trial in columns
        for render in load_renders(results.records, trial)
        if render.file is not None
    ]
    return found, len(found)


def _contents(artifacts: Artifacts, renders: Sequence[_Stored]) -> Iterator[tuple[Key, bytes]]:
    """Yield the files that are there and are pictures."""
    for render in renders:
        try:
            content = artifacts.store.read(render.name)
            with Image.open(io.BytesIO(content), formats=("PNG",)) as picture:
                picture.verify()
        except (ArtifactNotFound, OSError, SyntaxError, ValueError):
            continue
        yield render.key, content


def _shrunk(contents: Mapping[Key, bytes], lost: int) -> Pictures:
    """Make JPEGs of the best size and quality with which the page stays small."""
    if not contents:
        return Pictures(urls={}, lost=lost, left_out=0, longer_side=None)
    for side, quality in _steps_that_may_fit(list(contents.values())):
        made = dict(zip(contents, _encoded(list(contents.values()), side, quality), strict=True))
        if sum(map(len, made.values())) <= PICTURE_BYTES:
            break
    kept = _that_fit(made)
    return Pictures(
        urls=_urls(kept, "jpeg"),
        lost=lost,
        left_out=len(made) - len(kept),
        longer_side=side if side < max(map(_longer_side, contents.values())) else None,
    )


def _that_fit(made: Mapping[Key, bytes]) -> dict[Key, bytes]:
    """Return the first pictures that fit into a page together."""
    ends = accumulate(map(len, made.values()))
    return {key: content for (key, content), end in zip(made.items(), ends, strict=True) if end <= PICTURE_BYTES}


def _steps_that_may_fit(contents: Sequence[bytes]) -> Iterator[tuple[int, int]]:
    """Yield the steps from the first on with which a sample says that all fit; the last one in any case."""
    sample = contents[:: max(1, len(contents) // SAMPLE)]
    for step in STEPS:
        share = sum(map(len, _encoded(sample, *step))) * len(contents)
        if step == STEPS[-1] or share <= PICTURE_BYTES * len(sample):
            yield step


def _encoded(contents: Sequence[bytes], side: int, quality: int) -> list[bytes]:
    with ThreadPoolExecutor(WRITERS) as threads:
        return list(threads.map(lambda content: _as_jpeg(content, side, quality), contents))


def _as_jpeg(content: bytes, side: int, quality: int) -> bytes:
    with Image.open(io.BytesIO(content)) as file, io.BytesIO() as buffer:
        picture = file.convert("RGB")
        picture.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
        picture.save(buffer, format="JPEG", quality=quality, optimize=True)
        return buffer.getvalue()


def _longer_side(content: bytes) -> int:
    with Image.open(io.BytesIO(content)) as picture:
        return max(picture.size)


def _urls(contents: Mapping[Key, bytes], kind: str) -> dict[Key, str]:
    return {key: f"data:image/{kind};base64,{base64.b64encode(content).decode()}" for key, content in contents.items()}
