"""The graph of nodes that ComfyUI writes into a picture: `prompt`, a JSON object {id: {class_type, inputs}}.

An input is a value, or a link [id, slot] to another node. The settings are those of the sampler that begins with an
empty latent image; what its links lead to is followed. Every node on the way to the model, the prompts, the noise and
its levels, and every node that gives a value, is told by its name unless it is known to be read whole: there are
thousands of kinds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from pydantic import ValidationError

from studies.spec.published.comfyui_nodes import SHOWN, Node, Nodes, inputs_of, kind_of
from studies.spec.published.settings import PublishedError, RawSettings
from studies.spec.suite import SizeConditioning

MIXING: Final = ("ConditioningCombine", "ConditioningConcat", "ConditioningAverage", "ConditioningSetArea")
LATENTS: Final = ("EmptyLatentImage", "EmptySD3LatentImage", "SDXLEmptyLatentSizePicker+")
SIZED: Final = "CLIPTextEncodeSDXL"  # says the sizes that SDXL's U-Net is told
SIZES: Final = {
    "original": ("width", "height"),
    "crop": ("crop_w", "crop_h"),
    "target": ("target_width", "target_height"),
}
LORAS: Final = frozenset({"LoraLoader", "LoraLoaderModelOnly", "LoraLoader|pysssss"})
GUIDANCE: Final = ("PerturbedAttentionGuidance", "RescaleCFG")  # nodes of the model
# Nodes of which everything that shapes a picture is read: all others are told.
READ: Final = LORAS | {
    "BasicScheduler",
    "CFGGuider",
    "CLIPLoader",
    "CLIPSetLastLayer",
    "CLIPTextEncode",
    "CheckpointLoader",
    "CheckpointLoaderSimple",
    "CheckpointLoader|pysssss",
    "DualCLIPLoader",
    "EmptyLatentImage",
    "KSampler",
    "KSamplerAdvanced",
    "KSamplerSelect",
    *GUIDANCE,
    "RandomNoise",
    "Reroute",
    "SDXLEmptyLatentSizePicker+",
    "SamplerCustom",
    "SamplerCustomAdvanced",
    "UNETLoader",
    SIZED,
}


def parse_graph(graph: Any) -> RawSettings:
    """Read the settings of the first sampler of a graph.

    Raises:
        PublishedError: there is none, or it is not one that can be followed.
    """
    if not isinstance(graph, Mapping) or not all(isinstance(node, Mapping) for node in graph.values()):
        raise PublishedError("ComfyUI's graph is not a mapping of nodes")
    nodes = _Nodes(graph)
    samplers = [node for node in graph.values() if _is_sampler(node)]
    if not samplers:
        raise PublishedError("ComfyUI's graph has no KSampler or SamplerCustom node that could be read")
    first = next((node for node in samplers if nodes.latent(node) is not None), None)
    if first is None:
        raise PublishedError("it was made from another picture (no empty latent image), which its graph does not hold")
    return _Sampler(nodes, first).settings(more=len(samplers) > 1)


def _is_sampler(node: Node) -> bool:
    return {"positive", "negative", "latent_image"} <= inputs_of(node).keys() or (
        {"guider", "latent_image", "sigmas"} <= inputs_of(node).keys()
    )


class _Nodes(Nodes):
    """The nodes of a graph, with the latent images that samplers begin with."""

    def __init__(self, graph: Mapping[str, Any]) -> None:
        super().__init__(graph, READ)

    def latent(self, sampler: Node) -> Node | None:
        """Return the empty latent image that a sampler begins with; None if it begins with something else."""
        return next((node for node in self.latents(sampler) if kind_of(node) in LATENTS), None)

    def latents(self, sampler: Node) -> Iterator[Node]:
        """Yield the nodes that a sampler's latent image passes through; another sampler is the last of them."""
        last = self.target(sampler, "latent_image")
        if last is not None:
            yield last
            yield from self.chain(last, "samples", "latent", "")


