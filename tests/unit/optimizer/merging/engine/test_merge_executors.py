"""One recipe, two executors: what is live in memory is what the exported file holds, bit for bit."""

from __future__ import annotations

import gc
import hashlib
import json
import math
import os
import resource
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from merge_cases import (
    ADDED,
    EMA_COPY,
    FIRST_CONVOLUTION,
    LAYERS,
    MARKERS,
    ONLY_A,
    ONLY_B,
    POSITIONS,
    Case,
    bits,
    cases,
    some_shapes,
)
from safetensors import safe_open
from safetensors.torch import save_file
from small_files import small_parents
from torch import Tensor

from basics.files import sha256_of
from optimizer.errors import CheckpointError, ExportError
from optimizer.merging.engine.export import atomic_file, export_layout, write_merge
from optimizer.merging.engine.ingredients import EXPORT_DTYPES, Ingredients
from optimizer.merging.engine.metadata import merge_metadata
from optimizer.merging.engine.placement import Placement
from optimizer.merging.engine.resident import ResidentModel
from optimizer.merging.files.checkpoint import Checkpoint
from optimizer.merging.files.parents import Parents
from optimizer.merging.files.vae import VaeFile
from search_spaces.blocks import VAE, Architecture, place_of, places
from studies.errors import RecipeError
from studies.recipe.methods import METHODS
from studies.recipe.recipe import DtypeName, LoraUse, Operation, Recipe, Step, canonical_values

CPU = torch.device("cpu")
BOTH = pytest.mark.parametrize("architecture", list(Architecture))
HELD = pytest.mark.parametrize(
    ("device", "placement"),
    [
        *((torch.device("cpu"), placement) for placement in Placement),
        *(pytest.param(torch.device("cuda"), placement, marks=pytest.mark.cuda) for placement in Placement),
    ],
)


