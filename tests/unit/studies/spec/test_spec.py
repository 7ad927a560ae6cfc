"""The YAML a user writes: what it means, and the one line that each mistake gets."""

from __future__ import annotations

import json
import string
import unicodedata
from copy import deepcopy
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_input import bomb
from pydantic import BaseModel

from basics.names import unseen
from search_spaces.blocks import Architecture
from search_spaces.errors import SpaceError
from search_spaces.space import SearchSpace
from studies.errors import SpecError, StudyChangedError
from studies.recipe.blueprint import slots_of
from studies.spec.fingerprints import refuse_changed_spec
from studies.spec.samplers import SAMPLERS, SCHEDULES
from studies.spec.search import BudgetSettings, RacingSettings, SamplerName
from studies.spec.study import StudySpec, load_spec, load_spec_and_notes, parse_spec
from studies.spec.suite import SCORING, SuitePrompt, SuiteSettings
from studies.system.texts import cut_texts

BASE = Path("/data/study")

SMALLEST = """
study: portraits
parents: [a.safetensors, b.safetensors]
suite: {prompts: [a cat]}
scorers: {sharpness: }
"""

FULL = """
study: portraits
parents: [models/a.safetensors, ../b.safetensors, /far/c.safetensors]
method: add_difference
space:
  preset: sections
  granularity: blocks
  bounds: {IN*: [0.1, 0.9]}
  frozen: {OUT11: 0}
  groups: {middle: [M00]}
  merge_vae: true
suite:
  prompts:
    - a cat
    - {prompt: a dog, negative: blurry, seeds: [7], sizes: [[512, 768]]}
  negative: ugly
  seeds: [1, 2]
  sizes: [512, [768, 512]]
  steps: 8
  cfg: 5.5
  sampler: Euler a
  clip_skip: 2
scorers:
  clip_score: {clip: {model: small, pretrained: clip/small.safetensors, config_dir: clip}}
  quality: {kind: aesthetic, head: head.pth}
  fid: {reference: photos, weights: inception.pth}
  sharpness: {}
objective:
  clip_score: {weight: 2, unit: 0.5}
  sharpness:
probes: {uniform: [0.5], profiles: 2}
sampler: {name: tpe, seed: 4, options: {n_startup_trials: 5}}
budget: {trials: 30}
render:
  {device: cpu, dtype: fp32, batch_size: 4, fp16_accumulation: true, vae_tiling: true, cuda_graphs: false, keep: all,
   degenerate_limit: 1}
export: {dtype: fp16}
final: {top: 3, prompts: [a fox], seeds: [8]}
"""


def parse(text: str) -> StudySpec:
    return parse_spec(text, base_dir=BASE)


def plain(**changes: Any) -> dict[str, Any]:
    """The smallest spec as data, with top-level keys replaced."""
    data: dict[str, Any] = yaml.safe_load(SMALLEST)
    return data | changes


def parse_data(data: dict[str, Any]) -> StudySpec:
    return parse(yaml.safe_dump(data))


def refusal(data: dict[str, Any] | str) -> str:
    """The message a spec is refused with: always a single line."""
    with pytest.raises(SpecError) as caught:
        parse(data if isinstance(data, str) else yaml.safe_dump(data))
    message = str(caught.value)
    assert "\n" not in message
    return message


# ------------------------------------------------------------------------------------- what it means


def test_every_setting_of_a_full_spec_arrives() -> None:
    spec = parse(FULL)
    assert spec.study == "portraits"
    assert spec.parents == tuple(
        map(Path, ("/data/study/models/a.safetensors", "/data/b.safetensors", "/far/c.safetensors"))
    )
    assert spec.method == "add_difference"
    assert spec.space.model_dump() == {
        "preset": "sections",
        "granularity": "blocks",
        "bounds": {"IN*": (0.1, 0.9)},
        "frozen": {"OUT11": 0.0},
        "groups": {"middle": ("M00",)},
        "merge_vae": True,
    }
    suite = spec.suite
    assert (suite.steps, suite.cfg, suite.sampler, suite.schedule, suite.clip_skip) == (
        8,
        5.5,
        "euler_ancestral",
        "normal",
        2,
    )
    assert [term.model_dump() for term in spec.terms.values()] == [
        {"weight": 2.0, "unit": 0.5},
        {"weight": 1.0, "unit": None},
    ]
    assert spec.probes.model_dump() == {"uniform": (0.5,), "recipes": (), "presets": (), "profiles": 2}
    assert spec.sampler.model_dump() == {"name": "tpe", "seed": 4, "options": {"n_startup_trials": 5}}
    assert spec.budget.trials == 30
    assert spec.render.model_dump() == {
        "device": "cpu",
        "dtype": "fp32",
        "batch_size": 4,
        "fp16_accumulation": True,
        "vae_tiling": True,
        "cuda_graphs": False,
        "keep": "all",
        "degenerate_limit": 1,
    }
    assert spec.export.dtype == "fp16"


def test_what_is_left_out_takes_the_documented_default() -> None:
    spec = parse(SMALLEST)
    assert [operation.method for operation in spec.operations] == ["weighted_sum"]
    assert spec.space.granularity == "blocks"
    assert spec.suite.seeds == (0,)
    assert spec.suite.sizes == ((512, 512),)
    assert (spec.suite.steps, spec.suite.cfg, spec.suite.clip_skip) == (20, 7.0, 1)
    assert (spec.suite.sampler, spec.suite.schedule, spec.suite.program) == ("dpmpp_2m", "karras", "a1111")
    assert (spec.objective, spec.objectives) == (None, None)
    assert list(spec.terms) == ["sharpness"]
    assert spec.probes.uniform == (0.25, 0.5, 0.75)
    assert spec.probes.profiles == 6
    assert (spec.sampler.name, spec.sampler.seed, dict(spec.sampler.options)) == ("depth", 0, {})
    assert spec.budget.trials == 100
    assert (spec.render.device, spec.render.dtype, spec.render.keep) == ("auto", "auto", "best")
    assert spec.export.dtype is None


