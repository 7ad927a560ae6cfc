"""LoRAs on top of a live merge give the weights of a file into which they are baked, and leave no trace."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from merge_cases import COMPONENTS, HALVES, LAYERS, Case, bits, cases, lora_tensors
from safetensors.torch import save_file
from torch import Tensor

from optimizer.errors import LoraError
from optimizer.merging.engine.export import write_merge
from optimizer.merging.engine.ingredients import Ingredients
from optimizer.merging.engine.placement import Placement
from optimizer.merging.engine.resident import ResidentModel
from optimizer.merging.files.checkpoint import Checkpoint
from optimizer.merging.files.layout import Component
from optimizer.merging.files.parents import Parents
from optimizer.merging.lora.file import Lora
from search_spaces.blocks import Architecture, places, text_encoders
from studies.recipe.recipe import DtypeName, LoraUse, Parent, Recipe

CPU = torch.device("cpu")
WEIGHTS = (0.8, -0.35)
TEXTS: tuple[Component, ...] = ("text_encoder", "text_encoder_2")
UNET_ONLY = 1  # the second LoRA changes one layer of the U-Net


def tops(folder: Path, architecture: Architecture) -> tuple[Lora, ...]:
    """Write and open two LoRAs: of all layers of a case, and of one of the U-Net's."""
    every = tuple(LAYERS[architecture])
    paths = [folder / f"top{index}.safetensors" for index in range(2)]
    for index, (path, modules) in enumerate(zip(paths, (every, every[:1]), strict=True)):
        save_file(lora_tensors(architecture, 50 + index, modules), path)
    return tuple(map(Lora.open, paths))


def resident(
    case: Case,
    files: Ingredients,
    loras: tuple[Lora, ...],
    *,
    live: torch.dtype = torch.float32,
    placement: Placement = Placement.DEVICE,
    in_turns: bool = False,
    device: torch.device = CPU,
) -> ResidentModel:
    return ResidentModel(
        files,
        device=device,
        live_dtypes=dict.fromkeys(COMPONENTS, live),
        export_dtype=case.export,
        placement=placement,
        in_turns=in_turns,
        on_top=loras,
    )


def values(model: ResidentModel) -> dict[str, bytes]:
    return {key: bits(model.live_tensor(key).clone()) for key in model.live_tensors()}  # NumPy would pin the storage


def baked(
    folder: Path, case: Case, files: Ingredients, recipe: Recipe, loras: tuple[Lora, ...], weights: Mapping[int, float]
) -> dict[str, Tensor]:
    """Export a recipe to a file, bake LoRAs into that file as another one, and return its tensors."""
    write_merge(folder / "merge.safetensors", recipe, files, {}, CPU)
    used = tuple(loras[index] for index in weights)
    merged = Ingredients(Parents.of([Checkpoint.open(folder / "merge.safetensors")]), used)
    uniform = Recipe(
        architecture=case.architecture.value,
        parents=(Parent(letter="A", name="merge", sha256="0" * 64),),
        loras=tuple(
            LoraUse(
                name=lora.name,
                sha256=lora.sha256,
                weights=tuple((place, weight) for place in sorted(places(case.architecture))),
            )
            for lora, weight in zip(used, weights.values(), strict=True)
        ),
        dtype=case.export,
    )
    write_merge(folder / "baked.safetensors", uniform, merged, {}, CPU)
    file = Checkpoint.open(folder / "baked.safetensors")
    return {key: file.tensor(key) for key in file.tensors}


@pytest.mark.parametrize("live", [torch.float32, torch.float16])
@pytest.mark.parametrize("export", [None, "fp16", "bf16", "fp32"])
def test_a_merge_with_loras_on_top_is_what_baking_them_into_its_file_gives_and_stays_the_merge(
    tmp_path: Path, export: DtypeName | None, live: torch.dtype
) -> None:
    require_baked(tmp_path, Case(export=export, loras=1, vae=True), 3, live)


@pytest.mark.slow
@settings(max_examples=40)
@given(case=cases(), seed=st.integers(0, 99), live=st.sampled_from([torch.float32, torch.float16]))
def test_so_is_any_merge(tmp_path_factory: pytest.TempPathFactory, case: Case, seed: int, live: torch.dtype) -> None:
    require_baked(tmp_path_factory.mktemp("case"), case, seed, live)


