"""Which sources each tensor of a merge has, what is done with them, and files that do not fit together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from merge_cases import FIRST_CONVOLUTION, LAYERS, MARKERS, ONLY_A, POSITIONS, Case, bits
from safetensors.torch import save_file
from torch import Tensor

from optimizer.errors import CheckpointError, LoraError
from optimizer.merging.engine.export import write_merge
from optimizer.merging.engine.ingredients import Ingredients
from optimizer.merging.engine.placement import Placement
from optimizer.merging.engine.plan import PlacePlan, plan_places
from optimizer.merging.files.checkpoint import Checkpoint
from optimizer.merging.files.parents import Parents
from optimizer.merging.files.vae import VaeFile
from optimizer.merging.lora.file import Lora
from search_spaces.blocks import VAE, Architecture, place_of
from studies.errors import RecipeError
from studies.recipe.recipe import BakedVae, LoraUse, Recipe

SD15 = Architecture.SD15
HALF, FULL = (torch.float16,), (torch.float32,)


def vae_file(folder: Path, tensors: Mapping[str, Tensor], name: str = "other") -> VaeFile:
    save_file(dict(tensors), folder / f"{name}.safetensors")
    return VaeFile.open(folder / f"{name}.safetensors")


def is_vae(key: str) -> bool:
    return place_of(key, SD15) == VAE


class TestSources:
    def test_every_tensor_is_read_as_it_says_it_is(self, tmp_path: Path) -> None:
        files = Case(dtypes=(HALF, FULL), inpainting=True, lacking=0, vae=True).open(tmp_path)
        for key, info in files.tensors.items():
            sources = files.sources(key)
            assert sources
            for name, told in sources.items():
                tensor = files.tensor(key, name)
                assert (tensor.dtype, tuple(tensor.shape)) == (told.dtype, told.shape)
                assert told.shape == info.shape

    def test_parents_where_ratios_apply_and_one_that_is_kept_elsewhere(self, tmp_path: Path) -> None:
        files = Case(dtypes=(HALF, HALF, HALF), vae=True).open(tmp_path)
        assert list(files.sources(FIRST_CONVOLUTION)) == ["A", "B", "C"]
        assert all(list(files.sources(key)) == ["A", "B", "C", "vae"] for key in files.tensors if is_vae(key))
        for key in (ONLY_A, POSITIONS[SD15], *MARKERS):
            assert list(files.sources(key)) == ["kept"]

    def test_every_file_is_told_with_what_it_is(self, tmp_path: Path) -> None:
        files = Case(loras=1, vae=True).open(tmp_path)
        names = {"parent A": "0", "parent B": "1", "the LoRA lora0": "lora0", "the VAE": "vae"}
        assert files.files == {what: (tmp_path / f"{name}.safetensors",) for what, name in names.items()}

    def test_of_two_loras_with_one_name_both_are_told(self, tmp_path: Path) -> None:
        files = Case(loras=1).open(tmp_path)
        (tmp_path / "more").mkdir()
        copy = tmp_path / "more" / "lora0.safetensors"
        copy.write_bytes((tmp_path / "lora0.safetensors").read_bytes())
        both = Ingredients(files.parents, (*files.loras, Lora.open(copy)))
        assert both.files["the LoRA lora0"] == (tmp_path / "lora0.safetensors", copy)


class TestPlans:
    def test_a_lora_is_in_the_plan_of_what_it_touches_only(self, tmp_path: Path) -> None:
        case = Case(loras=2)
        files = case.open(tmp_path)
        recipe = case.recipe(files, 0)
        loras = tuple(
            replace(lora, weights=tuple((place, weight) for place, _ in lora.weights))
            for lora, weight in zip(recipe.loras, (0.5, -1.0), strict=True)
        )
        plans = plan_places(replace(recipe, loras=loras))
        touched = {key: files.plan(key, plans, baked=False).loras for key in files.tensors}
        expected: dict[str, tuple[tuple[int, float], ...]]
        expected = {LAYERS[SD15][module]: ((0, 0.5),) for module in case.modules(0)}
        expected |= {LAYERS[SD15][module]: ((0, 0.5), (1, -1.0)) for module in case.modules(1)}
        assert {key: row for key, row in touched.items() if row} == expected

    def test_what_is_kept_has_a_plan_of_its_own_whatever_the_recipe(self, tmp_path: Path) -> None:
        case = Case()
        files = case.open(tmp_path)
        for plans in ({}, plan_places(case.recipe(files, 3))):
            assert files.plan(ONLY_A, plans, baked=False) == PlacePlan((), "kept")
            assert files.plan("v_pred", plans, baked=True) == PlacePlan((), "kept")

    def test_a_lora_is_added_to_a_layer_that_only_parent_a_has(self, tmp_path: Path) -> None:
        case = Case(dtypes=(FULL, FULL), loras=1)
        case.open(tmp_path)
        key = LAYERS[SD15]["lora_unet_up_blocks_3_resnets_2_conv1"]
        save_file({name: row for name, row in case.parent(1).items() if name != key}, tmp_path / "1.safetensors")
        parents = Parents.of([Checkpoint.open(tmp_path / f"{index}.safetensors") for index in (0, 1)])
        files = Ingredients(parents, (Lora.open(tmp_path / "lora0.safetensors"),))
        weights = tuple((place, 0.5) for place, _ in case.recipe(files, 0).loras[0].weights)
        use = LoraUse(name="lora0", sha256=files.loras[0].sha256, weights=weights)
        recipe = replace(case.recipe(files, 0), loras=(use,))
        factors = files.loras[0].modules["lora_unet_up_blocks_3_resnets_2_conv1"]
        change = 0.5 * factors.scale * (factors.up.double() @ factors.down.double())
        own = case.parent(0)[key].double()
        path = write_merge(tmp_path / "out.safetensors", recipe, files, {}, torch.device("cpu")).path
        saved = Checkpoint.open(path).tensor(key)
        torch.testing.assert_close(saved.double(), own + change.view_as(own), rtol=1e-5, atol=1e-5)
        for placement in (Placement.DEVICE, Placement.FILES):
            model = case.resident(files, placement)
            model.merge(recipe)
            assert bits(model.live_tensors()[key]) == bits(saved)


class TestVae:
    def test_a_vae_of_other_shapes_is_refused_with_a_key(self, tmp_path: Path) -> None:
        case = Case()
        files = case.open(tmp_path)
        tensors = case.vae_tensors()
        key = next(key for key, row in tensors.items() if row.dim() == 1)
        tensors[key] = torch.zeros(tensors[key].numel() + 1)
        with pytest.raises(CheckpointError, match=rf"other.safetensors does not fit these parents: {key} differ"):
            Ingredients(files.parents, vae=vae_file(tmp_path, tensors))

    @pytest.mark.parametrize("own", [(5, 5, 1, 1), (5, 5)])
    def test_a_1x1_convolution_may_be_stored_as_a_linear_layer(self, own: tuple[int, ...], tmp_path: Path) -> None:
        """The result has the parents' shape, whichever the VAE's own is."""
        case = Case()
        case.open(tmp_path)
        key, values = "first_stage_model.decoder.mid.attn_1.q.weight", torch.arange(25.0)
        for index in (0, 1):
            save_file({**case.parent(index), key: torch.ones(own)}, tmp_path / f"{index}.safetensors")
        parents = Parents.of([Checkpoint.open(tmp_path / f"{index}.safetensors") for index in (0, 1)])
        stored = values.view((5, 5) if len(own) == 4 else (5, 5, 1, 1))
        vae = vae_file(tmp_path, case.vae_tensors() | {key: stored})
        files = Ingredients(parents, vae=vae)
        recipe = replace(case.recipe(files, 0), vae=BakedVae(name="other", sha256=vae.sha256))
        model = case.resident(files)
        model.merge(recipe)
        path = write_merge(tmp_path / "out.safetensors", recipe, files, {}, torch.device("cpu")).path
        for made in (model.live_tensors()[key], Checkpoint.open(path).tensor(key)):
            assert torch.equal(made, values.view(own))

    def test_a_vae_that_shares_no_tensor_is_refused(self, tmp_path: Path) -> None:
        files = Case().open(tmp_path)
        with pytest.raises(CheckpointError, match=r"does not fit these parents; give a VAE of their family"):
            Ingredients(files.parents, vae=vae_file(tmp_path, {"first_stage_model.decoder.alien": torch.zeros(3)}))

    def test_tensors_that_no_vae_needs_are_told(self, tmp_path: Path) -> None:
        case = Case()
        case.open(tmp_path)
        logvar = "first_stage_model.loss.logvar"
        save_file(case.parent(0) | {logvar: torch.zeros(1)}, tmp_path / "0.safetensors")
        parents = Parents.of([Checkpoint.open(tmp_path / f"{index}.safetensors") for index in (0, 1)])
        tensors = case.vae_tensors() | {"first_stage_model.decoder.more": torch.zeros(3)}
        baked = Ingredients(parents, vae=vae_file(tmp_path, tensors))
        notes = "\n".join(baked.notes)
        assert "the VAE is other.safetensors" in notes
        assert f"1 tensors beside the VAE are not in other.safetensors and stay: {logvar}" in notes
        assert "left out: first_stage_model.decoder.more" in notes
        assert "first_stage_model.decoder.more" not in baked.tensors

    def test_a_vae_that_lacks_a_tensor_is_refused(self, tmp_path: Path) -> None:
        case = Case()
        files = case.open(tmp_path)
        tensors = case.vae_tensors()
        gone = list(tensors)[-1]
        vae = vae_file(tmp_path, {key: row for key, row in tensors.items() if key != gone})
        with pytest.raises(CheckpointError, match=rf"is incomplete: 1 of 3 tensors are not in it \({gone}\)"):
            Ingredients(files.parents, vae=vae)

    def test_parents_without_a_vae_take_the_given_one_whole(self, tmp_path: Path) -> None:
        """Without it the merge would be no checkpoint that renders."""
        case = Case(vae=True)
        case.open(tmp_path)
        for index in (0, 1):
            rows = {key: row for key, row in case.parent(index).items() if not is_vae(key)}
            save_file(rows, tmp_path / f"{index}.safetensors")
        parents = Parents.of([Checkpoint.open(tmp_path / f"{index}.safetensors") for index in (0, 1)])
        files = Ingredients(parents, vae=VaeFile.open(tmp_path / "vae.safetensors"))
        plain = case.recipe(files, 0)
        assert files.vae is not None
        for recipe in (plain, replace(plain, vae=BakedVae(name="vae", sha256=files.vae.sha256))):
            model = case.resident(files)
            model.merge(recipe)
            written = Checkpoint.open(
                write_merge(tmp_path / "out.safetensors", recipe, files, {}, torch.device("cpu")).path
            )
            for key, row in case.vae_tensors().items():
                assert bits(written.tensor(key)) == bits(row)
                assert torch.equal(model.live_tensors()[key], row.float())


class TestMisfits:
    def test_a_lora_of_the_other_family_is_refused(self, tmp_path: Path) -> None:
        xl = tmp_path / "xl"
        xl.mkdir()
        other = Case(architecture=Architecture.SDXL, loras=1).open(xl)
        with pytest.raises(LoraError, match=r"lora0.safetensors"):
            Ingredients(Case().open(tmp_path).parents, other.loras)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"architecture": "sdxl"}, "for sdxl, the checkpoints are sd15"),
            ({"parents": 1}, "has 1 parents, got 2"),
            ({"parents": 3}, "has 3 parents, got 2"),
            ({"vae": BakedVae(name="v", sha256="f" * 64)}, "bakes in the VAE v, which is not the file"),
        ],
    )
    def test_a_recipe_of_other_files_is_refused(self, change: dict[str, object], words: str, tmp_path: Path) -> None:
        case = Case(vae=True)
        files = case.open(tmp_path)
        plain = Recipe(architecture="sd15", parents=case.recipe(files, 0).parents)
        files.check(plain)
        if "parents" in change:
            every = (*plain.parents, replace(plain.parents[0], letter="C"))
            change = {"parents": every[: int(str(change["parents"]))]}
        with pytest.raises(RecipeError, match=words):
            files.check(replace(plain, **change))  # type: ignore[arg-type]


def test_loras_move_to_a_device_and_stay_the_same_files(tmp_path: Path) -> None:
    files = Case(loras=1).open(tmp_path)
    moved = files.on(torch.device("meta"))
    key = LAYERS[SD15]["lora_te_text_model_encoder_layers_0_self_attn_q_proj"]
    ((index, parts),) = moved.loras_on(key)
    assert index == 0
    assert parts[0].factors.up.device.type == "meta"
    assert moved.loras[0].sha256 == files.loras[0].sha256
    assert files.loras[0].modules.keys() == moved.loras[0].modules.keys()