def test_the_suite_is_prompts_by_seeds_by_sizes_in_that_order() -> None:
    items = parse(FULL).suite.items()
    assert [item.index for item in items] == list(range(5))
    assert [(item.prompt, item.negative, item.seed, item.width, item.height) for item in items] == [
        ("a cat", "ugly", 1, 512, 512),
        ("a cat", "ugly", 1, 768, 512),
        ("a cat", "ugly", 2, 512, 512),
        ("a cat", "ugly", 2, 768, 512),
        ("a dog", "blurry", 7, 512, 768),
    ]


def test_a_prompt_alone_is_a_list_of_one() -> None:
    alone = parse_data(plain(suite={"prompts": "a cat, 4k: sharp"}, final={"top": 3, "prompts": "a fox"}))
    listed = parse_data(plain(suite={"prompts": ["a cat, 4k: sharp"]}, final={"top": 3, "prompts": ["a fox"]}))
    assert alone == listed
    assert [prompt.prompt for prompt in alone.suite.prompts] == ["a cat, 4k: sharp"]


def test_a_prompt_alone_is_expanded_and_told_of_as_one_of_a_list(tmp_path: Path) -> None:
    suite = {"prompts": "a {red|blue} cat", "dynamic": {"count": 2}}
    spec = parse_spec(yaml.safe_dump(plain(suite=suite)), base_dir=tmp_path)
    assert {prompt.prompt for prompt in spec.suite.prompts} == {"a red cat", "a blue cat"}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(plain(suite={"prompts": "a __colour__ cat"})))
    (note,) = load_spec_and_notes(tmp_path / "spec.yaml").notes
    assert note.startswith("suite.prompts.0: __colour__ is read as words")


def test_an_empty_negative_prompt_of_a_row_replaces_the_suites_own() -> None:
    rows = [{"prompt": "a cat", "negative": ""}]
    suite = parse_data(plain(suite={"prompts": rows, "negative": "ugly"})).suite
    assert suite.items()[0].negative == ""


def test_relative_paths_in_scorer_options_are_relative_to_the_spec() -> None:
    scorers = parse(FULL).scorers
    assert scorers["clip_score"].options["clip"] == {
        "model": "small",
        "pretrained": "/data/study/clip/small.safetensors",
        "config_dir": "/data/study/clip",
    }
    assert scorers["quality"].options == {"head": "/data/study/head.pth"}
    assert scorers["fid"].options == {"reference": "/data/study/photos", "weights": "/data/study/inception.pth"}


def test_paths_are_relative_to_the_file_whatever_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "spec.yaml").write_text(SMALLEST)
    monkeypatch.chdir(tmp_path)
    spec = load_spec(Path("here/spec.yaml"))
    assert spec.parents == (tmp_path / "here" / "a.safetensors", tmp_path / "here" / "b.safetensors")


def test_a_home_folder_is_written_as_a_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert parse_data(plain(parents=["~/a.safetensors", "b.safetensors"])).parents[0] == Path(
        "/home/someone/a.safetensors"
    )


@pytest.mark.parametrize(
    ("written", "kinds"),
    [
        ({"sharpness": None}, {"sharpness": "sharpness"}),
        ({"sharpness": {}}, {"sharpness": "sharpness"}),
        ({"crisp": {"kind": "sharpness"}}, {"crisp": "sharpness"}),
        ({"a": {"kind": "fid", "reference": "x"}, "fid": {"reference": "y"}}, {"a": "fid", "fid": "fid"}),
    ],
)
def test_a_scorers_kind_is_its_name_unless_given(written: dict[str, Any], kinds: dict[str, str]) -> None:
    assert {name: entry.kind for name, entry in parse_data(plain(scorers=written)).scorers.items()} == kinds


# -------------------------------------------------------------------------------- keys nobody knows

MISSPELT = [
    ("", "stdy", "study"),
    ("", "objectve", "objective"),
    ("suite", "shedule", "schedule"),
    ("suite.prompts.1", "sed", "seeds"),
    ("space", "granularty", "granularity"),
    ("objective.clip_score", "wieght", "weight"),
    ("probes", "uniforms", "uniform"),
    ("sampler", "naem", "name"),
    ("budget", "trails", "trials"),
    ("render", "devise", "device"),
    ("export", "dtpye", "dtype"),
]


@pytest.mark.parametrize(("place", "wrong", "right"), MISSPELT)
def test_a_misspelt_key_is_named_with_the_nearest_known_one(place: str, wrong: str, right: str) -> None:
    data = yaml.safe_load(FULL)
    here = data
    for step in filter(None, place.split(".")):
        here = here[int(step) if step.isdecimal() else step]
    here[wrong] = 1
    message = refusal(data)
    assert f"`{f'{place}.' if place else ''}{wrong}`" in message
    assert f"did you mean `{right}`?" in message


@pytest.mark.parametrize(
    ("scorer", "options", "wrong", "right"),
    [
        ("fid", {"reference": "x", "wieghts": "y"}, "wieghts", "weights"),
        ("aesthetic", {"haed": "x"}, "haed", "head"),
        ("clip_score", {"clip": {"pretraind": "x"}}, "clip.pretraind", "pretrained"),
    ],
)
def test_a_misspelt_scorer_option_is_named_with_the_nearest_known_one(
    scorer: str, options: dict[str, Any], wrong: str, right: str
) -> None:
    message = refusal(plain(scorers={scorer: options}))
    assert scorer in message
    assert f"unknown key `{wrong}`: did you mean `{right}`?" in message


def test_every_section_refuses_a_key_that_is_like_no_other() -> None:
    sections = [name for name, field in StudySpec.model_fields.items() if _is_model(field.annotation)]
    assert {"space", "suite", "probes", "sampler", "budget", "render", "export"} <= set(sections)
    for section in sections:
        data = yaml.safe_load(FULL)
        data[section]["zzzzzz"] = 1
        message = refusal(data)
        assert f"`{section}.zzzzzz`" in message
        assert "known here: " in message


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def test_an_unknown_scorer_is_named_with_the_nearest_known_one() -> None:
    message = refusal(plain(scorers={"shapness": None}))
    assert "'shapness'" in message
    assert "'sharpness'" in message


# ------------------------------------------------------------------------------- values that are wrong

