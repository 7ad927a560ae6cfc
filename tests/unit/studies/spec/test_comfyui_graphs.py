"""What of a graph of ComfyUI is told: every node on the way to the picture that is not known to be read whole."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studies.spec.pag import PagSettings
from studies.spec.published.comfyui import parse_graph
from studies.spec.published.settings import PublishedError, PublishedSettings, checked
from studies.spec.suite import SizeConditioning

GRAPH: dict[str, Any] = {
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "x.safetensors"}},
    "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox", "clip": ["1", 1]}},
    "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "dark", "clip": ["1", 1]}},
    "4": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 640, "batch_size": 1}},
    "5": {
        "class_type": "KSamplerAdvanced",
        "inputs": {
            "add_noise": "enable", "noise_seed": 7, "steps": 12, "cfg": 5.0, "sampler_name": "euler",
            "scheduler": "karras", "start_at_step": 0, "end_at_step": 10000, "return_with_leftover_noise": "disable",
            "model": ["1", 0], "positive": ["2", 0], "negative": ["3", 0], "latent_image": ["4", 0],
        },
    },
}  # fmt: skip


def with_node(between: str, kind: str, **inputs: Any) -> dict[str, Any]:
    """Return the graph with a node in one of the sampler's links, which the node's input `inputs['through']` takes."""
    graph = copy.deepcopy(GRAPH)
    sampler = graph["5"]["inputs"]
    through = inputs.pop("through")
    graph["9"] = {"class_type": kind, "inputs": {through: sampler[between], **inputs}}
    sampler[between] = ["9", 0]
    return graph


def read(graph: Mapping[str, Any]) -> PublishedSettings:
    return checked(parse_graph(graph))


def test_a_graph_that_is_read_whole_has_no_notes() -> None:
    found = read(GRAPH)
    assert (found.prompt, found.negative, found.seed, found.width, found.height) == ("a fox", "dark", 7, 512, 640)
    assert (found.program, found.size_conditioning, found.notes) == ("comfyui", SizeConditioning(), ())
    assert read(with_node("positive", "Reroute", through="")).notes == ()
    assert read(with_node("latent_image", "Reroute", through="")).notes == ()


@pytest.mark.parametrize(
    ("between", "kind", "through", "inputs"),
    [
        ("positive", "ControlNetApply", "conditioning", {"strength": 1.0, "control_net": ["1", 0]}),
        ("positive", "ControlNetApplyAdvanced", "positive", {"negative": ["3", 0], "strength": 0.5}),
        ("negative", "ConditioningSetTimestepRange", "conditioning", {"start": 0.0, "end": 0.5}),
        ("positive", "ConditioningSetMask", "conditioning", {"strength": 1.0}),
        ("positive", "GLIGENTextBoxApply", "conditioning_to", {"text": "a hat", "width": 64}),
        ("positive", "unCLIPConditioning", "conditioning", {"strength": 1.0}),
        ("positive", "StyleModelApply", "conditioning", {}),
        ("positive", "SomebodysConditioningNode", "conditioning", {}),
        ("model", "IPAdapterAdvanced", "model", {"weight": 1.0}),
        ("model", "FreeU_V2", "model", {"b1": 1.3}),
        ("model", "ModelSamplingDiscrete", "model", {"sampling": "v_prediction", "zsnr": False}),
        ("model", "PerturbedAttention", "model", {"scale": 3.0, "unet_block": "middle", "unet_block_id": 0}),
        ("model", "SomebodysModelPatch", "model", {}),
        ("latent_image", "LatentFromBatch", "samples", {"batch_index": 1, "length": 1}),
        ("latent_image", "SetLatentNoiseMask", "samples", {}),
    ],
)
def test_a_node_that_is_not_known_is_told_by_its_name(
    between: str, kind: str, through: str, inputs: dict[str, Any]
) -> None:
    found = read(with_node(between, kind, through=through, **inputs))
    assert found.notes == (f"not repeated: {kind}",)
    assert (found.prompt, found.negative, found.width) == ("a fox", "dark", 512)


def test_guidance_of_a_models_nodes_is_read() -> None:
    graph = with_node("model", "PerturbedAttentionGuidance", through="model", scale=2.5)
    graph["8"] = {"class_type": "RescaleCFG", "inputs": {"model": ["9", 0], "multiplier": 0.7}}
    graph["5"]["inputs"]["model"] = ["8", 0]
    found = read(graph)
    assert (found.cfg_rescale, found.pag, found.notes) == (0.7, PagSettings(scale=2.5), ())
    assert (read(GRAPH).cfg_rescale, read(GRAPH).pag) == (None, None)
    graph["9"] = {"class_type": "RescaleCFG", "inputs": {"model": ["1", 0], "multiplier": 0.1}}
    assert read(graph).cfg_rescale == 0.7
    assert read(graph).notes == ("not repeated: more than one RescaleCFG",)
    graph["8"]["inputs"]["multiplier"] = 7
    with pytest.raises(PublishedError, match="expected a number from 0 to 1 as CFG rescale, got 7"):
        read(graph)


def test_nodes_of_the_text_encoder_are_told() -> None:
    graph = copy.deepcopy(GRAPH)
    graph["9"] = {"class_type": "CLIPAttentionMultiply", "inputs": {"clip": ["1", 1], "q": 1.2}}
    graph["3"]["inputs"]["clip"] = ["9", 0]
    assert read(graph).notes == ("not repeated: CLIPAttentionMultiply",)
    graph["2"]["class_type"] = "BNK_CLIPTextEncodeAdvanced"
    assert read(graph).notes == ("not repeated: BNK_CLIPTextEncodeAdvanced, CLIPAttentionMultiply",)


@pytest.mark.parametrize(
    ("node", "changes", "told"),
    [
        ("4", {"batch_size": 4}, "batch_size"),
        ("5", {"add_noise": "disable"}, "add_noise"),
        ("5", {"start_at_step": 3}, "start_at_step"),
        ("5", {"end_at_step": 9}, "end_at_step"),
        ("5", {"denoise": 0.6}, "denoise of 0.6"),
    ],
)
def test_values_that_a_suite_has_no_setting_for_are_told(node: str, changes: dict[str, Any], told: str) -> None:
    graph = copy.deepcopy(GRAPH)
    graph[node]["inputs"] |= changes
    (note,) = read(graph).notes
    assert told in note


def test_levels_and_noise_of_nodes_that_are_not_known_are_told() -> None:
    graph = {key: node for key, node in copy.deepcopy(GRAPH).items() if key != "5"} | {
        "5": {
            "class_type": "SamplerCustomAdvanced",
            "inputs": {
                "noise": ["6", 0], "guider": ["7", 0], "sampler": ["8", 0], "sigmas": ["9", 0],
                "latent_image": ["4", 0],
            },
        },
        "6": {"class_type": "RandomNoise", "inputs": {"noise_seed": 7}},
        "7": {
            "class_type": "CFGGuider",
            "inputs": {"cfg": 4.0, "model": ["1", 0], "positive": ["2", 0], "negative": ["3", 0]},
        },
        "8": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}},
        "9": {"class_type": "SplitSigmas", "inputs": {"sigmas": ["10", 0], "step": 3}},
        "10": {"class_type": "BasicScheduler", "inputs": {"scheduler": "beta", "steps": 12, "denoise": 1.0}},
    }  # fmt: skip
    found = read(graph)
    assert (found.steps, found.schedule, found.notes) == (12, "beta", ("not repeated: SplitSigmas",))
    graph["9"] = {"class_type": "KarrasScheduler", "inputs": {"steps": 12, "rho": 5.0}}
    graph["6"] = {"class_type": "SomebodysNoise", "inputs": {"noise_seed": 7}}
    assert read(graph).notes == ("not repeated: SomebodysNoise, KarrasScheduler",)


def test_a_second_pass_is_not_taken_for_the_first() -> None:
    graph = copy.deepcopy(GRAPH)
    second = copy.deepcopy(graph["5"])
    second["inputs"] |= {"latent_image": ["6", 0], "noise_seed": 99, "denoise": 0.5}
    graph["6"] = {"class_type": "LatentUpscale", "inputs": {"samples": ["5", 0], "width": 1024, "height": 1280}}
    found = read({"0": second, **graph})
    assert (found.seed, found.width) == (7, 512)
    assert found.notes == ("further sampler nodes are not repeated",)
    only = {key: node for key, node in graph.items() if key != "4"}
    with pytest.raises(PublishedError, match="from another picture"):
        read(only)


def sized(**changes: Any) -> dict[str, Any]:
    inputs = {"width": 512, "height": 640, "crop_w": 0, "crop_h": 0, "target_width": 512, "target_height": 640}
    texts = {"text_g": "a fox", "text_l": "a fox", "clip": ["1", 1]}
    return {"class_type": "CLIPTextEncodeSDXL", "inputs": inputs | texts | changes}


def test_sizes_that_sdxl_is_told_are_read() -> None:
    graph = copy.deepcopy(GRAPH) | {"2": sized(), "3": sized(text_g="dark", text_l="dark")}
    assert (read(graph).size_conditioning, read(graph).notes) == (SizeConditioning(), ())
    changes = {"width": 4096, "height": 4096, "crop_w": 8}
    graph |= {"2": sized(**changes), "3": sized(text_g="dark", text_l="dark", **changes)}
    found = read(graph)
    assert (found.size_conditioning, found.notes) == (SizeConditioning(original=(4096, 4096), crop=(8, 0)), ())
    graph["3"] = sized(text_g="dark", text_l="night")
    assert read(graph).notes == (
        "not repeated: another text for the first text encoder (text_l)",
        "not repeated: other sizes with the negative prompt",
    )


LINKS = st.tuples(st.sampled_from([*GRAPH, "no"]), st.just(0)).map(list)
VALUES: st.SearchStrategy[object] = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | LINKS | st.just({})
)


@given(st.data())
def test_graphs_of_other_values_and_links_are_read_or_refused(data: st.DataObject) -> None:
    graph = copy.deepcopy(GRAPH) | {"3": sized(text_g="dark")}
    for _ in range(data.draw(st.integers(1, 4))):
        inputs = graph[data.draw(st.sampled_from([*GRAPH]))]["inputs"]
        inputs[data.draw(st.sampled_from([*inputs, "conditioning", "samples", "model", "clip", ""]))] = data.draw(
            VALUES
        )
    with suppress(PublishedError):
        assert read(graph).prompt


def with_text(kind: str, more: Mapping[str, Any] | None = None, **inputs: Any) -> dict[str, Any]:
    """Return the graph with a node that gives the prompt."""
    graph = {**copy.deepcopy(GRAPH), "9": {"class_type": kind, "inputs": inputs}, **(more or {})}
    graph["2"]["inputs"]["text"] = ["9", 0]
    return graph


@pytest.mark.parametrize(
    ("kind", "inputs", "prompt"),
    [
        ("StringConcatenate", {"string_a": "a cat", "string_b": "on a mat", "delimiter": ", "}, "a cat, on a mat"),
        ("StringReplace", {"string": "a cat", "find": "cat", "replace": "dog"}, "a dog"),
        ("StringTrim", {"string": "  a cat ", "mode": "Both"}, "a cat"),
        ("CaseConverter", {"string": "a Cat", "mode": "lowercase"}, "a cat"),
        ("PrimitiveStringMultiline", {"value": "a cat"}, "a cat"),
        ("ShowText|pysssss", {"text": "a cat"}, "a cat"),
    ],
)
def test_what_a_known_text_node_makes_is_the_prompt(kind: str, inputs: dict[str, Any], prompt: str) -> None:
    found = read(with_text(kind, **inputs))
    assert (found.prompt, found.notes) == (prompt, ())


def test_text_nodes_may_follow_each_other() -> None:
    more = {
        "10": {"class_type": "StringReplace", "inputs": {"string": ["11", 0], "find": "cat", "replace": "dog"}},
        "11": {"class_type": "PrimitiveString", "inputs": {"value": "a cat"}},
    }
    found = read(with_text("StringConcatenate", more, string_a=["10", 0], string_b=["11", 0], delimiter=" and "))
    assert (found.prompt, found.notes) == ("a dog and a cat", ())


@pytest.mark.parametrize(
    ("kind", "inputs"),
    [
        ("RegexReplace", {"string": "a cat", "regex_pattern": "cat", "replace": "dog"}),
        ("SomebodysTexts", {"text": "a cat", "text_b": "a dog"}),
        ("DPRandomGenerator", {"text": "a {cat|dog}", "seed": 3}),
        ("Text Concatenate", {"text_a": "a cat", "text": "a dog"}),
    ],
)
def test_a_text_node_that_is_not_known_is_told_by_its_name(kind: str, inputs: dict[str, Any]) -> None:
    assert read(with_text(kind, **inputs)).notes == (f"not repeated: {kind}",)


@pytest.mark.parametrize("name", ["noise_seed", "steps", "cfg", "sampler_name"])
def test_every_value_that_a_node_gives_which_is_not_known_is_told(name: str) -> None:
    graph = copy.deepcopy(GRAPH)
    graph["9"] = {"class_type": "SomebodysSettings", "inputs": {name: graph["5"]["inputs"][name], "scale": 2}}
    graph["5"]["inputs"][name] = ["9", 0]
    assert read(graph).notes == ("not repeated: SomebodysSettings",)


@pytest.mark.parametrize("text", ["", "abc"])
def test_text_nodes_that_double_each_other_end(text: str) -> None:
    nodes = {
        str(number): {
            "class_type": "StringConcatenate",
            "inputs": {"string_a": [str(number + 1), 0], "string_b": [str(number + 1), 0], "delimiter": text},
        }
        for number in range(10, 90)
    }
    nodes["90"] = {"class_type": "PrimitiveString", "inputs": {"value": text}}
    with pytest.raises(PublishedError, match="more than 20,000 characters" if text else "have no prompt"):
        read(with_text("StringTrim", nodes, string=["10", 0], mode="Both"))


def test_a_text_node_that_is_linked_to_itself_gives_no_prompt() -> None:
    with pytest.raises(PublishedError, match="expected a text as prompt"):
        read(with_text("StringTrim", string=["9", 0], mode="Both"))


@pytest.mark.parametrize("sampler", ["dpmpp_2m_sde_gpu", "dpmpp_sde_gpu", "dpmpp_3m_sde_gpu"])
def test_noise_of_the_card_is_told(sampler: str) -> None:
    graph = copy.deepcopy(GRAPH)
    graph["5"]["inputs"]["sampler_name"] = sampler
    (note,) = read(graph).notes
    assert f"{sampler} was drawn on the graphics card" in note


def test_layers_that_only_the_negative_prompt_skips_are_told() -> None:
    graph = copy.deepcopy(GRAPH)
    graph["9"] = {"class_type": "CLIPSetLastLayer", "inputs": {"stop_at_clip_layer": -2, "clip": ["1", 1]}}
    graph["3"]["inputs"]["clip"] = ["9", 0]
    found = read(graph)
    assert found.clip_skip == 1
    assert found.notes == ("not repeated: another clip skip with the negative prompt (CLIPSetLastLayer)",)
    graph["2"]["inputs"]["clip"] = ["9", 0]
    assert (read(graph).clip_skip, read(graph).notes) == (2, ())
