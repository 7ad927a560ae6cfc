"""The workflow for ComfyUI makes the same merge: run by an interpreter of ComfyUI's nodes, on small checkpoints."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkpoints import random_tensors
from comfy_nodes import saved_by, steps_apart
from merge_cases import FIRST_CONVOLUTION
from safetensors.torch import save_file
from slow_cases import first_fast, slow_but
from small_files import small_parents
from small_loras import TEXT, UNET, write_lora

from optimizer.merging.engine.export import export_layout, merged_tensors
from optimizer.merging.engine.ingredients import Ingredients
from optimizer.merging.files.checkpoint import Checkpoint
from optimizer.merging.files.parents import Parents
from optimizer.merging.files.vae import VaeFile
from optimizer.merging.lora.file import Lora
from optimizer.outcome.model_card.workflow import Workflow, comfy_workflow
from search_spaces.blocks import VAE, Architecture, blocks, place_of, places
from studies.recipe.recipe import BakedVae, LoraUse, Operation, Parent, Recipe, Step, canonical_values

SD15, SDXL = Architecture.SD15, Architecture.SDXL
Ratio = Callable[[str], tuple[float, ...]]  # place -> its numbers


def by_block(count: int = 1, texts: float = 0.3, vae: float = 0.0, seed: int = 0) -> Ratio:
    """Another number in every block, some of them 0 and 1."""
    dealer = random.Random(seed)
    drawn = {
        block: tuple(dealer.choice((0.0, 1.0, *[round(dealer.random(), 6)] * 4)) for _ in range(count))
        for block in blocks(SD15)
    }
    return lambda place: drawn.get(place) or ((vae if place == VAE else texts),) * count


def step(architecture: Architecture, ratio: Ratio, method: str = "weighted_sum", inputs: str = "A B") -> Step:
    operation = Operation(method=method, inputs=tuple(inputs.split()))
    values = canonical_values({place: ratio(place) for place in places(architecture)})
    return Step(operation=operation, values=values)


def recipe(architecture: Architecture, *steps: Step, parents: int = 2) -> Recipe:
    return Recipe(
        architecture=architecture.value,
        parents=tuple(Parent(letter=letter, name=letter, sha256="0" * 64) for letter in "ABC"[:parents]),
        steps=steps,
        dtype="fp16",
    )


def ingredients(architecture: Architecture, count: int = 2) -> Ingredients:
    return Ingredients(Parents.of(small_parents(architecture.value)[:count]))


def assert_same(
    workflow: Workflow, merge: Recipe, files: Ingredients, folder: Path | None = None, without: Sequence[str] = ()
) -> None:
    """Every tensor that ComfyUI saves is ours, to one step of its dtype.

    Args:
        without: beginnings of keys that are not compared.
    """
    assert workflow.text is not None, workflow.gaps
    saved = saved_by(workflow.text, folder or files.parents.first.path.parent)
    compared = 0
    for key, tensor in merged_tensors(merge, files, export_layout(files, "fp16"), torch.device("cpu")):
        if place_of(key, files.parents.architecture) not in places(files.parents.architecture):
            continue  # schedules, which ComfyUI computes itself
        if key.startswith(tuple(without)) or key.endswith(".logit_scale"):  # which no image depends on
            continue
        if tensor.is_floating_point():
            assert steps_apart(tensor, saved[key]) <= 1, key
        else:
            assert torch.equal(tensor, saved[key]), key
        compared += 1
    assert compared > (100 if not without else 50)


@pytest.mark.parametrize("architecture", first_fast(1, [SDXL, SD15]))
def test_a_weighted_sum_by_blocks_is_the_same_merge(architecture: Architecture) -> None:
    merge, files = recipe(architecture, step(architecture, by_block())), ingredients(architecture)
    workflow = comfy_workflow(merge, files, "best")
    assert workflow.gaps == ()
    assert_same(workflow, merge, files)


CHAINS: Mapping[str, Sequence[Step]] = {
    "two sums": (
        step(SD15, by_block(seed=1)),
        step(SD15, by_block(seed=2, texts=0.8), inputs="result-1 C"),
    ),
    "a sum of two sums": (
        step(SD15, by_block(seed=1)),
        step(SD15, by_block(seed=2), inputs="B C"),
        step(SD15, by_block(seed=3), inputs="result-1 result-2"),
    ),
    "three inputs": (step(SD15, by_block(2, seed=3), inputs="A B C"),),
    "sum twice": (step(SD15, by_block(2, seed=4), "sum_twice", "C A B"),),
    "add difference": (step(SD15, by_block(texts=-0.4), "add_difference", "A B C"),),
    "no sum at all": (),
    "the VAE of B": (step(SD15, by_block(vae=1.0)),),
    "the VAE of C": (step(SD15, by_block()), step(SD15, by_block(vae=1.0), inputs="result-1 C")),
    "text encoders of A": (step(SD15, by_block(texts=0.0), "add_difference", "A B C"),),
    "text encoders of B": (step(SD15, by_block(texts=1.0)),),
}


@pytest.mark.parametrize("name", slow_but(CHAINS, "a sum of two sums", "add difference", "the VAE of C"))
def test_chains_and_other_methods_of_core_nodes_are_the_same_merge(name: str) -> None:
    merge, files = recipe(SD15, *CHAINS[name], parents=3), ingredients(SD15, 3)
    workflow = comfy_workflow(merge, files, "best")
    assert workflow.gaps == ()
    assert_same(workflow, merge, files)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two parents, a LoRA for them, and a VAE."""
    for letter, seed in (("a", 0), ("b", 1)):
        save_file(random_tensors("sd15", seed), tmp_path / f"{letter}.safetensors")
    vae = {key: tensor for key, tensor in random_tensors("sd15", 9).items() if key.startswith("first_stage_model.")}
    save_file(vae, tmp_path / "vae.safetensors")
    write_lora(tmp_path / "ink.safetensors", Checkpoint.open(tmp_path / "a.safetensors").tensors, (UNET, TEXT))
    return tmp_path


