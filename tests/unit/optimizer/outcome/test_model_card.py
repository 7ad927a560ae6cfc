"""The page of a model card: what a hub reads, what went in, and which gain is claimed."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from checkpoints import random_tensors
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from safetensors.torch import save_file
from stored_study import final_of, store_study

from optimizer.merging.engine.export import Exported
from optimizer.merging.engine.ingredients import Ingredients
from optimizer.merging.files.checkpoint import Checkpoint
from optimizer.merging.files.parents import Parents
from optimizer.outcome.model_card.block_line import block_line
from optimizer.outcome.model_card.contents import Content, contents_of
from optimizer.outcome.model_card.front_matter import front_matter
from optimizer.outcome.model_card.page import Card, Example, page
from optimizer.outcome.model_card.verdict import Judged, verdict
from optimizer.outcome.model_card.workflow import Workflow
from optimizer.trial.objective import SINGLE, Objective
from search_spaces.block_weights import parse_block_weights
from search_spaces.blocks import Architecture, places
from studies.recipe.recipe import BakedVae, LoraUse, Operation, Parent, Recipe, Step, canonical_values
from studies.records.database import open_database
from studies.records.finals import Final
from studies.records.stored_trials import load_trials
from studies.records.study_records import StudyRecords
from studies.records.values import Gain, StoredTrial

SD15, SDXL = Architecture.SD15, Architecture.SDXL
STRANGE = (
    "a: b",
    "\"quoted\" 'twice'",
    "# no comment",
    "- [x] | > &a *b !c %d @e",
    "🦊 füchse",
    "null",
    "1.5",
    "---",
    "x\n---\ny",
)
ARCHITECTURE = "stable-diffusion-v1"


def content(letter: str, **said: Any) -> Content:
    return Content(role=f"parent {letter}", file=f"{letter}.safetensors", sha256=letter * 64, **said)


def recipe(
    architecture: Architecture = SD15, method: str = "weighted_sum", inputs: tuple[str, ...] = ("A", "B")
) -> Recipe:
    numbers = {place: (index / 100,) for index, place in enumerate(places(architecture))} | {"vae": (0.0,)}
    if architecture == SDXL:
        numbers["text_encoder_2"] = numbers["text_encoder"]
    step = Step(operation=Operation(method=method, inputs=inputs), values=canonical_values(numbers))
    parents = tuple(Parent(letter=letter, name=f"model {letter}", sha256=letter * 64) for letter in "ABC")
    return Recipe(architecture=architecture.value, parents=parents[: max(2, len(inputs))], steps=(step,), dtype="fp16")


def card(**changes: Any) -> Card:
    return replace(
        Card(
            name="best",
            architecture=ARCHITECTURE,
            file=Exported(path=Path("best.safetensors"), bytes=2_000_000, sha256="f" * 64),
            origin="study first, trial 7 (depth)",
            recipe=recipe(),
            contents=(content("A"), content("B")),
            verdict="VERDICT",
            examples=(),
            no_examples="There are no example pictures: no render of this trial was kept",
            suite_loras=(),
            workflow=Workflow(text="{}", gaps=()),
            workflow_file="best-workflow.json",
            usage_hint="",
        ),
        **changes,
    )


def matter(text: str) -> dict[str, Any]:
    """The front matter, as a hub cuts it out: between the first line of dashes and the next."""
    begin, between, _ = re.split(r"^---$\n", text, maxsplit=2, flags=re.MULTILINE)
    assert begin == ""
    found: dict[str, Any] = yaml.safe_load(between)
    return found


# ------------------------------------------------------------------------------------------ front matter


@pytest.mark.parametrize("name", STRANGE)
def test_front_matter_is_yaml_whatever_names_and_prompts_are(name: str) -> None:
    example = Example(file="x y-1.png", prompt=name, settings=name)
    read = matter(page(card(name=name, contents=(content("A", title=name, licence=name),), examples=(example,))))
    assert read["model_name"] == " ".join(name.split())
    assert read["widget"] == [{"text": " ".join(name.split()), "output": {"url": "x y-1.png"}}]
    assert read["pipeline_tag"] == "text-to-image"
    assert read["library_name"] == "diffusers"
    assert {"merge", "mergetune", ARCHITECTURE} <= set(read["tags"])


@given(st.text())
def test_front_matter_is_yaml_for_any_text(text: str) -> None:
    read = matter(front_matter(text, ARCHITECTURE, (content("A", licence=text or None),), {"a.png": text}))
    assert isinstance(read["model_name"], str)
    assert isinstance(read["widget"][0]["text"], str)


@pytest.mark.parametrize(
    ("licences", "expected"),
    [
        (("CreativeML Open RAIL-M", "creativeml-openrail-m"), {"license": "creativeml-openrail-m"}),
        (("CreativeML Open RAIL++-M License",) * 2, {"license": "openrail++"}),
        (("MIT", "mit license"), {"license": "mit"}),
        (("Fair AI Public License 1.0-SD",) * 2, {"license": "other", "license_name": "fair-ai-public-license-1.0-sd"}),
        (("https://example.org/l",) * 2, {"license": "other", "license_link": "https://example.org/l"}),
        (("You may " * 100,) * 2, {"license": "other"}),
        (("MIT", "Apache-2.0"), {}),
        (("MIT", None), {}),
        ((None, None), {}),
        (("?", "!"), {}),
        (("a" * 150 + "b" + "a" * 250, "a" * 250 + "b" + "a" * 150), {}),
    ],
)
def test_a_licence_is_claimed_only_where_all_files_name_the_same(
    licences: tuple[str | None, str | None], expected: Mapping[str, str]
) -> None:
    contents = tuple(content(letter, licence=licence) for letter, licence in zip("AB", licences, strict=True))
    text = page(card(contents=contents))
    assert {key: value for key, value in matter(text).items() if key.startswith("license")} == expected
    assert ("All files name the same licence" in text) == bool(expected)
    if licences == ("MIT", "Apache-2.0"):
        assert "| MIT |" in text
        assert "| Apache-2.0 |" in text


def test_models_that_parents_were_trained_from_are_named() -> None:
    contents = (content("A", base_models=("owner/base",)), content("B", base_models=("owner/base", "other/base")))
    read = matter(page(card(contents=contents)))
    assert read["base_model"] == ["owner/base", "other/base"]
    assert "base_model" not in matter(page(card()))


# ------------------------------------------------------------------------------------------ what went in


def test_headers_of_parents_are_told_and_their_absence_too(tmp_path: Path) -> None:
    said = {
        "modelspec.title": "Fox | <b>Mix</b>  v2\n`x` *y*",
        "modelspec.author": "[me](https://example.org)",
        "modelspec.license": "MIT",
        "ss_sd_model_name": "owner/base",
        "base_model": "/home/me/base.safetensors",
    }
    save_file(random_tensors("sd15", 0), tmp_path / "a.safetensors", said)
    save_file(random_tensors("sd15", 1), tmp_path / "b.safetensors")
    files = Ingredients(Parents.of([Checkpoint.open(tmp_path / f"{letter}.safetensors") for letter in "ab"]))
    first, second = contents_of(recipe(), files)
    assert first.base_models == ("owner/base",)
    assert (second.title, second.author, second.licence) == (None, None, None)
    text = page(card(contents=(first, second)))
    assert str(tmp_path) not in text
    shown = MarkdownIt("commonmark").enable("table").render(text.split("---\n", 2)[2])
    cells = [html.unescape(cell) for cell in re.findall("<td>(.*?)</td>", shown)]
    at = cells.index("parent A")
    assert cells[at + 3 : at + 6] == ["Fox | <b>Mix</b> v2 `x` *y*", "[me](https://example.org)", "MIT"]
    assert "| parent B | b.safetensors | " + "B" * 64 + " | not given | not given | not given |" in text
    assert "do not agree on a licence" in text


def test_loras_of_the_suite_and_the_way_to_render_a_flow_are_told() -> None:
    text = page(card(suite_loras=("style.safetensors",), usage_hint="ModelSamplingSD3 with shift 3"))
    assert "LoRAs on top, which are not in the file: style.safetensors" in text
    assert "ModelSamplingSD3 with shift 3" in text
    assert "on top" not in page(card())


def test_pictures_stand_with_their_settings_whatever_signs_these_have() -> None:
    example = Example(file="my best-1.png", prompt="a ]fox[", settings="a fox ``` `x`\nSteps: 2")
    text = page(card(examples=(example,), no_examples=""))
    assert "![a \\]fox\\[](my%20best-1.png)" in text
    assert "````text\na fox ``` `x`\nSteps: 2\n````" in text


def test_a_workflow_that_is_not_the_whole_merge_says_what_it_lacks() -> None:
    assert "It is not the whole merge:\n\n- no VAE" in page(card(workflow=Workflow(text="{}", gaps=("no VAE",))))
    text = page(card(workflow=Workflow(text=None, gaps=("slerp",))))
    assert "There is no workflow of core nodes for this merge: slerp." in text
    assert "best-workflow.json" not in text


# ------------------------------------------------------------------------------------------ block weights


@pytest.mark.parametrize(("architecture", "count"), [(SD15, 26), (SDXL, 20)])
def test_the_line_of_block_weights_gives_the_recipes_ratios_back(architecture: Architecture, count: int) -> None:
    merge = recipe(architecture)
    (line,) = (
        line for line in page(card(recipe=merge)).splitlines() if line.count(",") == count - 1 and line[0] == "0"
    )
    assert parse_block_weights(line, architecture) == {place: ratio for place, (ratio,) in merge.steps[0].values}


LORA = LoraUse(name="ink", sha256="1" * 64, weights=tuple((place, 1.0) for place in sorted(places(SD15))))
AGAIN = replace(recipe().steps[0], operation=Operation(method="weighted_sum", inputs=("result-1", "B")))
OF_THE_VAE = replace(recipe().steps[0], values=canonical_values(dict.fromkeys(places(SD15), (0.5,))))


@pytest.mark.parametrize(
    ("merge", "reason"),
    [
        (recipe(method="slerp"), "this merge is slerp"),
        (recipe(method="add_difference", inputs=("A", "B", "C")), "this merge is add_difference"),
        (recipe(inputs=("B", "A")), "this merge is of B, A"),
        (replace(recipe(), steps=(*recipe().steps, AGAIN)), "has 2 steps"),
        (replace(recipe(), steps=()), "parent A alone"),
        (replace(recipe(), loras=(LORA,)), "has LoRAs"),
        (replace(recipe(), steps=(OF_THE_VAE,)), "a ratio for the VAE"),
    ],
)
def test_a_merge_that_is_no_line_of_block_weights_says_why(merge: Recipe, reason: str) -> None:
    found = block_line(merge)
    assert found.line is None
    assert reason in found.reason


def test_a_baked_vae_leaves_the_line_as_it_is() -> None:
    baked = replace(recipe(), steps=(OF_THE_VAE,), vae=BakedVae(name="vae", sha256="2" * 64))
    assert block_line(baked).line == ",".join(["0.5"] * 26)


# ------------------------------------------------------------------------------------------ how much better

TRIALS, CHOSEN = 8, 5
GOOD = Gain(value=0.4, low=0.2, high=0.6, parent="B")
UNSURE = Gain(value=0.1, low=-0.1, high=0.3, parent="B")
BAD = Gain(value=-0.4, low=-0.6, high=-0.2, parent="B")
SEARCHED = Gain(value=9.0, low=8.0, high=9.5, parent="A")


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> StudyRecords:
    file = tmp_path_factory.mktemp("card") / "mergetune.db"
    return store_study(
        open_database(f"sqlite:///{file}"),
        "first",
        lambda params: dict.fromkeys(("sharpness", "contrast"), (params["IN04"],) * 4),
        trials=TRIALS,
        objective={"sharpness": {"weight": 1}},
    )


def final(gain: Gain, *, outdated: bool = False) -> Final:
    return final_of(gain, chosen=CHOSEN, scores=("sharpness",), complete_trials=TRIALS - outdated)


def told(records: StudyRecords, number: int, held: Final | None, searched: Gain = SEARCHED) -> str:
    trials: list[StoredTrial] = [
        replace(each, gains={} if each.number < 2 else {SINGLE: searched}) for each in load_trials(records)
    ]
    objective = Objective.of_study(records.study)
    return verdict(records.study, Judged(trial=trials[number], trials=trials, final=held, objective=objective))


def test_a_gain_that_the_final_confirmed_is_told_as_held_out(records: StudyRecords) -> None:
    text = told(records, CHOSEN, final(GOOD))
    assert "images that the search never saw" in text
    assert "| objective | +0.4 | +0.2 to +0.6 | B (b.safetensors) |" in text
    assert "over parent B, which is better in the objective there" in text
    assert "No gain is claimed" not in text
    assert "+9" not in text


@pytest.mark.parametrize(
    ("gain", "said"),
    [
        (UNSURE, "interval of this merge's gain over parent B includes 0"),
        (BAD, "this merge lost to parent B in the final"),
    ],
)
def test_a_gain_that_the_final_refuted_or_doubts_is_not_claimed(records: StudyRecords, gain: Gain, said: str) -> None:
    text = told(records, CHOSEN, final(gain))
    assert text.count("**No gain is claimed:**") == 1
    assert said in html.unescape(text)
    assert f"trial {CHOSEN}" not in text
    assert f"| objective | {gain.value:+.3g} |" in text
    assert "+9" not in text


def test_a_merge_outside_of_a_final_that_no_merge_won_claims_nothing(records: StudyRecords) -> None:
    text = told(records, CHOSEN + 1, final(BAD))
    assert "no merge beats parent B" in text
    assert "+9" not in text


def test_a_merge_that_took_no_part_in_a_final_is_not_said_to_have_had_none(records: StudyRecords) -> None:
    text = told(records, CHOSEN + 1, final(GOOD))
    assert "4 images of the search itself" in text
    assert "It took no part in the final" in text
    assert "Nothing was held out" not in text


def test_without_a_final_the_gain_is_told_as_the_searchs(records: StudyRecords) -> None:
    text = told(records, CHOSEN, None)
    assert "4 images of the search itself" in text
    assert "Nothing was held out" in text
    assert "| objective | +9 | +8 to +9.5 | A (a.safetensors) |" in text
    assert "luck." not in text


def test_a_gain_of_the_search_that_may_be_luck_is_told_as_such(records: StudyRecords) -> None:
    assert "Where an interval includes 0, the gain may be luck." in told(records, CHOSEN, None, UNSURE)


def test_an_outdated_final_still_counts_more_than_the_search(records: StudyRecords) -> None:
    assert "+9" not in told(records, CHOSEN, final(BAD, outdated=True))
    assert "lost to parent B in the final" in told(records, CHOSEN, final(BAD, outdated=True))


def test_a_parent_has_no_gain(records: StudyRecords) -> None:
    assert told(records, 0, final(GOOD)) == "This file is parent A alone, so there is no gain to tell."