WRONG = [
    # (top-level key, its value, words of the message)
    ("study", 5, ["`study`", "a number", "name in quotes", "5"]),
    ("study", "", ["`study`"]),
    ("study", "../etc", ["`study`"]),
    ("study", "a\nb", ["`study`"]),
    ("study", "x" * 201, ["`study`", "60"]),
    ("parents", "a.safetensors", ["`parents`", "list"]),
    ("parents", [1, 2], ["`parents.0`", "path"]),
    ("method", "addition", ["'addition'", "weighted_sum", "add_difference"]),
    ("parents", ["a"], ["a study takes 2 to 26 parents", "names 1"]),
    ("parents", [f"p{index}" for index in range(27)], ["26 parents", "27"]),
    ("parents", ["a", "./a"], ["named twice"]),
    ("parents", ["a", "b/../a"], ["named twice"]),
    ("method", "add_difference", ["add_difference", "3 inputs", "got A, B"]),
    ("space", 5, ["`space`", "mapping"]),
    ("space", {"bounds": {"IN*": [0, 1, 2]}}, ["`space.bounds.IN*`"]),
    ("space", {"groups": {"g": "IN00"}}, ["`space.groups.g`", "list"]),
    ("suite", {"prompts": []}, ["suite is empty"]),
    ("suite", {"prompts": ["a cat"], "seeds": []}, ["suite is empty"]),
    ("suite", {"prompts": ["a cat"], "sizes": []}, ["suite is empty"]),
    ("suite", {"prompts": [{"prompt": "a cat", "seeds": []}]}, ["suite is empty"]),
    ("suite", {}, ["`suite.prompts` is missing"]),
    ("suite", {"prompts": ""}, ["`suite.prompts.0.prompt`"]),
    ("suite", {"prompts": 7}, ["`suite.prompts`", "list", "7"]),
    ("suite", {"prompts": [""]}, ["`suite.prompts.0.prompt`"]),
    ("suite", {"prompts": [None]}, ["`suite.prompts.0`"]),
    ("suite", {"prompts": ["a cat", "a cat"]}, ["same render twice"]),
    ("suite", {"prompts": ["a cat"], "seeds": [1, 1]}, ["same render twice"]),
    ("suite", {"prompts": ["a cat"], "sizes": [512, [512, 512]]}, ["same render twice"]),
    ("suite", {"prompts": ["a cat"], "sizes": [500]}, ["500x500", "multiples of 64"]),
    ("suite", {"prompts": ["a cat"], "sizes": [[512, 100]]}, ["512x100", "multiples of 64"]),
    ("suite", {"prompts": ["a cat"], "sizes": [0]}, ["0x0", "multiples of 64"]),
    ("suite", {"prompts": ["a cat"], "sizes": [-64]}, ["-64x-64", "multiples of 64"]),
    ("suite", {"prompts": ["a cat"], "sizes": [8192]}, ["8192x8192", "4096"]),
    ("suite", {"prompts": ["a cat"], "sizes": [[64, 64, 64]]}, ["`suite.sizes.0`"]),
    ("suite", {"prompts": ["a cat"], "seeds": True}, ["`suite.seeds`", "list", "True"]),
    ("suite", {"prompts": ["a cat"], "seeds": [1.5]}, ["`suite.seeds.0`", "integer", "1.5"]),
    ("suite", {"prompts": ["a cat"], "seeds": [-1]}, ["`suite.seeds.0`", "-1"]),
    ("suite", {"prompts": ["a cat"], "seeds": [2**64]}, ["`suite.seeds.0`", str(2**64)]),
    ("suite", {"prompts": ["a cat"], "steps": 0}, ["`suite.steps`"]),
    ("suite", {"prompts": ["a cat"], "cfg": float("nan")}, ["`suite.cfg`", "nan"]),
    ("suite", {"prompts": ["a cat"], "sampler": "eulr"}, ["`suite.sampler`", "did you mean euler", "'eulr'"]),
    ("suite", {"prompts": ["a cat"], "clip_skip": 12}, ["`suite.clip_skip`", "12"]),
    ("suite", {"prompts": ["a cat"], "prediction": "v"}, ["`suite.prediction`", "v_prediction", "'v'"]),
    ("suite", {"prompts": ["a cat"], "zero_snr": "yes"}, ["`suite.zero_snr`", "expected auto, true or false", "'yes'"]),
    ("suite", {"prompts": ["a cat"], "zero_snr": 1}, ["`suite.zero_snr`", "expected auto, true or false", "1"]),
    ("suite", {"prompts": ["a"], "prediction": "epsilon", "zero_snr": True}, ["`zero_snr: true` needs `prediction: v"]),
    (
        "suite",
        {"prompts": ["a"], "prediction": "flow", "shift": 0},
        ["`suite.shift`", "a number from 1 ", "to 12"],
    ),
    ("suite", {"prompts": ["a"], "shift": 12.5}, ["`suite.shift`", "expected auto, or a number from 1 ", "12.5"]),
    ("suite", {"prompts": ["a"], "shift": float("nan")}, ["`suite.shift`", "expected auto, or a number from 1 "]),
    ("suite", {"prompts": ["a"], "shift": True}, ["`suite.shift`", "expected auto, or a number from 1 "]),
    ("suite", {"prompts": ["a"], "shift": [3]}, ["`suite.shift`", "expected auto, or a number from 1 "]),
    ("suite", {"prompts": ["a"], "prediction": "epsilon", "shift": 3}, ["`shift` needs `prediction: flow`", "epsilon"]),
    ("suite", {"prompts": ["a"], "prediction": "v_prediction", "shift": 3}, ["`shift` needs `prediction: flow`"]),
    ("suite", {"prompts": ["a"], "prediction": "flow", "zero_snr": True}, ["`zero_snr` is of models that predict v"]),
    ("scorers", {}, ["no scorers"]),
    ("scorers", None, ["`scorers`"]),
    ("scorers", ["sharpness"], ["`scorers`", "mapping"]),
    ("scorers", {"sharpness": 5}, ["`scorers.sharpness`", "5"]),
    ("scorers", {"sharpness": ["x"]}, ["`scorers.sharpness`"]),
    ("scorers", {"objective": {"kind": "sharpness"}}, ["cannot be called 'objective'"]),
    ("scorers", {"a\nb": {"kind": "sharpness"}}, ["cannot be called"]),
    ("scorers", {"x" * 101: {"kind": "sharpness"}}, ["cannot be called", "100"]),
    ("scorers", {"fid": {}}, ["fid", "`reference` is missing"]),
    ("objective", {"sharpnes": {}}, ["'sharpnes'", "sharpness"]),
    ("objective", {}, ["`objective` is empty"]),
    ("objective", ["sharpness"], ["`objective`", "mapping"]),
    ("objective", {"sharpness": 2}, ["`objective.sharpness`", "mapping", "2"]),
    ("objective", {"sharpness": {"weight": 0}}, ["`objective.sharpness.weight`"]),
    ("objective", {"sharpness": {"weight": float("inf")}}, ["`objective.sharpness.weight`"]),
    ("objective", {"sharpness": {"unit": -1}}, ["`objective.sharpness.unit`", "-1"]),
    ("objectives", ["sharpness"], ["two or more"]),
    ("objectives", ["sharpness", "sharpness"], ["two or more different"]),
    ("objectives", ["sharpness", "contrast"], ["'contrast'", "sharpness"]),
    ("probes", {"uniform": [float("nan")]}, ["`probes.uniform.0`"]),
    ("probes", {"profiles": -1}, ["`probes.profiles`", "-1"]),
    ("sampler", {"name": "bayes"}, ["`sampler.name`", "'gp'", "'bayes'"]),
    ("sampler", {"seed": -1}, ["`sampler.seed`"]),
    ("sampler", [1], ["`sampler`", "mapping"]),
    ("budget", {"trials": 0}, ["`budget.trials`", "0"]),
    ("budget", {"trials": "many"}, ["`budget.trials`", "'many'"]),
    ("budget", {"patience": 0}, ["`budget.patience`", "0"]),
    ("render", {"batch_size": 0}, ["`render.batch_size`", "0"]),
    ("render", {"keep": "some"}, ["`render.keep`", "'best'", "'some'"]),
    ("export", {"dtype": "fp17"}, ["`export.dtype`", "'fp16'", "'fp17'"]),
]


