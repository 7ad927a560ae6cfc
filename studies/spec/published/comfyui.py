"""The graph of nodes that ComfyUI writes into a picture: `prompt`, a JSON object {id: {class_type, inputs}}.

An input is a value, or a link [id, slot] to another node. The settings are those of the sampler that begins with an
empty latent image; what its links lead to is followed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from studies.spec.published.settings import PublishedError, RawSettings

DEPTH: Final = 100  # links that are followed one after the other
VALUE_KEYS: Final = ("value", "seed", "noise_seed", "int", "float", "string", "text", "number")
PASSED_KEYS: Final = ("conditioning", "positive", "clip", "model", "samples", "latent_image", "latent")
MIXING: Final = ("ConditioningCombine", "ConditioningConcat", "ConditioningAverage", "ConditioningSetArea")
LATENTS: Final = ("EmptyLatentImage", "EmptySD3LatentImage", "SDXLEmptyLatentSizePicker+")
EXPECTED: Final = ("CheckpointLoader", "LoraLoader", "CLIPSetLastLayer", "UNETLoader", "VAELoader", "unCLIPCheckpoint")

Node = Mapping[str, Any]


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
    return nodes.settings(first, more=len(samplers) > 1)


def _is_sampler(node: Node) -> bool:
    return {"positive", "negative", "latent_image"} <= _inputs(node).keys() or (
        {"guider", "latent_image", "sigmas"} <= _inputs(node).keys()
    )


def _inputs(node: Node) -> Mapping[str, Any]:
    found = node.get("inputs")
    return found if isinstance(found, Mapping) else {}


def _kind(node: Node) -> str:
    return str(node.get("class_type", ""))[:80]


class _Nodes:
    """The nodes of a graph by their ids."""

    def __init__(self, graph: Mapping[str, Any]) -> None:
        self._graph = graph

    def settings(self, sampler: Node, *, more: bool) -> RawSettings:
        """Read the settings of one sampler, whose links are followed."""
        guider = self._target(sampler, "guider") or sampler
        sigmas = self._target(sampler, "sigmas") or sampler
        noise = self._target(sampler, "noise") or sampler
        chosen = self._target(sampler, "sampler") or sampler
        latent = self.latent(sampler) or {}
        denoise = self.value(sigmas, "denoise")
        if isinstance(denoise, (int, float)) and denoise < 1:
            raise PublishedError("it was made from another picture (denoise below 1), which its graph does not hold")
        positive, clip = self._conditioning(guider, "positive")
        negative, _ = self._conditioning(guider, "negative")
        notes = [*self._model_notes(guider), *(["further sampler nodes are not repeated"] if more else [])]
        return RawSettings(
            program="ComfyUI",
            syntax="comfyui",
            prompt=positive,
            negative=negative,
            seed=self._first(noise, "seed", "noise_seed"),
            width=self.value(latent, "width"),
            height=self.value(latent, "height"),
            steps=self.value(sigmas, "steps"),
            cfg=self.value(guider, "cfg"),
            sampler=self.value(chosen, "sampler_name"),
            schedule=self.value(sigmas, "scheduler"),
            clip_skip=clip,
            notes=tuple(notes),
        )

    def latent(self, sampler: Node) -> Node | None:
        """Return the empty latent image that a sampler begins with; None if it begins with something else."""
        node = self._target(sampler, "latent_image")
        return node if node is not None and _kind(node) in LATENTS else None

    def value(self, node: Node, key: str, depth: int = 0) -> Any:
        """Return an input's value, which may be that of a node that holds nothing else."""
        found = _inputs(node).get(key)
        target = self._linked(found)
        if target is None or depth > DEPTH:
            return None if isinstance(found, list) else found
        known = next((name for name in (key, *VALUE_KEYS) if name in _inputs(target)), None)
        return None if known is None else self.value(target, known, depth + 1)

    def _first(self, node: Node, *keys: str) -> Any:
        return next((self.value(node, key) for key in keys if key in _inputs(node)), None)

    def _target(self, node: Node, key: str) -> Node | None:
        return self._linked(_inputs(node).get(key))

    def _linked(self, link: Any) -> Node | None:
        if isinstance(link, list) and len(link) == 2:
            node = self._graph.get(str(link[0]))
            return node if isinstance(node, Mapping) else None
        return None

    def _conditioning(self, guider: Node, key: str) -> tuple[Any, int | None]:
        """Return the text that a conditioning was made of, and the clip skip."""
        node = self._target(guider, key)
        for _ in range(DEPTH):
            if node is None:
                break
            if _kind(node).startswith(MIXING):
                raise PublishedError(f"its graph has {_kind(node)} (regional or mixed prompts), which is not repeated")
            if _kind(node) == "ConditioningZeroOut":  # the text before it does not count
                return "", self._clip_skip(node)
            text = next((self.value(node, name) for name in ("text", "text_g") if name in _inputs(node)), None)
            if text is not None:
                return text, self._clip_skip(node)
            passed = next((self._target(node, name) for name in (key, "conditioning") if name in _inputs(node)), None)
            node = passed
        return None, None

    def _clip_skip(self, node: Node) -> int | None:
        for each in self._chain(node, "clip"):
            layer = self.value(each, "stop_at_clip_layer")
            if isinstance(layer, int) and -12 <= layer < 0:
                return -layer
        return None

    def _model_notes(self, guider: Node) -> Iterator[str]:
        chain = list(self._chain(guider, "model"))
        loras = [str(self.value(node, "lora_name"))[:80] for node in chain if "lora_name" in _inputs(node)]
        if loras:
            yield f"LoRAs are not applied: {', '.join(loras)} (see `loras` of a spec)"
        others = [_kind(node) for node in chain if not _kind(node).startswith(EXPECTED)]
        if others:
            yield f"not repeated: {', '.join(dict.fromkeys(others))}"

    def _chain(self, node: Node, key: str) -> Iterator[Node]:
        """Yield the nodes that one link after the other leads to."""
        for _ in range(DEPTH):
            target = self._target(node, key)
            if target is None:
                return
            yield target
            node = target