def read(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no dictionary


def written(recipe: Recipe, files: Ingredients, folder: Path, device: torch.device) -> dict[str, Tensor]:
    return read(write_merge(folder / "out.safetensors", recipe, files, {"format": "pt"}, device).path)


def written_unless_overflowing(
    recipe: Recipe, files: Ingredients, folder: Path, device: torch.device
) -> dict[str, Tensor]:
    """As `written`, for random recipes; an example that goes beyond the dtype's range is given up."""
    try:
        return written(recipe, files, folder, device)
    except ExportError as error:
        if "gives infinity in" not in str(error):
            raise
        reject()


def live_values(model: ResidentModel) -> dict[str, Tensor]:
    """The live tensors' values now, on the CPU."""
    return {key: row.to("cpu", copy=True) for key, row in model.live_tensors().items()}


def snapshot(model: ResidentModel) -> dict[str, bytes]:
    return {key: bits(row) for key, row in model.live_tensors().items()}


def uniform(recipe: Recipe, ratio: float, **different: float) -> Recipe:
    """The recipe with the same ratio everywhere, but in the places that are named."""
    step = recipe.steps[0]
    rows = {place: (different.get(place, ratio),) * len(step.operation.slots) for place in step.by_place}
    return replace(recipe, steps=(Step(operation=step.operation, values=canonical_values(rows)),))


SEEDS = st.tuples(st.integers(0, 10**6), st.integers(0, 10**6))


@settings(max_examples=8, deadline=None)
@given(case=cases(), seeds=SEEDS)
def test_the_live_model_is_what_the_file_holds_and_any_recipe_can_be_made_again(
    device: torch.device, case: Case, seeds: tuple[int, int]
) -> None:
    assert_executors_agree(device, case, seeds)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(case=cases(), seeds=SEEDS)
def test_so_it_is_for_many_more_recipes(device: torch.device, case: Case, seeds: tuple[int, int]) -> None:
    assert_executors_agree(device, case, seeds)


def assert_executors_agree(device: torch.device, case: Case, seeds: tuple[int, int]) -> None:
    """Merge two recipes in memory, whatever holds the parents, and compare with what the first one's file holds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = case.open(folder)
        first, second = (case.recipe(files, seed) for seed in seeds)
        saved = written_unless_overflowing(first, files, folder, device)
        for placement in Placement:
            model = case.resident(files, placement, device=device)
            model.merge(first)
            before = snapshot(model)
            assert saved.keys() == before.keys()
            for key, row in saved.items():
                assert bits(row) == bits(model.live_tensors()[key].to(row.dtype)), (placement, key)

            changed = model.merge(second)
            different = {key for key, row in model.live_tensors().items() if bits(row) != before[key]}
            assert {place_of(key, case.architecture) for key in different} <= changed
            assert changed <= differing_places(first, second)
            assert model.merge(second) == frozenset()
            model.merge(first)
            assert snapshot(model) == before


def differing_places(one: Recipe, other: Recipe) -> set[str]:
    """Where any number of two recipes differs."""
    rows: list[tuple[Mapping[str, object], Mapping[str, object]]] = [
        *((a.by_place, b.by_place) for a, b in zip(one.steps, other.steps, strict=True)),
        *((a.by_place, b.by_place) for a, b in zip(one.loras, other.loras, strict=True)),
    ]
    places_of_numbers = {place for a, b in rows for place in a if a[place] != b[place]}
    return places_of_numbers | ({VAE} if one.vae != other.vae else set())


@settings(max_examples=10, deadline=None)
@given(case=cases(), live=st.sampled_from([torch.float16, torch.bfloat16]))
def test_a_half_precision_pipeline_holds_the_saved_values_rounded_once_more(
    device: torch.device, case: Case, live: torch.dtype
) -> None:
    with tempfile.TemporaryDirectory() as name:
        files = case.open(Path(name))
        model, recipe = case.resident(files, live=live, device=device), case.recipe(files, 3)
        model.merge(recipe)
        saved = written_unless_overflowing(recipe, files, Path(name), device)
        for key, row in model.live_tensors().items():
            assert bits(row) == bits(saved[key].to(row.dtype)), key


class TestResident:
    @BOTH
    @HELD
    def test_it_begins_as_parent_a(
        self, architecture: Architecture, device: torch.device, placement: Placement, tmp_path: Path
    ) -> None:
        case = Case(architecture=architecture)
        stored = case.parent(0)
        for key, row in live_values(case.resident(case.open(tmp_path), placement, device=device)).items():
            assert bits(row.to(stored[key].dtype)) == bits(stored[key]), key

    @BOTH
    def test_a_ratio_reaches_its_place_and_no_other(
        self, device: torch.device, architecture: Architecture, tmp_path: Path
    ) -> None:
        case = Case(architecture=architecture)
        files = case.open(tmp_path)
        model, plain, before = case.resident(files, device=device), case.recipe(files, 0), ""
        a, b = case.parent(0), case.parent(1)
        model.merge(uniform(plain, 0.0))
        for chosen in places(architecture):
            changed = model.merge(uniform(plain, 0.0, **{chosen: 1.0}))
            assert changed == {chosen, before} - {""}
            before, now = chosen, live_values(model)
            for key in some_shapes(architecture):
                wanted = b if place_of(key, architecture) == chosen else a
                assert torch.equal(now[key], wanted[key].float()), (chosen, key)

    def test_what_no_ratio_applies_to_stays_parent_as(self, device: torch.device, tmp_path: Path) -> None:
        case = Case(export="bf16")
        files = case.open(tmp_path)
        model = case.resident(files, device=device)
        for seed in range(3):
            model.merge(case.recipe(files, seed))
        live, stored = live_values(model), case.parent(0)
        for key in (*MARKERS, POSITIONS[Architecture.SD15]):
            assert live[key].dtype == stored[key].dtype
            assert torch.equal(live[key], stored[key])
        assert torch.equal(live[ONLY_A], stored[ONLY_A].bfloat16().float())
        assert ONLY_B not in live
        assert EMA_COPY not in live

    @HELD
    @pytest.mark.parametrize("method", ["weighted_sum", "add_difference", "sce", "della", "distribution_crossover"])
    def test_a_weight_without_elements_stays_without(
        self, method: str, device: torch.device, placement: Placement, tmp_path: Path
    ) -> None:
        operation = Operation(method=method, inputs=tuple("ABC"[: METHODS[method].least_inputs]))
        case = Case(operations=(operation,), dtypes=((torch.float16,),) * 3, loras=1, added=(0, 4, 3, 3))
        files = case.open(tmp_path)
        model, recipe = case.resident(files, placement, device=device), case.recipe(files, 5)
        model.merge(recipe)
        saved = written(recipe, files, tmp_path, device)
        assert saved[ADDED].shape == model.live_tensors()[ADDED].shape == (0, 4, 3, 3)
        assert model.broken_keys() == ()
        for key, row in model.live_tensors().items():
            assert torch.equal(row.cpu(), saved[key].to(row.dtype)), key

    @HELD
    def test_merges_stay_in_the_same_memory_and_take_no_more(
        self, device: torch.device, placement: Placement, tmp_path: Path
    ) -> None:
        chain = (
            Operation(method="ties", inputs=("A", "B", "C")),
            Operation(method="weighted_sum", inputs=("A", "result-1"), clip=True),
        )
        case = Case(operations=chain, dtypes=((torch.float16,),) * 3, loras=2, vae=True)
        files = case.open(tmp_path)
        model = case.resident(files, placement, device=device)
        addresses = {key: row.data_ptr() for key, row in model.live_tensors().items()}
        held = model.nbytes()
        for seed in range(5):
            model.merge(case.recipe(files, seed))
        allocated = tensor_bytes()
        for seed in range(15):
            model.merge(case.recipe(files, seed))
        assert tensor_bytes() == allocated
        assert {key: row.data_ptr() for key, row in model.live_tensors().items()} == addresses
        assert model.nbytes() == held

    def test_tensors_do_not_overlap(self, device: torch.device, tmp_path: Path) -> None:
        case = Case()
        live = case.resident(case.open(tmp_path), device=device).live_tensors()
        spans = sorted((row.data_ptr(), row.data_ptr() + row.nbytes) for row in live.values() if row.numel())
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))

    def test_broken_keys_names_what_is_not_finite_and_only_that(self, device: torch.device, tmp_path: Path) -> None:
        case = Case(dtypes=((torch.float32,),) * 2, export="fp16")
        files = case.open(tmp_path)
        assert case.resident(files, device=device).broken_keys() == ()
        broken = case.parent(1)
        wanted = [key for key in list(some_shapes(Architecture.SD15))[3:6] if key in files.tensors]
        for key, value in zip(wanted, (2e5, -3e5, 1e38), strict=True):  # infinite in float16, even the half of it
            broken[key].view(-1)[1] = value
        save_file(broken, tmp_path / "1.safetensors")
        files = Ingredients(Parents.of([Checkpoint.open(tmp_path / f"{index}.safetensors") for index in (0, 1)]))
        model = case.resident(files, device=device)
        model.merge(uniform(case.recipe(files, 0), 0.5))
        assert sorted(model.broken_keys()) == sorted(wanted)
        model.merge(uniform(case.recipe(files, 0), 0.0))
        assert model.broken_keys() == ()

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"dtype": "bf16"}, "for dtype bf16, this model rounds to None"),
            ({"architecture": "sdxl"}, "for sdxl, the checkpoints are sd15"),
            ({"parents": 3}, "3 parents, got 2"),
        ],
    )
    def test_a_recipe_of_other_files_is_refused(
        self, device: torch.device, change: dict[str, object], words: str, tmp_path: Path
    ) -> None:
        case = Case()
        files = case.open(tmp_path)
        model = case.resident(files, device=device)
        before = snapshot(model)
        plain = Recipe(architecture="sd15", parents=case.recipe(files, 0).parents)
        if "parents" in change:
            change = {"parents": (*plain.parents, replace(plain.parents[0], letter="C"))}
        with pytest.raises(RecipeError, match=words):
            model.merge(replace(plain, **change))  # type: ignore[arg-type]
        assert snapshot(model) == before


def tensor_bytes() -> int:
    """Of every tensor that Python can reach; the compiler's stand-ins, left by other tests, hold no memory."""
    gc.collect()
    stores = [
        row.untyped_storage()
        for row in gc.get_objects()
        if type(row) in {Tensor, torch.nn.Parameter} and row.layout is torch.strided
    ]
    return sum({store.data_ptr(): store.nbytes() for store in stores}.values())


class TestLoras:
    @BOTH
    @HELD
    def test_a_weight_changes_only_the_places_that_its_lora_touches(
        self, architecture: Architecture, device: torch.device, placement: Placement, tmp_path: Path
    ) -> None:
        case = Case(architecture=architecture, loras=2)
        files = case.open(tmp_path)
        model = case.resident(files, placement, device=device)
        recipe = uniform(case.recipe(files, 0), 0.3)
        recipe = replace(recipe, loras=tuple(weighing(lora, 0.5) for lora in recipe.loras))
        model.merge(recipe)
        before = snapshot(model)
        changed = model.merge(replace(recipe, loras=(recipe.loras[0], weighing(recipe.loras[1], 0.6))))
        keys = {LAYERS[architecture][module] for module in case.modules(1)}
        assert changed == {place_of(key, architecture) for key in keys}
        assert {key for key, row in model.live_tensors().items() if bits(row) != before[key]} == keys

    @BOTH
    def test_what_is_baked_is_the_merge_plus_the_weighted_product(
        self, device: torch.device, architecture: Architecture, tmp_path: Path
    ) -> None:
        case = Case(architecture=architecture, loras=1, dtypes=((torch.float32,),) * 2)
        files = case.open(tmp_path)
        recipe = uniform(case.recipe(files, 0), 0.25)
        recipe = replace(recipe, loras=(weighing(recipe.loras[0], -0.8),))
        saved, a, b = written(recipe, files, tmp_path, device), case.parent(0), case.parent(1)
        lora = read(tmp_path / "lora0.safetensors")
        expected = {key: 0.75 * a[key].double() + 0.25 * b[key].double() for key in some_shapes(architecture)}
        for module, key in LAYERS[architecture].items():
            up, down = (lora[f"{module}.lora_{name}.weight"].double().flatten(1) for name in ("up", "down"))
            change = -0.8 * (1.0 / 2) * (up @ down)  # alpha 1, rank 2
            if key.endswith("in_proj_weight"):
                third = change.shape[0]
                start = third * ("q_proj", "k_proj", "v_proj").index(module[-6:])
                expected[key][start : start + third] += change
            else:
                expected[key] += change.view(expected[key].shape)
        for key, row in expected.items():
            torch.testing.assert_close(saved[key].double(), row, rtol=1e-5, atol=1e-5, msg=key)

    def test_loras_in_another_order_are_refused(self, device: torch.device, tmp_path: Path) -> None:
        case = Case(loras=2)
        files = case.open(tmp_path)
        recipe = case.recipe(files, 0)
        with pytest.raises(RecipeError, match="in the recipe's order"):
            case.resident(files, device=device).merge(replace(recipe, loras=recipe.loras[::-1]))


def weighing(lora: LoraUse, weight: float) -> LoraUse:
    return replace(lora, weights=tuple((place, weight) for place, _ in lora.weights))


class TestVae:
    @HELD
    def test_a_baked_vae_is_the_files_own_and_the_rest_the_merge(
        self, device: torch.device, placement: Placement, tmp_path: Path
    ) -> None:
        case = Case(vae=True)
        files = case.open(tmp_path)
        model = case.resident(files, placement, device=device)
        baked, plain = uniform(case.recipe(files, 1), 0.5), uniform(case.recipe(files, 2), 0.5)
        assert baked.vae is not None
        assert plain.vae is None
        model.merge(plain)
        mixed = live_values(model)
        assert model.merge(baked) == {VAE}
        for key, row in written(baked, files, tmp_path, device).items():
            if key in (stored := case.vae_tensors()):
                assert bits(row) == bits(stored[key].to(row.dtype)), key
            else:
                assert torch.equal(row.float(), mixed[key].float()), key
        assert model.merge(plain) == {VAE}
        assert all(torch.equal(row, mixed[key]) for key, row in live_values(model).items())

    def test_another_vae_than_the_recipes_is_refused(self, tmp_path: Path) -> None:
        case = Case(vae=True)
        files = case.open(tmp_path)
        recipe = case.recipe(files, 1)
        assert recipe.vae is not None
        for other in (replace(files, vae=None), files):
            changed = recipe if other is not files else replace(recipe, vae=replace(recipe.vae, sha256="f" * 64))
            with pytest.raises(RecipeError, match="bakes in the VAE vae"):
                write_merge(tmp_path / "out.safetensors", changed, other, {}, CPU)
            assert not (tmp_path / "out.safetensors").exists()


class TestUnequalParents:
    def test_extra_channels_of_an_inpainting_model_stay_and_the_plain_ones_are_merged(
        self, device: torch.device, tmp_path: Path
    ) -> None:
        case = Case(inpainting=True)
        files = case.open(tmp_path)
        merged = written(uniform(case.recipe(files, 0), 0.5), files, tmp_path, device)[FIRST_CONVOLUTION]
        a, b = (case.parent(index)[FIRST_CONVOLUTION] for index in (0, 1))
        assert (a.shape[1], b.shape[1]) == (9, 4)
        assert torch.equal(merged[:, 4:], a[:, 4:])
        assert torch.equal(merged[:, :4], (0.5 * (a[:, :4].double() + b.double())).half())

    @pytest.mark.parametrize("lacking", [0, 1])
    def test_a_component_that_one_parent_lacks_is_the_others(
        self, device: torch.device, lacking: int, tmp_path: Path
    ) -> None:
        case = Case(lacking=lacking)
        files = case.open(tmp_path)
        saved, owner = written(uniform(case.recipe(files, 0), 0.5), files, tmp_path, device), case.parent(1 - lacking)
        keys = [key for key in owner if place_of(key, Architecture.SD15) == "text_encoder"]
        assert keys
        assert all(bits(saved[key]) == bits(owner[key]) for key in keys)


class TestNotFinite:
    def test_a_nan_that_a_method_makes_is_refused_by_its_key(self, device: torch.device, tmp_path: Path) -> None:
        case = Case(dtypes=((torch.float32,),) * 2)
        key = list(some_shapes(Architecture.SD15))[4]
        for index, value in enumerate((3e38, -3e38)):
            tensors = case.parent(index)
            tensors[key].view(-1)[0] = value
            save_file(tensors, tmp_path / f"{index}.safetensors")
        files = Ingredients(Parents.of([Checkpoint.open(tmp_path / f"{index}.safetensors") for index in (0, 1)]))
        recipe = case.recipe(files, 0)
        # Their difference is beyond float32, and infinity times 0 is no number.
        operation = Operation(method="similarity_add_difference", inputs=("A", "B", "result-1"))
        average = Step(operation=Operation(method="n_average", inputs=("A", "B")), values=no_numbers(recipe))
        rows = dict.fromkeys(places(Architecture.SD15), (1.0, 0.5))
        overflowing = replace(recipe, steps=(average, Step(operation=operation, values=canonical_values(rows))))
        overflow = Case(dtypes=case.dtypes).resident(files, device=device)
        overflow.merge(overflowing)
        live = overflow.live_tensors()[key]
        if not bool(live.isnan().any()):
            pytest.fail("the example gives no NaN")
        with pytest.raises(ExportError, match=rf"n_average, then similarity_add_difference\) gives NaN in {key}"):
            written(overflowing, files, tmp_path, device)

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize(("parent", "ratio"), [(0, 0.5), (1, 0.5), (1, 1.0), (0, 0.0)])
    def test_a_broken_value_of_a_parent_is_refused_by_file_and_key(
        self, device: torch.device, parent: int, ratio: float, value: float, tmp_path: Path
    ) -> None:
        case = Case()
        key = next(key for key in some_shapes(Architecture.SD15) if ".norm" in key or "bias" in key)
        files = with_value(case, (parent,), key, value, tmp_path)
        with pytest.raises(CheckpointError, match=rf"parent {'AB'[parent]} \(.*{parent}.safetensors\) holds .* {key}"):
            written(uniform(case.recipe(files, 0), ratio), files, tmp_path, device)
        for placement in (Placement.DEVICE, Placement.FILES):
            with pytest.raises(CheckpointError, match=rf"{parent}.safetensors\) holds"):
                case.resident(files, placement, device=device).merge(uniform(case.recipe(files, 0), 0.5))

    def test_a_broken_value_that_no_ratio_touches_is_refused_as_well(
        self, device: torch.device, tmp_path: Path
    ) -> None:
        """Of a layer that only A has, of a component that B provides, and of a baked VAE."""
        for name, parent, change in (("own", 0, ONLY_A), ("lent", 1, "text_encoder"), ("vae", None, VAE)):
            folder = tmp_path / name
            folder.mkdir()
            case = Case(lacking=0 if name == "lent" else None, vae=name == "vae")
            case.open(folder)
            tensors = case.vae_tensors() if parent is None else case.parent(parent)
            file = folder / ("vae.safetensors" if parent is None else f"{parent}.safetensors")
            key = next(key for key in tensors if key == change or place_of(key, Architecture.SD15) == change)
            tensors[key].view(-1)[0] = math.nan
            save_file(tensors, file)
            parents = Parents.of([Checkpoint.open(folder / f"{index}.safetensors") for index in (0, 1)])
            files = Ingredients(parents, vae=VaeFile.open(file) if parent is None else None)
            recipe = uniform(case.recipe(files, 1), 0.5)
            with pytest.raises(CheckpointError, match=rf"{file.name}\) holds NaN in {key}"):
                written(recipe, files, folder, device)

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("cond_stage_model.attn_mask", -math.inf),
            ("other.thing", math.nan),
            ("first_stage_model.loss.logvar", math.nan),
            ("log_one_minus_alphas_cumprod", math.nan),
        ],
    )
    def test_what_no_live_model_has_may_be_broken_and_is_kept(
        self, device: torch.device, key: str, value: float, tmp_path: Path
    ) -> None:
        case = Case()
        case.open(tmp_path)
        values = torch.full((3, 3), value).triu(1)
        save_file(case.parent(0) | {key: values}, tmp_path / "0.safetensors")
        files = Ingredients(Parents.of([Checkpoint.open(tmp_path / f"{index}.safetensors") for index in (0, 1)]))
        saved = written(uniform(case.recipe(files, 0), 0.5), files, tmp_path, device)
        torch.testing.assert_close(saved[key], values, rtol=0, atol=0, equal_nan=True)

    def test_what_overflows_its_dtype_is_refused_by_its_key_and_fits_a_wider_one(
        self, device: torch.device, tmp_path: Path
    ) -> None:
        operation = Operation(method="weighted_subtraction", inputs=("A", "B"))
        case = Case(operations=(operation,))
        files = case.open(tmp_path)
        recipe = uniform(case.recipe(files, 0), 0.0, M00=1.0)
        with pytest.raises(
            ExportError, match=r"\(weighted_subtraction\) gives infinity in .*middle_block.* 65504"
        ) as found:
            written(recipe, files, tmp_path, device)
        assert "bf16 or fp32" in str(found.value)
        saved = written(replace(recipe, dtype="bf16"), files, tmp_path, device)
        assert all(bool(row.isfinite().all()) for row in saved.values())

    @pytest.mark.parametrize("ratio", [0.5, 0.0])
    def test_a_dtype_that_is_too_narrow_for_the_parents_is_refused(
        self, device: torch.device, ratio: float, tmp_path: Path
    ) -> None:
        case = Case(dtypes=((torch.float32,),) * 2)
        key = list(some_shapes(Architecture.SD15))[4]
        files = with_value(case, (0, 1), key, 1e5, tmp_path)
        recipe = uniform(case.recipe(files, 0), ratio)
        assert written(recipe, files, tmp_path, device)[key].view(-1)[0] == 1e5
        with pytest.raises(
            ExportError, match=rf"weighted_sum\) gives infinity in {key}: float16 ends at 65504; save it as bf16"
        ):
            written(replace(recipe, dtype="fp16"), files, tmp_path, device)


