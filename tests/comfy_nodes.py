"""A small interpreter of ComfyUI's nodes that merge, for the workflows that its editor saves.

Written after ComfyUI's nodes.py, comfy_extras/nodes_model_merging.py, nodes_model_merging_model_specific.py and
comfy/lora.py (calculate_weight). Nothing here uses the code under test.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

UNET, VAE, TEXTS = "model.diffusion_model.", "first_stage_model.", ("cond_stage_model.", "conditioner.embedders.")
SD1_RATIOS = (
    "time_embed.", "label_emb.", *(f"input_blocks.{n}." for n in range(12)), *(f"middle_block.{n}." for n in range(3)),
    *(f"output_blocks.{n}." for n in range(12)), "out.",
)  # fmt: skip
SDXL_RATIOS = (
    "time_embed.", "label_emb.", *(f"input_blocks.{n}" for n in range(9)), *(f"middle_block.{n}" for n in range(3)),
    *(f"output_blocks.{n}" for n in range(9)), "out.",
)  # fmt: skip

Weights = dict[str, Tensor]  # in float32: ComfyUI computes a weight with all its patches, and rounds it once
Run = Callable[[Mapping[str, Weights], Mapping[str, Any], Path], tuple[Weights, ...]]  # inputs, values, folder


@dataclass(frozen=True)
class NodeClass:
    """A node's class: its inputs that are linked, those that have a value in the editor, and what it gives out."""

    links: Mapping[str, str]  # name -> kind
    values: Mapping[str, tuple[float, float] | None]  # name -> least and most; None for texts
    outputs: tuple[str, ...]


def _two(kind: str, first: str, second: str, **values: tuple[float, float]) -> NodeClass:
    return NodeClass({first: kind, second: kind}, values, (kind,))


UNIT, WIDE, STRENGTH = (0.0, 1.0), (-10.0, 10.0), (-100.0, 100.0)
CLASSES: Mapping[str, NodeClass] = {
    "CheckpointLoaderSimple": NodeClass({}, {"ckpt_name": None}, ("MODEL", "CLIP", "VAE")),
    "VAELoader": NodeClass({}, {"vae_name": None}, ("VAE",)),
    "LoraLoader": NodeClass(
        {"model": "MODEL", "clip": "CLIP"},
        {"lora_name": None, "strength_model": STRENGTH, "strength_clip": STRENGTH},
        ("MODEL", "CLIP"),
    ),
    "ModelMergeSD1": _two("MODEL", "model1", "model2", **dict.fromkeys(SD1_RATIOS, UNIT)),
    "ModelMergeSDXL": _two("MODEL", "model1", "model2", **dict.fromkeys(SDXL_RATIOS, UNIT)),
    "ModelMergeSubtract": _two("MODEL", "model1", "model2", multiplier=WIDE),
    "ModelMergeAdd": _two("MODEL", "model1", "model2"),
    "CLIPMergeSimple": _two("CLIP", "clip1", "clip2", ratio=UNIT),
    "CLIPMergeSubtract": _two("CLIP", "clip1", "clip2", multiplier=WIDE),
    "CLIPMergeAdd": _two("CLIP", "clip1", "clip2"),
    "CheckpointSave": NodeClass({"model": "MODEL", "clip": "CLIP", "vae": "VAE"}, {"filename_prefix": None}, ()),
}


def saved_by(workflow: str, folder: Path) -> Weights:
    """Return the weights of the checkpoint that a workflow saves, in float32, by the keys of a single file.

    Args:
        folder: where its files are.
    """
    data = json.loads(workflow)
    assert data["version"] == 0.4
    nodes = {node["id"]: node for node in data["nodes"]}
    links: dict[int, tuple[int, int, str]] = {
        link: (source, slot, kind) for link, source, slot, _, _, kind in data["links"]
    }
    _require_consistent(data, nodes)
    known: dict[int, tuple[Weights, ...]] = {}

    def given(link: int, kind: str) -> Weights:
        source, slot, told = links[link]
        assert told == kind
        return computed(source)[slot]

    def computed(number: int) -> tuple[Weights, ...]:
        if number not in known:
            node = nodes[number]
            cls = CLASSES[node["type"]]
            assert [(each["name"], each["type"]) for each in node["inputs"]] == list(cls.links.items())
            assert [each["type"] for each in node["outputs"]] == list(cls.outputs)
            values = dict(zip(cls.values, node["widgets_values"], strict=True))
            for name, bounds in cls.values.items():
                assert bounds is None or bounds[0] <= values[name] <= bounds[1], (node["type"], name, values[name])
            inputs = {each["name"]: given(each["link"], each["type"]) for each in node["inputs"]}
            known[number] = _RUNS[node["type"]](inputs, values, folder)
        return known[number]

    (save,) = (int(node["id"]) for node in data["nodes"] if node["type"] == "CheckpointSave")
    return computed(save)[0]