class _Sampler:
    """A sampler node with the nodes that its links lead to."""

    def __init__(self, nodes: _Nodes, sampler: Node) -> None:
        self._nodes, self._node = nodes, sampler
        self._guider = nodes.target(sampler, "guider") or sampler
        self._noise = nodes.target(sampler, "noise") or sampler
        self._chosen = nodes.target(sampler, "sampler") or sampler
        self._levels = [node for node in nodes.chain(sampler, "sigmas", "") if inputs_of(node)] or [sampler]
        self._latents = list(nodes.latents(sampler))

    def settings(self, *, more: bool) -> RawSettings:
        """Read the settings.

        Args:
            more: whether the graph has further samplers.

        Raises:
            PublishedError: its prompts are mixed of several.
        """
        value, latent = self._nodes.value, self._nodes.latent(self._node) or {}
        positive, negative = self._conditioning("positive"), self._conditioning("negative")
        read = RawSettings(
            made_by="ComfyUI",
            syntax="comfyui",
            prompt=self._text(positive, "positive"),
            negative=self._text(negative, "negative"),
            seed=self._nodes.first(self._noise, "seed", "noise_seed"),
            width=value(latent, "width"),
            height=value(latent, "height"),
            steps=value(self._levels[-1], "steps"),
            cfg=value(self._guider, "cfg"),
            sampler=value(self._chosen, "sampler_name"),
            schedule=value(self._levels[-1], "scheduler"),
            clip_skip=self._clip_skip(positive),
            cfg_rescale=self._of_model("RescaleCFG", "multiplier"),
            pag_scale=self._of_model("PerturbedAttentionGuidance", "scale"),
            program="comfyui",
            size_conditioning=self._sizes(positive, latent),
        )
        notes = [*self._notes([*positive, *negative], latent), *self._notes_of_negative(read, negative, latent)]
        if more:
            notes.append("further sampler nodes are not repeated")
        return replace(read, notes=tuple(notes))

    def _notes_of_negative(self, read: RawSettings, negative: list[Node], latent: Node) -> Iterator[str]:
        """Yield what a suite has one of for both prompts, and is another one for the negative one.

        Args:
            read: the settings that are the positive one's.
        """
        if self._sizes(negative, latent) != read.size_conditioning:
            yield "not repeated: other sizes with the negative prompt"
        zeroed = any(kind_of(node) == "ConditioningZeroOut" for node in negative)
        if not zeroed and (self._clip_skip(negative) or 1) != (read.clip_skip or 1):
            yield "not repeated: another clip skip with the negative prompt (CLIPSetLastLayer)"

    def _conditioning(self, key: str) -> list[Node]:
        """Return the nodes that a conditioning passes through; the last has the text.

        Raises:
            PublishedError: it is mixed of several.
        """
        found = list(self._nodes.chain(self._guider, key, "conditioning", "conditioning_to", ""))
        mixing = next((kind_of(node) for node in found if kind_of(node).startswith(MIXING)), None)
        if mixing is not None:
            raise PublishedError(f"its graph has {mixing} (regional or mixed prompts), which is not repeated")
        return found

    def _text(self, conditioning: list[Node], key: str) -> Any:
        if any(kind_of(node) == "ConditioningZeroOut" for node in conditioning):  # the text before it does not count
            return ""
        return self._nodes.first(conditioning[-1], "text", "text_g", key) if conditioning else None

    def _of_model(self, kind: str, key: str) -> Any:
        """Return an input of the node of a kind that a model passes through last; None where there is none."""
        nodes = (node for node in self._nodes.chain(self._guider, "model", "") if kind_of(node) == kind)
        return next((self._nodes.value(node, key) for node in nodes), None)

    def _clip_skip(self, conditioning: list[Node]) -> int | None:
        for node in self._nodes.chain(conditioning[-1], "clip", "") if conditioning else ():
            layer = self._nodes.value(node, "stop_at_clip_layer")
            if isinstance(layer, int) and -12 <= layer < 0:
                return -layer
        return None

    def _sizes(self, conditioning: list[Node], latent: Node) -> SizeConditioning:
        """Return the sizes that the U-Net is told with a prompt: the image's, if its node says none.

        Raises:
            PublishedError: they are no sizes.
        """
        if not conditioning or kind_of(conditioning[-1]) != SIZED:
            return SizeConditioning()
        told = {name: [self._nodes.value(conditioning[-1], key) for key in keys] for name, keys in SIZES.items()}
        image = [self._nodes.value(latent, key) for key in SIZES["original"]]
        try:
            return SizeConditioning.model_validate({key: size for key, size in told.items() if size != image})
        except ValidationError as error:
            raise PublishedError(f"its {SIZED} node has sizes that are none") from error

    def _notes(self, conditioning: list[Node], latent: Node) -> Iterator[str]:
        """Yield what of the picture cannot be repeated.

        Args:
            conditioning: the nodes of both prompts.
        """
        path = [*self._nodes.chain(self._guider, "model", ""), *conditioning]
        for node in conditioning:
            path += self._nodes.chain(node, "clip", "")
        loras = [str(self._nodes.value(node, "lora_name"))[:SHOWN] for node in path if kind_of(node) in LORAS]
        if loras:
            yield f"LoRAs are not applied: {', '.join(dict.fromkeys(loras))} (see `loras` of a suite)"
        path += [self._node, self._guider, self._noise, self._chosen, *self._levels, *self._latents]
        others = [*(kind_of(node) for node in path if kind_of(node) not in READ), *self._values(latent)]
        kinds = [kind_of(node) for node in self._nodes.chain(self._guider, "model", "")]
        others += [f"more than one {kind}" for kind in GUIDANCE if kinds.count(kind) > 1]
        sized = [node for node in conditioning if kind_of(node) == SIZED]
        if any(self._nodes.value(node, "text_l") != self._nodes.value(node, "text_g") for node in sized):
            others.append("another text for the first text encoder (text_l)")
        others += self._nodes.not_known  # of values that were read until here
        if others:
            yield f"not repeated: {', '.join(dict.fromkeys(others))}"

    def _values(self, latent: Node) -> Iterator[str]:
        """Yield values of nodes that a suite has no setting for."""
        value, levels = self._nodes.value, self._levels[-1]
        denoise, steps, end = value(levels, "denoise"), value(levels, "steps"), value(self._node, "end_at_step")
        if isinstance(denoise, (int, float)) and denoise < 1:
            yield f"its denoise of {denoise:g}"
        if value(self._node, "add_noise") in ("disable", False):
            yield "a beginning without noise (add_noise)"
        if value(self._node, "start_at_step") not in (None, 0):
            yield "steps that are left out (start_at_step)"
        if isinstance(end, int) and isinstance(steps, int) and end < steps:
            yield "steps that are left out (end_at_step)"
        if value(latent, "batch_size") not in (None, 1):
            yield "the pictures of its batch but the first (batch_size)"