@pytest.mark.parametrize(("key", "value", "words"), WRONG, ids=[f"{key}-{str(value)[:40]}" for key, value, _ in WRONG])
def test_a_wrong_value_is_named_with_what_was_expected(key: str, value: Any, words: list[str]) -> None:
    message = refusal(plain(**{key: value}))
    for word in words:
        assert word in message
    for jargon in ("tuple", "dictionary", "Value error", "validation error"):
        assert jargon not in message


def test_patience_is_refused_where_nothing_is_expected_in_a_unit() -> None:
    message = refusal(plain(budget={"patience": 3}, sampler={"name": "tpe"}))
    assert "patience needs a sampler that predicts improvement (depth), and the spec names tpe" in message
    several = {"scorers": {"sharpness": None, "contrast": None}, "objectives": ["sharpness", "contrast"]}
    assert "patience needs a single objective" in refusal(plain(budget={"patience": 3}, **several))


def test_another_budget_is_checked_like_the_first() -> None:
    spec = parse_data(plain(sampler={"name": "tpe"}))
    changed = spec.with_budget(BudgetSettings(trials=7, minutes=2))
    assert changed.budget == BudgetSettings(trials=7, minutes=2)
    assert changed.with_budget(spec.budget) == spec
    with pytest.raises(SpecError, match="patience needs a sampler that predicts improvement"):
        spec.with_budget(BudgetSettings(patience=5))


@pytest.mark.parametrize("key", ["study", "parents", "suite", "scorers"])
def test_a_key_that_is_needed_is_missed_by_name(key: str) -> None:
    data = plain()
    del data[key]
    assert f"`{key}` is missing" in refusal(data)


def test_the_first_of_several_mistakes_is_told_and_the_others_are_counted() -> None:
    message = refusal(plain(budget={"trials": 0}, render={"batch_size": 0, "keep": "some"}))
    assert "`budget.trials`" in message
    assert "(and 2 more)" in message


def test_one_number_and_several_objectives_exclude_each_other() -> None:
    scorers = {"sharpness": None, "contrast": None}
    data = plain(scorers=scorers, objective={"sharpness": None}, objectives=list(scorers))
    assert "not both" in refusal(data)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (None, None),
        (False, None),
        (True, RacingSettings(batch=16, confidence=0.99)),
        ({}, RacingSettings(batch=16, confidence=0.99)),
        ({"batch": 4}, RacingSettings(batch=4, confidence=0.99)),
        ({"confidence": 0.8}, RacingSettings(batch=16, confidence=0.8)),
    ],
)
def test_racing_is_off_unless_it_is_asked_for(written: Any, expected: RacingSettings | None) -> None:
    spec = parse_data(plain(suite={"prompts": ["a cat"], "seeds": list(range(17))}, racing=written))
    assert spec.racing == expected
    assert StudySpec.from_json(spec.to_json()) == spec


def test_racing_needs_more_items_than_one_batch() -> None:
    suite = {"prompts": ["a cat"], "seeds": list(range(16))}
    told = refusal(plain(suite=suite, racing={"batch": 16}))
    assert "every 16 images" in told
    assert "the suite has only 16" in told
    assert parse_data(plain(suite=suite, racing={"batch": 15})).racing is not None


@pytest.mark.parametrize(("items", "batch"), [(5, 4), (8, 4), (12, 6), (16, 8), (17, 16), (40, 16)])
@pytest.mark.parametrize("written", [True, {"confidence": 0.9}])
def test_a_batch_that_was_not_written_fits_the_suite_and_stays(items: int, batch: int, written: Any) -> None:
    spec = parse_data(plain(suite={"prompts": ["a cat"], "seeds": list(range(items))}, racing=written))
    assert spec.racing is not None
    assert spec.racing.batch == batch
    assert StudySpec.from_json(spec.to_json()) == spec


def test_racing_is_refused_where_no_batch_fits() -> None:
    told = refusal(plain(suite={"prompts": ["a cat"], "seeds": [1, 2, 3, 4]}, racing=True))
    assert "the suite has only 4" in told


def test_bounds_out_of_order_are_refused_when_the_space_is_built() -> None:
    spec = parse_data(plain(space={"bounds": {"IN*": [0.9, 0.1]}}))
    with pytest.raises(SpaceError) as caught:
        SearchSpace.build(spec.space, Architecture.SD15, slots_of(spec.operations, spec.letters))
    message = str(caught.value)
    assert "IN*" in message
    assert "0.9" in message
    assert "0.1" in message
    assert "\n" not in message


