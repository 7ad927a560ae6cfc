"""Notes on suites without images of the shape that a scorer is meant for."""

from __future__ import annotations

from pathlib import Path

import pytest

from optimizer.trial.image_shapes import shape_notes
from studies.spec.study import StudySpec, parse_spec


def spec(sizes: str, scorers: str) -> StudySpec:
    text = f"""
        study: s
        parents: [a.safetensors, b.safetensors]
        suite: {{prompts: [a cat], sizes: {sizes}}}
        scorers: {scorers}
        """
    return parse_spec(text, base_dir=Path("/models"))


OWN = "{duplicate_subject: , sharpness: }"


@pytest.mark.parametrize(
    ("sizes", "scorers", "told"),
    [
        ("[512x512]", "{twice: {kind: duplicate_subject}}", ["twice"]),
        ("[512x640]", OWN, ["duplicate_subject"]),
        ("[512x512, 768x512]", OWN, []),
        ("[512x768]", OWN, []),
        ("[512x512]", "{sharpness: }", []),
    ],
)
def test_a_scorer_of_repeated_subjects_without_elongated_images_has_a_note(
    sizes: str, scorers: str, told: list[str]
) -> None:
    notes = [*shape_notes(spec(sizes, scorers))]
    assert len(notes) == len(told)
    assert all(f"scorer '{name}'" in note for name, note in zip(told, notes, strict=True))