def with_value(case: Case, parents: Sequence[int], key: str, value: float, folder: Path) -> Ingredients:
    """The case's two parents, some of them with another first element in a tensor."""
    case.open(folder)
    for index in parents:
        tensors = case.parent(index)
        tensors[key].view(-1)[0] = value
        save_file(tensors, folder / f"{index}.safetensors")
    return Ingredients(Parents.of([Checkpoint.open(folder / f"{index}.safetensors") for index in (0, 1)]))


def no_numbers(recipe: Recipe) -> tuple[tuple[str, tuple[float, ...]], ...]:
    return canonical_values(dict.fromkeys(places(Architecture(recipe.architecture)), ()))


class TestFile:
    @BOTH
    def test_a_whole_small_model_agrees_with_memory(
        self, device: torch.device, architecture: Architecture, tmp_path: Path
    ) -> None:
        operation = Operation(method="weighted_sum", inputs=("A", "B", "C"))
        case = Case(architecture=architecture, operations=(operation,), dtypes=((torch.float16,),) * 3)
        parents = small_parents(architecture)
        files = Ingredients(Parents.of(parents))
        recipe, model = case.recipe(files, 5), case.resident(files, device=device)
        model.merge(recipe)
        seen: list[int] = []
        result = write_merge(tmp_path / "out.safetensors", recipe, files, {"format": "pt"}, device, seen.append)
        saved = read(result.path)
        assert set(saved) == set(parents[0].tensors)
        assert [
            key for key, row in model.live_tensors().items() if bits(row.to(saved[key].dtype)) != bits(saved[key])
        ] == []
        assert sum(seen) == sum(row.nbytes for row in saved.values())

    def test_the_header_is_what_other_programs_expect(self, tmp_path: Path) -> None:
        case = Case()
        files = case.open(tmp_path)
        metadata = {"format": "pt", "a": "0x" + "0" * 64, "sd_merge_recipe": '{"type": "mergetune"}'}
        result = write_merge(tmp_path / "out.safetensors", case.recipe(files, 1), files, metadata, CPU)
        content = result.path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        assert content[8:10] == b'{"'
        assert (8 + length) % 8 == 0
        with safe_open(result.path, framework="np") as file:
            found = file.metadata()
        assert found == metadata | {"modelspec.hash_sha256": f"0x{hashlib.sha256(content[8 + length :]).hexdigest()}"}
        assert result.sha256 == hashlib.sha256(content).hexdigest() == sha256_of(result.path)
        assert result.bytes == len(content)

    @pytest.mark.parametrize("export", [None, "fp16", "bf16", "fp32"])
    def test_every_tensor_starts_at_a_multiple_of_its_element_size(
        self, export: DtypeName | None, tmp_path: Path
    ) -> None:
        case = Case(architecture=Architecture.SDXL, dtypes=((torch.float32,),) * 2, export=export)
        files = case.open(tmp_path)
        assert any(row.size % 2 for row in files.tensors.values())  # a number alone would shift what follows
        result = write_merge(tmp_path / "out.safetensors", case.recipe(files, 1), files, {}, CPU)
        content = result.path.read_bytes()
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        rows = [row for key, row in header.items() if key != "__metadata__"]
        width = {"F32": 4, "F16": 2, "BF16": 2, "I64": 8}
        assert [row for row in rows if row["data_offsets"][0] % width[row["dtype"]]] == []

    @pytest.mark.parametrize("export", [None, "fp16", "bf16", "fp32"])
    def test_only_weights_are_cast(self, device: torch.device, export: DtypeName | None, tmp_path: Path) -> None:
        case = Case(export=export)
        files = case.open(tmp_path)
        saved = written(case.recipe(files, 1), files, tmp_path, device)
        positions = saved.pop(POSITIONS[Architecture.SD15])
        assert positions.dtype == torch.int64
        assert torch.equal(positions, torch.arange(77)[None])
        for key, value in MARKERS.items():
            assert saved[key].dtype == torch.float32
            assert torch.equal(saved.pop(key), value)
        assert {row.dtype for row in saved.values()} == {EXPORT_DTYPES[export] if export else torch.float16}

    def test_positions_that_an_old_merge_left_as_floats_are_integers_again(
        self, device: torch.device, tmp_path: Path
    ) -> None:
        key = POSITIONS[Architecture.SD15]
        case = Case(export="bf16")
        parents = case.open(tmp_path).parents.checkpoints
        broken = case.parent(0) | {key: torch.arange(77.0).half()[None]}
        save_file(broken, tmp_path / "broken.safetensors")
        files = Ingredients(Parents.of([Checkpoint.open(tmp_path / "broken.safetensors"), parents[1]]))
        saved = written(case.recipe(files, 1), files, tmp_path, device)
        assert saved[key].dtype == torch.int64
        assert torch.equal(saved[key], torch.arange(77)[None])

    def test_keys_are_parent_as_without_the_ema_copy(self, device: torch.device, tmp_path: Path) -> None:
        case = Case()
        files = case.open(tmp_path)
        stored = case.parent(0)
        saved = written(case.recipe(files, 1), files, tmp_path, device)
        assert set(saved) == set(stored) - {EMA_COPY}
        shapes = {key: row.shape for key, row in export_layout(files, None).items()}
        assert shapes == {key: tuple(row.shape) for key, row in stored.items() if key != EMA_COPY}

    def test_a_file_that_changes_while_it_is_merged_is_refused(self, tmp_path: Path) -> None:
        case = Case()
        files = case.open(tmp_path)
        with (
            pytest.raises(CheckpointError, match=r"parent B .* has changed since it was opened"),
            atomic_file(tmp_path / "out.safetensors", overwrite=False) as temporary,
        ):
            write_merge(
                temporary, case.recipe(files, 1), files, {}, CPU, lambda _: (tmp_path / "1.safetensors").touch()
            )
        assert sorted(path.name for path in tmp_path.iterdir()) == ["0.safetensors", "1.safetensors"]

    def test_the_same_recipe_writes_the_same_file(self, device: torch.device, tmp_path: Path) -> None:
        chain = (Operation(method="dare_ties", inputs=("A", "B", "C"), seed=3),)
        case = Case(operations=chain, dtypes=((torch.float16,),) * 3, loras=1, vae=True)
        digests = set()
        for name in "xy":
            files = case.open(tmp_path)  # opened anew
            recipe = case.recipe(files, 5)
            said = {"modelspec.prediction_type": "epsilon"}
            metadata = merge_metadata(recipe, files, title="t", prediction=said, device=device)
            digests.add(write_merge(tmp_path / f"{name}.safetensors", recipe, files, metadata, device).sha256)
        assert len(digests) == 1

    def test_another_seed_drops_other_elements(self, device: torch.device, tmp_path: Path) -> None:
        one, other = (
            Case(operations=(Operation(method="dare_linear", inputs=("A", "B"), seed=seed),)) for seed in (0, 1)
        )
        files = one.open(tmp_path)
        assert bits_of(written(one.recipe(files, 2), files, tmp_path, device)) != bits_of(
            written(other.recipe(files, 2), files, tmp_path, device)
        )