# ------------------------------------------------------------------------------------- steps and LoRAs


CHAIN: dict[str, Any] = {
    "parents": ["a", "b", "c"],
    "steps": [
        {"method": "add_difference", "inputs": ["A", "B", "C"]},
        {"method": "dare_ties", "inputs": ["result", "B"], "clip": True, "seed": 7},
    ],
    "loras": {"style": {"path": "style.safetensors"}, "held": {"path": "held.safetensors", "weight": 0.5}},
    "vae": "other.vae",
}


def test_a_chain_names_the_step_before_it_and_survives_being_stored() -> None:
    spec = parse_data(plain(**CHAIN))
    first, second = spec.operations
    assert (first.inputs, second.inputs) == (("A", "B", "C"), ("result-1", "B"))
    assert (second.clip, second.seed) == (True, 7)
    again = StudySpec.from_json(spec.to_json())
    assert again == spec
    assert again.operations == spec.operations


def test_a_loras_weight_is_searched_unless_it_is_held() -> None:
    spec = parse_data(plain(**CHAIN))
    slots = slots_of(spec.operations, spec.letters, tuple(spec.loras))
    space = SearchSpace.build(spec.full_space, Architecture.SD15, slots)
    searched = {parameter.name: (parameter.low, parameter.high) for parameter in space.parameters}
    assert searched["style"] == (0.0, 1.0)
    assert "held" not in searched
    held = [slot.name for slot in slots].index("held")
    assert {value for _, index, value in space.fixed if index == held} == {0.5}


@pytest.mark.parametrize(
    ("changes", "essentials"),
    [
        ({"method": "ties"}, ["`method`", "`steps`", "not both"]),
        ({"steps": [{"inputs": ["A", "B"]}]}, ["parent C is not used by any step"]),
        ({"steps": [{"inputs": ["A", "D"]}]}, ["'D'", "A, B, C"]),
        ({"steps": [{"inputs": ["result", "B"]}]}, ["'result'", "A, B, C"]),
        ({"steps": [{}, {"inputs": ["A", "B"]}]}, ["result-1 is not used by any later step"]),
        ({"steps": [{"inputs": ["A", "A", "B", "C"]}]}, ["twice"]),
        ({"steps": [{"method": "slerp"}]}, ["slerp", "2 inputs"]),
        ({"loras": {"style": {"path": "x", "weight": [1, 0, 2]}}}, ["`loras.style.weight"]),
        ({"loras": {"style": {"weight": 1}}}, ["path"]),
    ],
)
def test_a_chain_that_does_not_fit_is_refused(changes: dict[str, Any], essentials: list[str]) -> None:
    message = refusal(plain(**{**CHAIN, **changes}))
    assert "\n" not in message
    for essential in essentials:
        assert essential in message, message


# -------------------------------------------------------------------------------- text that is no spec


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("study: [unclosed", ["not valid YAML", "line"]),
        ("study: 'x\nparents: 1", ["not valid YAML"]),
        ("\tstudy: x", ["not valid YAML", "line 1"]),
        ("- study\n- parents", ["no settings", "`study:`"]),
        ("just words", ["no settings"]),
        ("", ["no settings"]),
        ("# nothing but a comment", ["no settings"]),
        ("study: a\n---\nstudy: b", ["not valid YAML"]),
        (SMALLEST + "study: again\n", ["'study'", "given twice", "line 6"]),
        (SMALLEST + "budget: {trials: 3, trials: 4}\n", ["'trials'", "given twice"]),
        (SMALLEST + "budget: 2024-13-45\n", ["not valid YAML"]),
        (SMALLEST + "sampler: {options: &a {x: *a}}\n", ["not valid YAML", "contains itself"]),
        (SMALLEST + "1: 2\n", ["`1`", "string"]),
        ("[" * 5000, ["not valid YAML"]),
    ],
)
def test_text_that_is_no_spec_is_refused_in_one_line(text: str, words: list[str]) -> None:
    message = refusal(text)
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:pathlib.Path.touch [{path}]",
        "!!python/object/apply:os.system ['touch {path}']",
        "!!python/object/new:os.mkdir ['{path}']",
    ],
)
def test_python_tags_are_refused_and_never_run(tag: str, tmp_path: Path) -> None:
    evidence = tmp_path / "executed"
    assert "not valid YAML" in refusal(f"{SMALLEST}\nbudget: {tag.format(path=evidence)}")
    assert not evidence.exists()


def test_yaml_anchors_and_merge_keys_still_work() -> None:
    text = "base: &base {prompts: [a cat]}\n"
    with pytest.raises(SpecError, match="unknown key `base`"):
        parse(text + SMALLEST)
    spec = parse(SMALLEST.replace("{prompts: [a cat]}", "{prompts: [&row {prompt: a cat}, {<<: *row, seeds: [5]}]}"))
    assert [(item.prompt, item.seed) for item in spec.suite.items()] == [("a cat", 0), ("a cat", 5)]


def test_a_missing_spec_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"no spec at .*absent\.yaml"):
        load_spec(tmp_path / "absent.yaml")


def test_a_folder_is_no_spec(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="a spec is a YAML text file"):
        load_spec(tmp_path)


def test_a_binary_file_is_no_spec(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(range(256)) * 4)
    with pytest.raises(SpecError, match="a spec is a YAML text file"):
        load_spec(path)


# ------------------------------------------------------------------------------------------ round trip