def opened(folder: Path) -> Ingredients:
    parents = Parents.of([Checkpoint.open(folder / f"{letter}.safetensors") for letter in "ab"])
    return Ingredients(parents, (Lora.open(folder / "ink.safetensors"),), VaeFile.open(folder / "vae.safetensors"))


def with_lora(merge: Recipe, weight: Callable[[str], float]) -> Recipe:
    weights = tuple((place, weight(place)) for place in sorted(places(SD15)))
    use = LoraUse(name="ink", sha256="1" * 64, weights=weights)
    return replace(merge, loras=(use,), vae=BakedVae(name="vae", sha256="2" * 64))


@pytest.mark.slow
def test_loras_and_a_baked_vae_are_in_the_same_merge(folder: Path) -> None:
    files = opened(folder)
    merge = with_lora(recipe(SD15, step(SD15, by_block())), lambda place: -0.6 if place == "text_encoder" else 0.8)
    workflow = comfy_workflow(merge, files, "best")
    assert workflow.gaps == ()
    assert_same(workflow, merge, files, folder)


# ------------------------------------------------------------------------------------------ what it cannot


@pytest.mark.parametrize(
    ("merge", "count", "said"),
    [
        (recipe(SD15, step(SD15, by_block(), "slerp")), 2, "no core node of ComfyUI merges by slerp"),
        (recipe(SD15, step(SD15, lambda _: (), "n_average")), 2, "no core node of ComfyUI merges by n_average"),
        (recipe(SD15, step(SD15, lambda _: (1.5,))), 2, "a ratio in IN00 is below 0 or above 1"),
        (recipe(SD15, step(SD15, lambda _: (-0.1,), "add_difference", "A B C"), parents=3), 3, "below 0 or above 1"),
        (
            recipe(
                SD15,
                replace(
                    step(SD15, by_block()), operation=Operation(method="weighted_sum", inputs=("A", "B"), clip=True)
                ),
            ),
            2,
            "clips the result",
        ),
    ],
)
def test_a_merge_without_core_nodes_has_no_workflow_and_says_why(merge: Recipe, count: int, said: str) -> None:
    workflow = comfy_workflow(merge, ingredients(SD15, count), "best")
    assert workflow.text is None
    (gap,) = workflow.gaps
    assert said in gap


def test_two_ratios_of_text_encoders_leave_those_of_a_and_are_told_in_the_graph_as_well() -> None:
    files = ingredients(SDXL)
    drawn = by_block()
    merge = recipe(SDXL, step(SDXL, lambda place: (0.5,) if place == "text_encoder_2" else drawn(place)))
    workflow = comfy_workflow(merge, files, "best")
    (gap,) = workflow.gaps
    assert "0.3 for CLIP-L and 0.5 for CLIP-G" in gap
    assert "is parent A's" in gap
    assert workflow.text is not None
    (note,) = (node for node in json.loads(workflow.text)["nodes"] if node["type"] == "Note")
    assert gap in note["widgets_values"][0]
    assert_same(workflow, merge, files, without=("conditioner.",))
    saved = saved_by(workflow.text, files.parents.first.path.parent)
    own = {key: files.parents.first.tensor(key) for key in saved if key.startswith("conditioner.")}
    assert all(torch.equal(saved[key].half(), tensor.half()) for key, tensor in own.items())


def test_a_ratio_of_the_vae_is_told() -> None:
    merge = recipe(SD15, step(SD15, by_block(vae=0.5)))
    workflow = comfy_workflow(merge, ingredients(SD15), "best")
    (gap,) = workflow.gaps
    assert "no core node of ComfyUI merges VAEs" in gap
    assert_same(workflow, merge, ingredients(SD15), without=("first_stage_model.",))


def test_a_lora_with_weights_by_block_is_told(folder: Path) -> None:
    merge = with_lora(recipe(SD15, step(SD15, by_block())), lambda place: 0.1 * len(place))
    workflow = comfy_workflow(merge, opened(folder), "best")
    assert workflow.text is None
    assert "the LoRA ink has 3 weights for different blocks" in workflow.gaps[0]


def test_an_inpainting_parent_is_told(tmp_path: Path) -> None:
    tensors = random_tensors("sd15", 0)
    first = tensors[FIRST_CONVOLUTION]
    tensors[FIRST_CONVOLUTION] = torch.cat([first, first, first[:, :1]], dim=1)
    save_file(tensors, tmp_path / "inpainting.safetensors")
    parents = Parents.of([Checkpoint.open(tmp_path / "inpainting.safetensors"), small_parents("sd15")[1]])
    workflow = comfy_workflow(recipe(SD15, step(SD15, by_block())), Ingredients(parents), "best")
    assert workflow.text is None
    assert f"parents A and B are of different kinds ({FIRST_CONVOLUTION}" in workflow.gaps[0]


def test_text_encoders_that_only_one_parent_has_are_taken_from_it(tmp_path: Path) -> None:
    kept = {key: tensor for key, tensor in random_tensors("sd15", 0).items() if not key.startswith("cond_stage_model.")}
    save_file(kept, tmp_path / "a.safetensors")
    save_file(random_tensors("sd15", 1), tmp_path / "b.safetensors")
    files = Ingredients(Parents.of([Checkpoint.open(tmp_path / f"{letter}.safetensors") for letter in "ab"]))
    merge = recipe(SD15, step(SD15, by_block()))
    assert_same(comfy_workflow(merge, files, "best"), merge, files, tmp_path)
