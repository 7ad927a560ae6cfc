"""Recipe files: what a person writes becomes the recipe they mean, and a recipe written down is read back the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces.block_presets import block_preset_names
from search_spaces.blocks import VAE, Architecture, blocks, places, section_of, text_encoders
from search_spaces.slots import Slot
from studies.errors import RecipeError
from studies.recipe.file import RecipeFile, RecipePaths, load_recipe_file, parse_recipe_file, recipe_text
from studies.recipe.methods import METHODS
from studies.recipe.recipe import BakedVae, LoraUse, Operation, Parent, Recipe, Step, canonical_values

SD15 = Architecture.SD15
RATIO = Slot(name="B", kind="ratio", default=0.0)


def parents(count: int = 2) -> tuple[Parent, ...]:
    return tuple(
        Parent(letter=letter, name=f"model {letter}", sha256=letter.lower() * 64) for letter in "ABCDEF"[:count]
    )


def parse(text: str) -> RecipeFile:
    return parse_recipe_file(text, base_dir=Path("/models"))


def column(text: str, architecture: Architecture = SD15, slot: str = "B", step: int = -1) -> dict[str, float]:
    """Place -> number of one slot, after the file's text."""
    file = parse(text)
    made = file.recipe(architecture, parents(len(file.parents))).steps[step]
    index = [each.name for each in made.operation.slots].index(slot)
    return {place: row[index] for place, row in made.values}


def sum_of(value: Any) -> str:
    return yaml.safe_dump({"parents": ["a.safetensors", "b.safetensors"], "values": {"B": value}}, sort_keys=False)


class TestNumbers:
    def test_a_plain_ratio_holds_everywhere_but_in_the_vae(self) -> None:
        assert column(sum_of(0.5)) == {place: 0.0 if place == VAE else 0.5 for place in places(SD15)}

    def test_of_patterns_the_later_wins_and_what_is_not_named_is_0(self) -> None:
        found = column(sum_of({"unet": 0.2, "IN*": 0.4, "IN05": 0.6, "text_encoder*": 0.8}), Architecture.SDXL)
        for place, ratio in found.items():
            if place == "IN05":
                assert ratio == 0.6
            elif place in text_encoders(Architecture.SDXL):
                assert ratio == 0.8
            elif place == VAE:
                assert ratio == 0
            else:
                assert ratio == (0.4 if section_of(place) == "IN" else 0.2), place

    def test_the_vae_is_merged_only_when_a_pattern_names_it(self) -> None:
        assert column(sum_of({"vae": 0.3}))[VAE] == 0.3
        assert column(sum_of({"*": 0.3}))[VAE] == 0.3
        assert column(sum_of({"unet": 0.3}))[VAE] == 0

    @pytest.mark.parametrize("count", [26, 25])
    def test_block_weights_of_sd15_name_the_blocks_in_order(self, count: int) -> None:
        numbers = [0.01 * index for index in range(1, count + 1)]
        for written in (", ".join(map(str, numbers)), numbers):
            found = column(sum_of(written))
            assert [found[block] for block in blocks(SD15)] == numbers[-25:]
            assert found["text_encoder"] == (numbers[0] if count == 26 else 0)
            assert found[VAE] == 0

    @pytest.mark.parametrize(("count", "kept"), [(20, slice(1, 20)), (19, slice(0, 19))])
    def test_block_weights_of_sdxl_name_its_blocks(self, count: int, kept: slice) -> None:
        numbers = [round(0.01 * index, 2) for index in range(1, count + 1)]
        found = column(sum_of(",".join(map(str, numbers))), Architecture.SDXL)
        assert [found[block] for block in blocks(Architecture.SDXL)] == numbers[kept]

    def test_a_preset_may_have_a_base_and_patterns_over_it(self) -> None:
        found = column(sum_of({"preset": "GRAD_V", "base": 0.7, "OUT11": 0.1, "vae": 0.2}))
        assert (found["text_encoder"], found["IN00"], found["M00"]) == (0.7, 1, 0)
        assert (found["OUT11"], found[VAE]) == (0.1, 0.2)
        assert column(sum_of({"preset": "GRAD_V"}))["text_encoder"] == 0

    def test_a_parameter_that_is_not_named_has_its_default_and_a_plain_one_holds_in_the_vae_too(self) -> None:
        start = "parents: [a, b]\nmethod: dare_linear\nvalues: {B: 0.5, density: %s}\n"
        default = METHODS["dare_linear"].own[0].default
        found = column(start % "{IN*: 0.9}", slot="density")
        assert (found["IN03"], found["OUT03"], found["text_encoder"]) == (0.9, default, default)
        assert set(column(start % "0.3", slot="density").values()) == {0.3}
        assert set(column("parents: [a, b]\nmethod: dare_linear\nratio: 0.5", slot="density").values()) == {default}
        without_base = column(start % str([0.4] * 25), slot="density")
        assert (without_base["text_encoder"], without_base[VAE], without_base["M00"]) == (default, default, 0.4)

    def test_of_a_lora_what_is_not_named_gets_nothing(self) -> None:
        file = parse("parents: [a]\nloras: [{path: l, weight: {unet: 0.8}}, {path: m, weight: 0.4}, n]")
        first, second, third = file.lora_weights(SD15)
        assert first == {place: 0.8 if place in blocks(SD15) else 0 for place in places(SD15)}
        assert set(second.values()) == {0.4}
        assert set(third.values()) == {1.0}