names = st.text(string.ascii_letters + string.digits + "_ .+-äß漢", max_size=12).map(lambda tail: f"s{tail}")
words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
scorer_names = st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1, max_size=20).filter(
    lambda name: unseen(name) is None and name != "objective"
)
ratios = st.floats(0, 1)
seeds = st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=3, unique=True)
sides = st.integers(1, 64).map(lambda count: 64 * count)
sizes = st.lists(st.tuples(sides, sides).map(list), min_size=1, max_size=2, unique_by=tuple)
rows: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"prompt": words}, optional={"negative": words | st.none(), "seeds": seeds, "sizes": sizes}
)
suites: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"prompts": st.lists(rows, min_size=1, max_size=3, unique_by=lambda row: row["prompt"])},
    optional={
        "negative": st.text(st.characters(exclude_categories=["Cs"]), max_size=10),
        "seeds": seeds,
        "sizes": sizes,
        "steps": st.integers(1, 1000),
        "cfg": st.floats(0, 100),
        "sampler": st.sampled_from(SAMPLERS),
        "schedule": st.sampled_from(SCHEDULES),
        "program": st.sampled_from(["a1111", "comfyui"]),
        "ensd": st.integers(-(2**62), 2**62),
        "clip_skip": st.integers(1, 11),
    },
)
scorer_entries = st.sampled_from(
    [
        {"kind": "sharpness"},
        {"kind": "fid", "reference": "photos"},
        {"kind": "clip_score", "clip": {"model": "m", "pretrained": "w/x.pt", "config_dir": "c"}},
        {"kind": "clip_iqa", "pairs": [["good", "bad"]]},
        {"kind": "frechet", "reference": "r", "network": "n", "weights": "w.pt", "unit": 0.1},
    ]
)
positive = st.floats(1e-6, 1e6)


@st.composite
def spec_data(draw: st.DrawFn) -> dict[str, Any]:
    """A valid spec as plain data."""
    scorers = draw(st.dictionaries(scorer_names, scorer_entries, min_size=2, max_size=3))
    optional: dict[str, st.SearchStrategy[Any]] = {
        "method": st.just("weighted_sum"),
        "space": st.fixed_dictionaries(
            {},
            optional={
                "granularity": st.sampled_from(["uniform", "sections", "blocks"]),
                "bounds": st.dictionaries(words, st.tuples(ratios, ratios).map(list), max_size=2),
                "frozen": st.dictionaries(words, ratios, max_size=2),
                "groups": st.dictionaries(scorer_names, st.lists(words, min_size=1, max_size=2), max_size=2),
                "merge_vae": st.booleans(),
            },
        ),
        "probes": st.fixed_dictionaries({"uniform": st.lists(ratios, max_size=3), "profiles": st.integers(0, 64)}),
        "sampler": st.fixed_dictionaries(
            {
                "name": st.sampled_from(get_args(SamplerName)),
                "seed": st.integers(0, 2**31 - 1),
                "options": st.dictionaries(words, st.none() | st.booleans() | st.integers(-9, 9) | words, max_size=2),
            }
        ),
        "budget": st.fixed_dictionaries({"trials": st.integers(1, 1_000_000)}),
        "render": st.fixed_dictionaries(
            {
                "device": words,
                "dtype": st.sampled_from(["auto", "fp16", "bf16", "fp32"]),
                "batch_size": st.none() | st.integers(1, 64),
                "fp16_accumulation": st.booleans(),
                "vae_tiling": st.booleans(),
                "cuda_graphs": st.booleans(),
                "keep": st.sampled_from(["best", "all", "none"]),
                "degenerate_limit": st.integers(0, 9),
            }
        ),
        "export": st.fixed_dictionaries({"dtype": st.sampled_from([None, "fp16", "bf16", "fp32"])}),
    }
    term = st.fixed_dictionaries({}, optional={"weight": positive, "unit": st.none() | positive})
    if draw(st.booleans()):
        optional["objective"] = st.fixed_dictionaries(dict.fromkeys(list(scorers)[:1], term))
    else:
        optional["objectives"] = st.just(list(scorers))
    data: dict[str, Any] = draw(
        st.fixed_dictionaries(
            {
                "study": names,
                "parents": st.lists(
                    st.text("abcxyz/._ é", min_size=1, max_size=9).map(lambda name: f"p{name}"),
                    min_size=2,
                    max_size=3,
                    unique_by=lambda name: (BASE / name).resolve(),
                ),
                "suite": suites,
            },
            optional=optional,
        )
    )
    return data | {"scorers": scorers}


@pytest.mark.parametrize("named", ["study", "parents", "unknown"])
def test_aliases_that_multiply_are_refused_at_once(named: str) -> None:
    text = f"{bomb('x')}\n{named}: *bomb\n"
    assert "100,000 values once its aliases" in refusal(text)
    assert cut_texts(text) == []


@given(spec_data())
@settings(max_examples=60, deadline=None)
def test_a_stored_spec_comes_back_equal(data: dict[str, Any]) -> None:
    spec = StudySpec.model_validate(data, context={"base_dir": BASE})
    back = StudySpec.from_json(spec.to_json())
    assert back == spec
    assert back.to_json() == spec.to_json()
    assert back.suite.digest == spec.suite.digest


@pytest.mark.parametrize("name", ["\uf900", "e\u0301", "\u212b"])
def test_scorers_and_objectives_are_named_in_one_form(name: str) -> None:
    scorers = {"sharpness": None, name: {"kind": "sharpness"}}
    data = yaml.safe_load(SMALLEST) | {"scorers": scorers, "objectives": list(scorers)}
    spec = StudySpec.model_validate(data, context={"base_dir": BASE})
    assert spec.objectives == ("sharpness", unicodedata.normalize("NFC", name)) == tuple(spec.scorers)


def test_a_spec_written_as_yaml_means_what_its_data_mean() -> None:
    assert parse_data(yaml.safe_load(FULL)) == parse(FULL)
    assert StudySpec.from_json(parse(FULL).to_json()) == parse(FULL)


def test_a_stored_spec_that_no_longer_fits_is_a_spec_error() -> None:
    """As when the plug-in of one of its scorers was uninstalled."""
    stored = json.loads(parse(SMALLEST).to_json())
    stored["scorers"] = {"gone": {"kind": "of_a_plugin"}}
    with pytest.raises(SpecError, match="'of_a_plugin'"):
        StudySpec.from_json(json.dumps(stored))


# ---------------------------------------------------------------------------------------- suite digest


def _reordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _reordered(inner) for key, inner in reversed(value.items())}
    return [_reordered(inner) for inner in value] if isinstance(value, list) else value


def test_the_suites_digest_does_not_depend_on_the_order_of_keys() -> None:
    data = yaml.safe_load(FULL)["suite"]
    assert SuiteSettings.model_validate(data).digest == SuiteSettings.model_validate(_reordered(data)).digest