def require_baked(folder: Path, case: Case, seed: int, live: torch.dtype) -> None:
    files, loras = case.open(folder), tops(folder, case.architecture)
    if case.lacking is not None:  # then nobody can say what a LoRA of the text encoder is to change
        loras = loras[UNET_ONLY:]
    recipe = case.recipe(files, seed)
    model = resident(case, files, loras, live=live)
    model.merge(recipe)
    before = values(model)
    weights = dict(zip(range(len(loras)), WEIGHTS, strict=False))
    model.lay_on_top(tuple(weights.items()), *COMPONENTS)
    expected = baked(folder, case, files, recipe, loras, weights)
    live_tensors = model.live_tensors()
    for key in live_tensors:
        if key in expected:
            assert bits(live_tensors[key]) == bits(expected[key].to(live_tensors[key].dtype)), key
    assert values(model) != before
    model.lay_on_top((), *COMPONENTS)
    assert values(model) == before


@pytest.mark.parametrize("placement", list(Placement))
@pytest.mark.parametrize("architecture", list(Architecture))
def test_sets_follow_each_other_and_components_take_turns(
    tmp_path: Path, architecture: Architecture, placement: Placement, device: torch.device
) -> None:
    case = Case(architecture=architecture, dtypes=(HALVES, HALVES))
    files, loras = case.open(tmp_path), tops(tmp_path, architecture)
    recipe = case.recipe(files, 3)
    whole, turns, fresh = (
        resident(case, files, loras, placement=placement, in_turns=flag, device=device) for flag in (False, True, False)
    )
    for model in (whole, turns):
        model.merge(recipe)
    for top in (((0, 0.8), (1, -0.35)), ((1, 1.0),), (), ((0, 0.8),)):
        for model in (whole, turns):
            model.lay_on_top(top, *COMPONENTS)
        fresh.merge(recipe)  # takes away what lay there
        fresh.lay_on_top(top, *COMPONENTS)
        assert values(whole) == values(turns) == values(fresh)


def test_text_encoders_and_the_unet_have_their_own(tmp_path: Path) -> None:
    case = Case()
    files, loras = case.open(tmp_path), tops(tmp_path, case.architecture)
    model = resident(case, files, loras)
    model.merge(case.recipe(files, 3))
    before = values(model)
    model.lay_on_top(((0, 0.8),), *TEXTS)
    changed = {key for key, value in values(model).items() if value != before[key]}
    assert changed
    assert {files.place(key) for key in changed} <= set(text_encoders(case.architecture))


def test_what_lies_there_already_is_not_computed_again(tmp_path: Path) -> None:
    case = Case()
    files, loras = case.open(tmp_path), tops(tmp_path, case.architecture)
    model = resident(case, files, loras)
    both = ((0, 0.8), (1, 0.5))
    asked = [both, both, (), (), ((1, 0.5),), ((1, 0.5),), ((1, 0.6),), both]
    assert [model.lay_on_top(top, *COMPONENTS) for top in asked] == [1, 0, 1, 0, 1, 0, 1, 1]
    model.lay_on_top((), *COMPONENTS)
    assert not model.lay_on_top(((1, 0.9),), *TEXTS, "vae")  # the second changes the U-Net alone


def test_a_new_merge_takes_them_away_and_says_which_places_it_changed(tmp_path: Path) -> None:
    case = Case()
    files, loras = case.open(tmp_path), tops(tmp_path, case.architecture)
    model, plain = resident(case, files, loras), resident(case, files, ())
    for seed in (3, 4, 4):
        recipe = case.recipe(files, seed)
        assert model.merge(recipe) == plain.merge(recipe)
        assert values(model) == values(plain)
        model.lay_on_top(((0, 0.8),), *COMPONENTS)
        assert values(model) != values(plain)


def test_an_interrupted_change_is_made_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case()
    files, loras = case.open(tmp_path), tops(tmp_path, case.architecture)
    model, plain = resident(case, files, loras), resident(case, files, ())
    recipe = case.recipe(files, 3)
    for each in (model, plain):
        each.merge(recipe)
    calls = []

    def lacking(*_: object) -> None:
        calls.append(1)
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patched:
        patched.setattr("optimizer.merging.engine.on_top.merge_tensor", lacking)
        with pytest.raises(torch.OutOfMemoryError):
            model.lay_on_top(((0, 0.8),), *COMPONENTS)
    assert calls
    model.lay_on_top((), *COMPONENTS)
    assert values(model) == values(plain)


def test_one_of_another_architecture_is_refused(tmp_path: Path) -> None:
    case = Case()
    with pytest.raises(LoraError, match="SDXL"):
        resident(case, case.open(tmp_path), tops(tmp_path, Architecture.SDXL))