def _require_consistent(data: Mapping[str, Any], nodes: Mapping[int, Mapping[str, Any]]) -> None:
    """Both ends of every link must name it, as the editor expects."""
    assert data["last_node_id"] == max(nodes)
    for link, source, slot, target, place, _ in data["links"]:
        assert link in nodes[source]["outputs"][slot]["links"]
        assert nodes[target]["inputs"][place]["link"] == link
        assert link <= data["last_link_id"]
    shown = [(node["pos"], node["size"]) for node in nodes.values()]
    for index, (one, size) in enumerate(shown):
        for other, other_size in shown[:index]:  # no node lies on another
            apart = any(
                one[axis] >= other[axis] + other_size[axis] or other[axis] >= one[axis] + size[axis] for axis in (0, 1)
            )
            assert apart


def _patched(first: Weights, second: Weights, strengths: Callable[[str], tuple[float, float]]) -> Weights:
    """`add_patches` for every key of the second: strength_model times the first, plus strength_patch times it."""
    result = dict(first)
    for key, weight in second.items():
        if key in first and weight.is_floating_point():
            patch, model = strengths(key)
            result[key] = first[key] * model + patch * weight
    return result


def _by_block(inputs: Mapping[str, Weights], values: Mapping[str, Any], _: Path) -> tuple[Weights, ...]:
    def strengths(key: str) -> tuple[float, float]:
        names = [name for name in values if key.removeprefix(UNET).startswith(name)]
        ratio = values[max(names, key=len)] if names else next(iter(values.values()))
        return 1.0 - ratio, ratio

    return (_patched(inputs["model1"], inputs["model2"], strengths),)


def _pair(strengths: Callable[[Mapping[str, Any]], tuple[float, float]]) -> Run:
    def run(inputs: Mapping[str, Weights], values: Mapping[str, Any], _: Path) -> tuple[Weights, ...]:
        first, second = inputs.values()
        skipped = (".position_ids", ".logit_scale")
        patches = {key: weight for key, weight in second.items() if not key.endswith(skipped)}
        return (_patched(first, patches, lambda _: strengths(values)),)

    return run


def _load(_: Mapping[str, Weights], values: Mapping[str, Any], folder: Path) -> tuple[Weights, ...]:
    weights = {
        key: tensor.float() if tensor.is_floating_point() else tensor
        for key, tensor in load_file(folder / values["ckpt_name"]).items()
    }
    return tuple(
        {key: tensor for key, tensor in weights.items() if key.startswith(prefixes)} for prefixes in (UNET, TEXTS, VAE)
    )


def _load_vae(_: Mapping[str, Weights], values: Mapping[str, Any], folder: Path) -> tuple[Weights, ...]:
    weights = load_file(folder / values["vae_name"])
    return ({VAE + key.removeprefix(VAE): tensor.float() for key, tensor in weights.items()},)


def _with_lora(inputs: Mapping[str, Weights], values: Mapping[str, Any], folder: Path) -> tuple[Weights, ...]:
    factors = load_file(folder / values["lora_name"])
    results = []
    for weights, strength in ((inputs["model"], "strength_model"), (inputs["clip"], "strength_clip")):
        changed = dict(weights)
        for key in weights:
            module = key.removesuffix(".weight")
            if f"{module}.lora_up.weight" in factors:
                up, down = (factors[f"{module}.lora_{name}.weight"].float() for name in ("up", "down"))
                scale = float(factors[f"{module}.alpha"]) / down.shape[0]
                changed[key] = weights[key] + values[strength] * scale * (up @ down)
        results.append(changed)
    return tuple(results)


def _save(inputs: Mapping[str, Weights], _: Mapping[str, Any], __: Path) -> tuple[Weights, ...]:
    return ({**inputs["model"], **inputs["clip"], **inputs["vae"]},)


_RUNS: Mapping[str, Run] = {
    "CheckpointLoaderSimple": _load,
    "VAELoader": _load_vae,
    "LoraLoader": _with_lora,
    "ModelMergeSD1": _by_block,
    "ModelMergeSDXL": _by_block,
    "ModelMergeSubtract": _pair(lambda values: (-values["multiplier"], values["multiplier"])),
    "ModelMergeAdd": _pair(lambda _: (1.0, 1.0)),
    "CLIPMergeSimple": _pair(lambda values: (1.0 - values["ratio"], values["ratio"])),
    "CLIPMergeSubtract": _pair(lambda values: (-values["multiplier"], values["multiplier"])),
    "CLIPMergeAdd": _pair(lambda _: (1.0, 1.0)),
    "CheckpointSave": _save,
}


def steps_apart(one: Tensor, other: Tensor) -> int:
    """Return how many numbers of their dtype, fp16, lie between two tensors at most, one of the two included."""

    def ordered(tensor: Tensor) -> Tensor:
        bits = tensor.half().contiguous().view(torch.int16).int()
        return torch.where(bits < 0, -32768 - bits, bits)

    return int((ordered(one) - ordered(other)).abs().max()) if one.numel() else 0