CHANGES = {
    "prompts": ["a fox"],
    "negative": "other",
    "seeds": [9],
    "sizes": [256],
    "steps": 9,
    "cfg": 5.6,
    "cfg_rescale": 0.7,
    "pag": {"scale": 3},
    "hires": {"scale": 1.5},
    "sampler": "heun",
    "schedule": "simple",
    "program": "comfyui",
    "ensd": 31337,
    "sgm_noise_multiplier": True,
    "size_conditioning": {"crop": [0, 8]},
    "clip_skip": 3,
    "syntax": "comfyui",
    "emphasis": "no_norm",
    "prediction": "v_prediction",
    "zero_snr": True,
    "shift": 6.0,
}
ROW_CHANGES = {
    "prompt": "a fox",
    "negative": "other",
    "seeds": [8],
    "sizes": [[512, 576]],
    "steps": 7,
    "cfg": 3.0,
    "cfg_rescale": 0.5,
    "pag": 2.5,
    "hires": 1.25,
    "sampler": "lms",
    "schedule": "beta",
    "clip_skip": 4,
}


def test_the_suites_digest_changes_with_every_setting() -> None:
    data = yaml.safe_load(FULL)["suite"]
    unlike = {"embeddings", "lora_folder", "loras", "preset"}  # a preset's settings are written out
    assert {*CHANGES, *unlike} == set(SuiteSettings.model_fields)
    assert {*ROW_CHANGES, *SCORING} == set(SuitePrompt.model_fields)
    digests = [SuiteSettings.model_validate(data).digest]
    digests += [SuiteSettings.model_validate(data | {key: value}).digest for key, value in CHANGES.items()]
    for key, value in ROW_CHANGES.items():
        changed = deepcopy(data)
        changed["prompts"][1][key] = value
        digests.append(SuiteSettings.model_validate(changed).digest)
    digests.append(SuiteSettings.model_validate(data | {"prompts": data["prompts"][::-1]}).digest)
    assert len(set(digests)) == len(digests)
    assert all(len(digest) == 64 for digest in digests)


def test_what_the_models_predict_is_part_of_the_suites_digest_only_where_the_suite_says_it() -> None:
    data = yaml.safe_load(FULL)["suite"]
    silent = SuiteSettings.model_validate(data).digest
    auto = {"prediction": "auto", "zero_snr": "auto", "shift": "auto"}
    assert SuiteSettings.model_validate(data | auto).digest == silent
    said = [{"prediction": "epsilon"}, {"prediction": "v_prediction"}, {"zero_snr": True}, {"zero_snr": False}]
    said += [{"prediction": "flow"}, {"prediction": "flow", "shift": 3.0}, {"shift": 3.0}, {"shift": 4.0}]
    digests = {SuiteSettings.model_validate(data | changes).digest for changes in said}
    assert len(digests | {silent}) == 9
    assert SuiteSettings.model_validate(data | {"negative": "auto"}).digest not in digests | {silent}


def test_the_suites_digest_is_that_of_before_its_program_was_called_so() -> None:
    data = {"prompts": ["a lion"], "program": "comfyui", "sampler": "lcm", "schedule": "sgm_uniform"}
    hires = SuiteSettings.model_validate(data | {"hires": {"scale": 2}})
    assert hires.digest == "456b49c4c2e5ea16798316c0d617740623894b2868a7c920c51417636f3d2883"


def test_guidance_that_changes_nothing_leaves_the_suites_digest_as_it_was() -> None:
    """A study of an earlier version had no such keys."""
    data: dict[str, Any] = {"prompts": ["a cat", {"prompt": "a dog", "steps": 3}], "seeds": [1]}
    digest = "368a8841cd1494faf9d05452c14eb5355529dc739e9100f285621818e820830b"
    assert SuiteSettings.model_validate(data).digest == digest
    silent = data | {"cfg_rescale": 0, "pag": {"scale": 0, "layers": ["up"]}}
    assert SuiteSettings.model_validate(silent).digest == digest
    said: list[dict[str, Any]] = [{"cfg_rescale": 0.1}, {"pag": 3}, {"pag": {"scale": 3, "layers": ["up_blocks.1"]}}]
    assert len({SuiteSettings.model_validate(data | changes).digest for changes in said} | {digest}) == 4
    assert SuiteSettings.model_validate(data | {"pag": {"scale": 3.0, "layers": ["mid", "mid"]}}).digest == (
        SuiteSettings.model_validate(data | {"pag": 3}).digest
    )


def test_a_prompt_has_the_suites_guidance_or_its_own() -> None:
    rows = ["a cat", {"prompt": "a dog", "pag": 0, "cfg_rescale": 0}, {"prompt": "a fox", "cfg": 1}]
    suite = SuiteSettings.model_validate({"prompts": rows, "pag": 3, "cfg_rescale": 0.7})
    assert [item.sampling.pag.scale for item in suite.items()] == [3, 0, 3]
    assert [item.sampling.cfg_rescale for item in suite.items()] == [0.7, 0, 0]  # nothing to rescale at cfg 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pag": -1}, "`suite.pag.scale`: input should be greater than or equal to 0, got -1"),
        ({"pag": {"layers": ["mid"]}}, "`suite.pag.scale` is missing"),
        ({"pag": {"scale": 3, "layers": ["middle"]}}, "there is no layer 'middle': use mid, down or up, or a name"),
        ({"pag": {"scale": 3, "layers": ["up_blocks"]}}, "there is no layer 'up_blocks'"),
        ({"pag": {"scale": 3, "layers": []}}, "`suite.pag.layers`"),
        ({"pag": {"scale": 3, "layer": ["mid"]}}, "unknown key `suite.pag.layer`: did you mean `layers`?"),
        ({"pag": float("nan")}, "`suite.pag.scale`"),
        ({"pag": True}, "`suite.pag`"),
        ({"cfg_rescale": 1.5}, "`suite.cfg_rescale`: input should be less than or equal to 1, got 1.5"),
        ({"cfg_rescale": -0.1}, "`suite.cfg_rescale`"),
        ({"prompts": [{"prompt": "a cat", "cfg_rescale": 7}]}, "`suite.prompts.0.cfg_rescale`"),
        ({"prompts": [{"prompt": "a cat", "pag": {"scale": -2}}]}, "`suite.prompts.0.pag.scale`"),
    ],
)
def test_guidance_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    assert message in refusal(plain(suite=plain()["suite"] | changes))