class TestSteps:
    def test_a_single_step_at_the_top_is_the_same_as_one_under_steps(self) -> None:
        short = parse("parents: [a, b]\nmethod: slerp\nratio: 0.25\nclip: true\nseed: 3")
        long = parse("parents: [a, b]\nsteps: [{method: slerp, values: {B: 0.25}, clip: true, seed: 3}]")
        assert short.recipe(SD15, parents()) == long.recipe(SD15, parents())

    def test_inputs_are_all_parents_and_result_is_the_step_before(self) -> None:
        text = """
            parents: {A: a, B: b, C: c}
            steps:
              - {method: add_difference, values: {difference: 0.5}}
              - {inputs: [A, result], ratio: 0.3}
              - {inputs: [result, result-1], values: {result-1: 0.1}}
              - {inputs: [B, result], values: {result: 0.2}}
        """
        steps = parse(text).recipe(SD15, parents(3)).steps
        assert [step.operation.inputs for step in steps] == [
            ("A", "B", "C"),
            ("A", "result-1"),
            ("result-2", "result-1"),
            ("B", "result-3"),
        ]
        assert [step.by_place["M00"] for step in steps] == [(0.5,), (0.3,), (0.1,), (0.2,)]

    def test_one_parent_needs_no_step(self) -> None:
        assert parse("parents: [a]\nloras: [l]").recipe(SD15, parents(1), [("l", "1" * 64)]).steps == ()

    def test_numbers_need_no_slot_that_has_a_default(self) -> None:
        made = parse("parents: [a, b, c]\nmethod: ties\nratio: 1").recipe(SD15, parents(3)).steps[0]
        given = {"strength": 1.0}
        assert made.by_place["M00"] == tuple(given.get(slot.name, slot.default) for slot in made.operation.slots)


class TestFiles:
    def test_paths_are_relative_to_the_file_and_json_reads_the_same(self, tmp_path: Path) -> None:
        data = {"parents": {"B": "sub/b.ckpt", "A": {"path": "/x/a.safetensors"}}, "ratio": 1e-5, "vae": "v.pt"}
        (tmp_path / "r.yaml").write_text(yaml.safe_dump(data))
        (tmp_path / "r.json").write_text(json.dumps(data))
        one, other = load_recipe_file(tmp_path / "r.yaml"), load_recipe_file(tmp_path / "r.json")
        assert one == other
        assert [entry.path for entry in one.parents.values()] == [Path("/x/a.safetensors"), tmp_path / "sub/b.ckpt"]
        assert one.vae is not None
        assert one.vae.path == tmp_path / "v.pt"
        assert one.recipe(SD15, parents()).steps[0].by_place["M00"] == (1e-5,)

    def test_a_file_of_another_content_is_refused(self) -> None:
        wrong = "F" * 64
        file = parse(
            f"parents: [a, {{path: b, sha256: {'b' * 64}}}]\nratio: 0.5\nloras: [{{path: l, sha256: {wrong}}}]"
        )
        with pytest.raises(RecipeError, match=r"LoRA l .* is not the file that the recipe names"):
            file.recipe(SD15, parents(), [("l", "1" * 64)])
        file.recipe(SD15, parents(), [("l", wrong.lower())])
        other = (parents()[0], replace(parents()[1], sha256="c" * 64))
        with pytest.raises(RecipeError, match=r"parent B .* is not the file that the recipe names"):
            file.recipe(SD15, other, [("l", wrong.lower())])
        baked = parse(f"parents: [a]\nvae: {{path: v, sha256: {wrong}}}")
        with pytest.raises(RecipeError, match="the VAE"):
            baked.recipe(SD15, parents(1), (), BakedVae(name="v", sha256="1" * 64))