def bits_of(tensors: Mapping[str, Tensor]) -> dict[str, bytes]:
    return {key: bits(row) for key, row in tensors.items()}


class TestAtomicFile:
    def test_the_file_appears_when_the_block_ends(self, tmp_path: Path) -> None:
        target = tmp_path / "out.safetensors"
        with atomic_file(target, overwrite=False) as temporary:
            temporary.write_bytes(b"done")
            assert not target.exists()
        assert target.read_bytes() == b"done"
        assert list(tmp_path.iterdir()) == [target]

    @pytest.mark.parametrize("stop", [ValueError("proof failed"), KeyboardInterrupt()])
    def test_nothing_is_left_when_the_block_fails(self, tmp_path: Path, stop: BaseException) -> None:
        def half_write() -> None:
            with atomic_file(tmp_path / "out.safetensors", overwrite=False) as temporary:
                temporary.write_bytes(b"half")
                raise stop

        with pytest.raises(type(stop)):
            half_write()
        assert list(tmp_path.iterdir()) == []

    def test_an_existing_file_is_refused_and_kept(self, tmp_path: Path) -> None:
        target = tmp_path / "out.safetensors"
        target.write_bytes(b"mine")
        with pytest.raises(ExportError, match=r"exists: .*--force"), atomic_file(target, overwrite=False):
            pytest.fail("the block must not run")
        assert target.read_bytes() == b"mine"

    def test_an_existing_file_is_replaced_only_when_the_block_succeeds(self, tmp_path: Path) -> None:
        target = tmp_path / "out.safetensors"
        target.write_bytes(b"mine")
        with pytest.raises(ValueError, match="no"), atomic_file(target, overwrite=True):
            raise ValueError("no")
        assert target.read_bytes() == b"mine"
        with atomic_file(target, overwrite=True) as temporary:
            temporary.write_bytes(b"new")
        assert target.read_bytes() == b"new"

    def test_a_folder_that_does_not_exist_is_refused(self, tmp_path: Path) -> None:
        for target in (tmp_path / "absent" / "out.safetensors", tmp_path):
            with pytest.raises(ExportError), atomic_file(target, overwrite=True):
                pytest.fail("the block must not run")


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


class TestFullDisk:
    def test_a_full_disk_is_an_export_error_and_leaves_nothing(self, full_disk: Path, tmp_path: Path) -> None:
        case = Case()
        files = case.open(tmp_path)
        target = full_disk / "out.safetensors"
        with pytest.raises(ExportError, match="the disk is full"), atomic_file(target, overwrite=False) as temporary:
            write_merge(temporary, case.recipe(files, 1), files, {}, CPU)
        assert list(full_disk.iterdir()) == []

    def test_a_limit_on_file_sizes_is_an_export_error_and_leaves_nothing(self, tmp_path: Path) -> None:
        case = Case()
        files = case.open(tmp_path)
        folder = tmp_path / "out"
        folder.mkdir()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
        try:
            with (
                pytest.raises(ExportError, match="the disk is full"),
                atomic_file(folder / "x", overwrite=False) as file,
            ):
                write_merge(file, case.recipe(files, 1), files, {}, CPU)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert list(folder.iterdir()) == []