def test_a_misspelt_key_is_named_before_the_key_that_is_missing_for_it() -> None:
    spec = plain()
    spec["suite"]["promts"] = spec["suite"].pop("prompts")
    message = refusal(spec)
    assert "unknown key `suite.promts`: did you mean `prompts`?" in message


# ------------------------------------------------------------------------------------- the final

SEEDS = st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=4, unique=True)


@given(SEEDS, SEEDS)
def test_the_final_renders_the_same_prompts_with_seeds_of_its_own(seeds: list[int], own: list[int]) -> None:
    suite = {"prompts": ["a cat", {"prompt": "a dog", "seeds": own}], "seeds": seeds}
    spec = StudySpec.model_validate(plain(suite=suite), context={"base_dir": BASE})
    searched, held_out = spec.suite.items(), spec.held_out.items()
    assert [row.prompt for row in held_out] == [row.prompt for row in searched]
    assert not {row.seed for row in searched} & {row.seed for row in held_out}
    assert all(0 <= row.seed < 2**63 for row in held_out)


def test_seeds_a_shift_apart_stay_different_and_unseen() -> None:
    first = parse_data(plain(suite={"prompts": ["a cat"], "seeds": [5]})).held_out.seeds[0]
    spec = parse_data(plain(suite={"prompts": ["a cat"], "seeds": [5, first]}))
    assert len(set(spec.held_out.seeds)) == 2
    assert not set(spec.held_out.seeds) & {5, first}


def test_a_final_with_prompts_and_seeds_of_its_own_keeps_the_rest_of_the_suite() -> None:
    spec = parse(FULL)
    held_out = spec.held_out
    assert [(row.prompt, row.negative, row.seed, row.width) for row in held_out.items()] == [
        ("a fox", "ugly", 8, 512), ("a fox", "ugly", 8, 768)
    ]  # fmt: skip
    kept = {"prompts", "seeds"}
    assert held_out.model_dump(exclude=kept) == spec.suite.model_dump(exclude=kept)
    assert StudySpec.from_json(spec.to_json()).held_out == held_out


# ---------------------------------------------------------------------------------------- syntax of prompts


def test_prompts_are_those_of_a1111_and_a_stored_spec_says_so() -> None:
    stored = json.loads(parse(SMALLEST).to_json())["suite"]
    assert (stored["syntax"], stored["emphasis"]) == ("a1111", "original")
    assert StudySpec.from_json(parse(SMALLEST).to_json()) == parse(SMALLEST)


def test_a_spec_that_was_stored_before_there_was_a_syntax_has_plain_prompts() -> None:
    data = json.loads(parse(SMALLEST).to_json())
    for name in ("syntax", "emphasis", "embeddings"):
        del data["suite"][name]
    suite = StudySpec.from_json(json.dumps(data)).suite
    assert (suite.syntax, suite.emphasis) == ("plain", None)


def test_a_folder_of_embeddings_may_move_and_plain_prompts_have_no_emphasis() -> None:
    suite = {"prompts": ["a lion"], "seeds": [1, 2], "sizes": [64]}
    digests = [
        SuiteSettings.model_validate(suite | {"embeddings": folder}, context={"base_dir": BASE}).digest
        for folder in ("old", "new")
    ]
    assert digests == [SuiteSettings.model_validate(suite).digest] * 2
    assert SuiteSettings.model_validate(suite | {"syntax": "plain"}).digest != digests[0]


def test_loras_of_a_suite_may_move_and_their_strengths_are_part_of_its_digest() -> None:
    plain = {"prompts": ["a lion"], "seeds": [1, 2], "sizes": [64]}

    def digest(*loras: dict[str, Any], folder: str | None = None) -> str:
        suite = plain | {"loras": list(loras), "lora_folder": folder}
        return SuiteSettings.model_validate(suite, context={"base_dir": BASE}).digest

    assert digest() == digest(folder="loras") == SuiteSettings.model_validate(plain).digest
    assert digest({"path": "a"}) == digest({"path": "b"})
    strengths = [{}, {"strength": 0.5}, {"strength": 0.5, "text_strength": 0}]
    assert len({digest(), *(digest({"path": "a"} | each) for each in strengths)}) == 4


def test_the_spec_file_of_a_study_with_plain_prompts_needs_not_say_so() -> None:
    spec = parse(SMALLEST)
    old = spec.model_copy(update={"suite": spec.suite.model_copy(update={"syntax": "plain", "emphasis": None})})
    refuse_changed_spec(old, spec)
    for syntax in ("a1111", "comfyui"):
        data = yaml.safe_load(SMALLEST)
        data["suite"] = {**data["suite"], "syntax": syntax}
        with pytest.raises(StudyChangedError, match="`suite`"):
            refuse_changed_spec(old, parse(yaml.safe_dump(data)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"syntax": "comfyui", "emphasis": "original"}, "`emphasis` is a setting of A1111"),
        ({"syntax": "plain", "embeddings": "folder"}, "`embeddings` are not read in plain prompts"),
        ({"syntax": "comfyui", "lora_folder": "loras"}, "which only A1111 reads, and the syntax is comfyui"),
        ({"loras": {"style": {"path": "x.safetensors"}}}, "expected a list of {path: FILE, strength: NUMBER}"),
        ({"loras": [{"path": "x.safetensors", "strength": "strong"}]}, "loras.0.strength"),
        ({"loras": [{"path": "x.safetensors", "strength": float("nan")}]}, "loras.0.strength"),
        ({"loras": [{"path": "x.safetensors", "weight": 1}]}, "unknown key `suite.loras.0.weight`"),
        ({"loras": ["x.safetensors", {"path": "x.safetensors", "strength": 0.5}]}, "named twice"),
        ({"syntax": "a1112"}, "a1111"),
        ({"emphasis": "loud"}, "no_norm"),
    ],
)
def test_settings_that_do_not_fit_the_syntax_are_refused(changes: dict[str, Any], message: str) -> None:
    data = yaml.safe_load(SMALLEST)
    data["suite"] = {**data["suite"], **changes}
    with pytest.raises(SpecError, match=message):
        parse(yaml.safe_dump(data))