BAD = {
    "nothing": ("", "contains no recipe"),
    "not YAML": ("parents: [", "not valid YAML in line"),
    "a key twice": ("parents: [a, b]\nratio: 0.1\nratio: 0.2", "'ratio' is given twice"),
    "a slot twice": ("parents: [a, b]\nvalues: {B: 0.1, B: 0.2}", "'B' is given twice"),
    "an unknown key": ("parents: [a, b]\nratoi: 0.1", "did you mean `ratio`"),
    "an unknown key of a step": ("parents: [a, b]\nsteps: [{methd: slerp}]", "did you mean `method`"),
    "an unknown key of a file": ("parents: {A: {path: a, sha: x}}", "did you mean `sha256`"),
    "no parents": ("ratio: 0.1", "`parents` is missing"),
    "an empty list of parents": ("parents: []", "expected parents named A, B, C"),
    "a gap in the letters": ("parents: {A: a, C: c}\nratio: 0.1", "without a gap"),
    "too many": (f"parents: [{', '.join(f'p{number}' for number in range(27))}]\nratio: 1", "1 to 26 parents"),
    "a short hash": ("parents: [{path: a, sha256: abc}]", "64 hexadecimal digits"),
    "no method": ("parents: [a, b]", "how the parents are merged"),
    "no ratio": ("parents: [a, b]\nmethod: slerp", "nothing would be merged"),
    "no ratio but a parameter": ("parents: [a, b]\nmethod: ties\nvalues: {density: 0.5}", "nothing would be merged"),
    "step and steps": ("parents: [a, b]\nratio: 0.1\nsteps: []", "beside `steps`"),
    "an unknown method": ("parents: [a, b]\nmethod: blend\nratio: 0.1", "unknown merge method 'blend'"),
    "an unknown input": ("parents: [a, b]\ninputs: [A, C]\nratio: 0.1", "'C', which does not exist"),
    "an unused result": (
        "parents: [a, b]\nsteps: [{ratio: 0.1}, {inputs: [A, B], ratio: 0.1}]",
        "result-1 is not used by any later step",
    ),
    "an unknown slot": ("parents: [a, b]\nvalues: {b: 0.1}", "did you mean 'B'"),
    "values where there are none": ("parents: [a, b]\nmethod: n_average\nvalues: {B: 1}", "the method takes none"),
    "ratio of many": ("parents: [a, b, c]\nratio: 0.1", "its ratios are B, C"),
    "ratio of none": ("parents: [a, b]\nmethod: n_average\nratio: 0.1", "it has no ratio"),
    "ratio twice": ("parents: [a, b]\nratio: 0.1\nvalues: {B: 0.2}", "not both"),
    "a word": ("parents: [a, b]\nratio: much", "expected a number"),
    "yes": ("parents: [a, b]\nratio: yes", "expected a number"),
    "nothing as ratio": ("parents: [a, b]\nratio:", "expected a number"),
    "an empty mapping": ("parents: [a, b]\nratio: {}", "expected a number"),
    "a word in a mapping": ("parents: [a, b]\nratio: {unet: high}", "got 'high'"),
    "a huge number": ("parents: [a, b]\nratio: 1" + "0" * 400, "expected a number"),
    "an unknown preset": ("parents: [a, b]\nratio: {preset: GRAD_W}", "did you mean 'GRAD_V'"),
    "a preset that is no name": ("parents: [a, b]\nratio: {preset: 5}", "the name of a preset"),
    "an unknown dtype": ("parents: [a]\ndtype: int8", "`dtype`"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "words"), BAD.values(), ids=list(BAD))
def test_a_wrong_file_is_refused_in_one_line(text: str, words: str) -> None:
    with pytest.raises(RecipeError) as refused:
        parse(text)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


