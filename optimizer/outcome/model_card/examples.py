"""The example pictures of a model card: a few of the renders of its trial that were kept, as they are.

Those of the search come first, for the database knows their pixels; where none of them was kept, those of the final.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from PIL import Image

from basics.messages import counted
from optimizer.errors import ScoredImageLost
from optimizer.outcome.model_card.names import MOST_EXAMPLES
from optimizer.trial.scored_images import read_images
from studies.errors import RenderLostError
from studies.files.artifacts import Artifacts
from studies.records.kept_renders import stored_final_renders
from studies.records.stored_renders import load_renders
from studies.records.study_records import StudyRecords
from studies.records.values import StoredTrial
from studies.spec.published.infotext import write_infotext
from studies.spec.published.render_texts import PARAMETERS
from studies.spec.suite import SuiteItem, SuiteSettings

NONE_KEPT: Final = "There are no example pictures: no render of this trial was kept"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExamplePicture:
    """A kept render."""

    prompt: str
    content: bytes  # of its PNG
    settings: str  # as A1111 writes them


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """The example pictures of a trial."""

    pictures: tuple[ExamplePicture, ...]
    lack: str  # why there are none, or fewer, for people; empty where nothing is missing


def load_examples(records: StudyRecords, trial: StoredTrial, artifacts: Artifacts) -> Examples:
    """Read a few kept renders of a trial, one of each prompt first.

    Raises:
        ArtifactError: the artifact store fails.
        StudyChangedError: the trial's renders are not those of the study's suite.
    """
    spec = records.study.spec
    kept = {render.item: render for render in load_renders(records, trial) if render.file is not None}
    pictures: list[ExamplePicture] = []
    lost = 0
    for item in _one_of_each_prompt([spec.suite.items()[number] for number in kept]):
        if len(pictures) == MOST_EXAMPLES:
            break
        render = kept[item.index]
        try:
            read_images(artifacts, [render])
            pictures.append(_picture(artifacts.render_png(render.file or ""), item, spec.suite))
        except (ScoredImageLost, RenderLostError):
            lost += 1
    pictures = pictures or list(islice(_of_final(records, trial, artifacts), MOST_EXAMPLES))
    if lost:
        return Examples(
            pictures=tuple(pictures),
            lack=f"{counted(lost, 'render')} of this trial cannot be shown: gone or changed since",
        )
    return Examples(pictures=tuple(pictures), lack="" if pictures else NONE_KEPT)


def _of_final(records: StudyRecords, trial: StoredTrial, artifacts: Artifacts) -> Iterator[ExamplePicture]:
    """Yield the renders of a trial that the final kept."""
    suite = records.study.spec.held_out
    stored = stored_final_renders(records.study, artifacts, [trial.number])
    for item in _one_of_each_prompt([item for item in suite.items() if (trial.number, item.index) in stored]):
        try:
            content = artifacts.render_png(stored[trial.number, item.index])
        except RenderLostError:
            continue
        yield _picture(content, item, suite)


def _picture(content: bytes, item: SuiteItem, suite: SuiteSettings) -> ExamplePicture:
    """Return a picture with what its file says of its settings; what the suite says where the file says nothing."""
    with Image.open(io.BytesIO(content)) as file:
        said = file.info.get(PARAMETERS)
    settings = said if isinstance(said, str) else write_infotext(item, suite)
    return ExamplePicture(prompt=item.prompt, content=content, settings=settings)


def _one_of_each_prompt(items: Sequence[SuiteItem]) -> list[SuiteItem]:
    """Return items with one of each prompt first."""
    first = {item.prompt: item.index for item in reversed(items)}
    return sorted(items, key=lambda item: (first[item.prompt] != item.index, item.index))
