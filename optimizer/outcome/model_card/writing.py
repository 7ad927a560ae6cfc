"""Write the model card of an exported merge beside its file: NAME.md, NAME-workflow.json, NAME-1.png and so on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from optimizer.families.registry import model_family
from optimizer.merging.engine.export import Exported, write_file
from optimizer.outcome.model_card.contents import contents_of
from optimizer.outcome.model_card.examples import load_examples
from optimizer.outcome.model_card.names import CardFiles, model_name_of
from optimizer.outcome.model_card.page import Card, Example, page
from optimizer.outcome.model_card.verdict import Judged, verdict
from optimizer.outcome.model_card.workflow import comfy_workflow
from optimizer.rendering.prediction import flow_hint
from optimizer.runtime.plan import Plan
from search_spaces.blocks import Architecture
from studies.files.artifacts import Artifacts
from studies.records.study_records import StudyRecords


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenCard:
    """A card as it was written."""

    page: Path
    beside: tuple[Path, ...]  # pictures and the workflow
    notes: tuple[str, ...]  # what it lacks, one line each


def write_card(
    records: StudyRecords, judged: Judged, plan: Plan, artifacts: Artifacts, file: Exported, *, overwrite: bool
) -> WrittenCard:
    """Write the card of an exported trial beside its file.

    Raises:
        ExportError: a file cannot be written.
        StudyChangedError: the trial's renders are not those of the study's suite.
    """
    trial, study, files = judged.trial, records.study, CardFiles.beside(file.path)
    files.refuse(overwrite=overwrite)
    examples = load_examples(records, trial, artifacts)
    workflow = comfy_workflow(trial.recipe, plan.ingredients, model_name_of(file.path))
    card = Card(
        name=model_name_of(file.path),
        architecture=model_family(Architecture(trial.recipe.architecture)).header.architecture,
        file=file,
        origin=f"study {study.name}, trial {trial.number} ({trial.title})",
        recipe=trial.recipe,
        contents=contents_of(trial.recipe, plan.ingredients),
        verdict=verdict(study, judged),
        examples=[
            Example(file=path.name, prompt=picture.prompt, settings=picture.settings)
            for path, picture in zip(files.pictures, examples.pictures, strict=False)
        ],
        no_examples=examples.lack,
        suite_loras=[lora.path.name for lora in plan.suite_loras.loras],
        workflow=workflow,
        workflow_file=files.workflow.name,
        usage_hint=flow_hint(plan.prediction) if plan.prediction.kind == "flow" else "",
    )
    contents = {path: picture.content for path, picture in zip(files.pictures, examples.pictures, strict=False)}
    if workflow.text is not None:
        contents[files.workflow] = workflow.text.encode()
    for path, content in {**contents, files.page: page(card).encode()}.items():
        write_file(path, content, overwrite=overwrite)
    notes = (
        *([examples.lack] if examples.lack else []),
        *_workflow_notes(workflow.text, workflow.gaps),
        *_left_over(files, contents),
    )
    return WrittenCard(page=files.page, beside=tuple(contents), notes=notes)


def _workflow_notes(text: str | None, gaps: Sequence[str]) -> list[str]:
    told = "there is no workflow for ComfyUI" if text is None else "the workflow for ComfyUI is not the whole merge"
    return [f"{told}: {gap}" for gap in gaps]


def _left_over(files: CardFiles, written: Mapping[Path, bytes]) -> list[str]:
    """Return a line on files of an earlier card that this one does not have."""
    old = [path.name for path in (files.workflow, *files.pictures) if path not in written and path.exists()]
    return [f"of an earlier card, and not of this merge: {', '.join(old)}"] if old else []