WRONG_NUMBERS = {
    "a place of the other family": ("{OUT10: 0.5}", Architecture.SDXL, "'OUT10' matches nothing in sdxl"),
    "a misspelt place": ("{text_encodr: 0.5}", SD15, "did you mean 'text_encoder'"),
    "too few weights": ("'0.1, 0.2'", SD15, "got 2"),
    "a word among the weights": (f"'{'0,' * 25}x'", SD15, "'x' as number 26"),
    "a base without a preset": ("{base: 0.5}", SD15, "`base` goes with `preset`"),
    "not a number": (".nan", SD15, "is nan in text_encoder"),
    "infinite": ("{OUT*: .inf}", SD15, "is inf in OUT00"),
}


@pytest.mark.parametrize(("written", "architecture", "words"), WRONG_NUMBERS.values(), ids=list(WRONG_NUMBERS))
def test_numbers_that_do_not_fit_are_refused_with_their_place(
    written: str, architecture: Architecture, words: str
) -> None:
    file = parse(f"parents: [a, b]\nratio: {written}")
    with pytest.raises(RecipeError) as refused:
        file.chain(architecture)
    assert "step 1 (weighted_sum)" in str(refused.value)
    assert words in str(refused.value)


@pytest.mark.parametrize(("method", "text"), [("slerp", "ratio: 1.5"), ("slerp", "ratio: {IN03: -0.1}")])
def test_a_ratio_that_the_method_does_not_take_is_refused(method: str, text: str) -> None:
    with pytest.raises(RecipeError, match=r"slerp\), B is .* expected 0 to 1"):
        parse(f"parents: [a, b]\nmethod: {method}\n{text}").chain(SD15)


def test_weighted_sums_may_go_beyond_their_inputs() -> None:
    assert column("parents: [a, b]\nratio: -0.25")["M00"] == -0.25


def test_a_file_that_is_missing_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no recipe at"):
        load_recipe_file(tmp_path / "gone.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe_file(tmp_path / "bytes.yaml")
    (tmp_path / "twice.json").write_text('{"parents": ["a"], "parents": ["b"]}')
    with pytest.raises(RecipeError, match="'parents' is given twice"):
        load_recipe_file(tmp_path / "twice.json")
    (tmp_path / "nan.json").write_text('{"parents": ["a", "b"], "ratio": NaN}')
    with pytest.raises(RecipeError, match="NaN is not a JSON number"):
        load_recipe_file(tmp_path / "nan.json")
    for odd in ("\x7f", "\x86", "\uffff"):  # JSON that YAML does not read, where a text is missing
        (tmp_path / "odd.json").write_text(f'{{"parents": [null, "b"], "{odd}method": "x"}}')
        with pytest.raises(RecipeError, match=r"^odd\.json: "):
            load_recipe_file(tmp_path / "odd.json")


# ------------------------------------------------------------------------------------ written and read


def numbers_for(slot: Slot) -> st.SearchStrategy[float]:
    low, high = max(slot.least, -3.0), min(slot.most, 3.0)
    return st.sampled_from([slot.default, low, high]) | st.floats(low, high).map(lambda number: number + 0.0)


@st.composite
def rows(draw: st.DrawFn, slots: tuple[Slot, ...], architecture: Architecture) -> dict[str, tuple[float, ...]]:
    """Numbers of every place, often alike in sections, components or all places."""
    columns = []
    for slot in slots:
        number = numbers_for(slot)
        by_group = {name: draw(number) for name in ("unet", "IN", "MID", "OUT", "rest")}
        kind = draw(st.sampled_from(["all", "all but vae", "unet", "sections", "places"]))
        group = {place: "unet" if place in blocks(architecture) else "rest" for place in places(architecture)}
        if kind == "sections":
            group |= {block: section_of(block) for block in blocks(architecture)}
        values = {place: by_group[name] for place, name in group.items()}
        if kind.startswith("all"):
            values = dict.fromkeys(values, by_group["unet"]) | ({VAE: slot.default} if "but" in kind else {})
        if kind == "places":
            values = {place: draw(number) for place in values}
        columns.append(values)
    return {place: tuple(each[place] for each in columns) for place in places(architecture)}


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    architecture = draw(st.sampled_from(list(Architecture)))
    steps: list[Step] = []
    for number in range(draw(st.integers(0, 2))):
        info = draw(st.sampled_from(list(METHODS.values())))
        known = [f"result-{number}"] * (number > 0) + list("ABC")
        operation = Operation(
            method=info.name,
            inputs=tuple(known[: min(info.most_inputs, 3)]),
            clip=draw(st.booleans()),
            seed=draw(st.integers(0, 2**31 - 1)),
        )
        steps.append(Step(operation=operation, values=canonical_values(draw(rows(operation.slots, architecture)))))
    weight = (Slot(name="weight", kind="lora", default=1.0),)
    loras = [draw(rows(weight, architecture)) for _ in range(draw(st.integers(0, 2)))]
    return Recipe(
        architecture=architecture.value,
        parents=parents(3),
        steps=tuple(steps),
        loras=tuple(
            LoraUse(
                name=f"l{number}",
                sha256=f"{number}" * 64,
                weights=tuple((place, row[0]) for place, row in sorted(by_place.items())),
            )
            for number, by_place in enumerate(loras)
        ),
        vae=draw(st.sampled_from([None, BakedVae(name="v", sha256="e" * 64)])),
        dtype=draw(st.sampled_from([None, "fp16", "bf16", "fp32"])),
    )


@given(recipe=recipes())
@settings(deadline=None, max_examples=150)
def test_a_recipe_written_as_a_file_is_read_back_the_same(recipe: Recipe) -> None:
    paths = RecipePaths(
        parents={letter: Path(f"/some where/{letter}: #1.safetensors") for letter in "ABC"},
        loras=[Path(f"/l/{lora.name}") for lora in recipe.loras],
        vae=Path("/v") if recipe.vae else None,
    )
    file = parse(recipe_text(recipe, paths, "from\na test"))
    assert {letter: entry.path for letter, entry in file.parents.items()} == paths.parents
    assert [entry.path for entry in file.loras] == paths.loras
    loras = [(lora.name, lora.sha256) for lora in recipe.loras]
    again = file.recipe(Architecture(recipe.architecture), recipe.parents, loras, recipe.vae)
    assert again == recipe
    assert again.digest == recipe.digest


def test_what_is_alike_is_written_once() -> None:
    def written(numbers: dict[str, float]) -> Any:
        operation = Operation(method="weighted_sum", inputs=("A", "B"))
        step = Step(operation=operation, values=canonical_values({place: (n,) for place, n in numbers.items()}))
        recipe = Recipe(architecture="sd15", parents=parents(), steps=(step,))
        text = recipe_text(recipe, RecipePaths(parents={"A": Path("/a"), "B": Path("/b")}))
        return yaml.safe_load(text)["steps"][0]["values"]["B"]

    everywhere = dict.fromkeys(places(SD15), 0.5)
    assert written({**everywhere, VAE: 0.0}) == 0.5
    assert written(everywhere) == {"*": 0.5}
    assert written({**everywhere, VAE: 0.0, "text_encoder": 0.25}) == {"text_encoder": 0.25, "unet": 0.5}
    by_section = {block: {"IN": 0.0, "MID": 0.2, "OUT": 0.3}[section_of(block)] for block in blocks(SD15)}
    assert written({**everywhere, **by_section}) == {"text_encoder": 0.5, "MID": 0.2, "OUT": 0.3, "vae": 0.5}
    assert written({**everywhere, VAE: 0.0, **by_section, "OUT11": 0.9})["OUT10"] == 0.3


# --------------------------------------------------------------------------------------- documentation

DOCS = (Path(__file__).parents[4] / "docs" / "reference" / "recipes.md").read_text()


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_documented_with_its_formula_and_its_numbers(name: str) -> None:
    info = METHODS[name]
    row = next(line for line in DOCS.splitlines() if line.startswith(f"| `{name}` |")).replace("\\|", "|")
    assert f"| {info.wanted_inputs} |" in row
    assert info.formula in row
    assert info.source in row
    numbers = [("each input but the first" if info.most_inputs > 2 else "the second input", info.per_input)]
    numbers = [row for row in numbers if row[1] is not None] + [(f"`{slot.name}`", slot) for slot in info.own]
    for where, slot in numbers:
        assert slot is not None
        said = row[row.index(f"{where}: ") :].split(";")[0].split(" |")[0]
        assert slot.allowed in said
        if slot.kind == "parameter":
            assert said.strip().endswith(f"({slot.default:g})")


def test_every_key_and_preset_is_documented() -> None:
    for name in (*RecipeFile.model_fields, *block_preset_names()):
        assert f"`{name}`" in DOCS, name
