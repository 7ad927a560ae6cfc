"""CLIP's text models in checkpoint files: the names of their tensors, and their configurations.

Files name CLIP-L's tensors as transformers does, and those of OpenCLIP's models as open_clip does. Both run as
transformers' models. The width of an attention head cannot be read off shapes: it is fixed at 64 channels.

Tests compare this with the conversion that diffusers does when it loads a single file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from optimizer.errors import CheckpointError
from optimizer.families.shapes import Shapes, count, shape_of
from optimizer.families.views import THIRDS, Component, LiveView, Reading, StoredPart

END = 49407  # the end token of every CLIP
HEAD_WIDTH = 64
LAYERS = {768: 12, 1280: 32}  # width -> layers of CLIP-L and OpenCLIP-G

_LIVE = re.compile(r"(?:text_model\.)?((?:embeddings|encoder|final_layer_norm)\..+)")
_LIVE_LAYER = re.compile(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
_LIVE_ATTENTION = re.compile(r"self_attn\.([qkv])_proj")
_ENDS = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)")
_THIRDS: tuple[tuple[str, Reading], ...] = tuple(zip("qkv", THIRDS, strict=True))
_STORED_ENDS = {live: stored for stored, live in _ENDS.items()}
_STORED_LAYER = {live: stored for stored, live in _LAYER.items()}


def essential_clip_keys(prefix: str) -> tuple[str, ...]:
    """Return the keys of a CLIP-L model in a file that every one has: the embeddings and the first layer.

    Args:
        prefix: of its keys.
    """
    layers = (*_LAYER.values(), *(f"self_attn.{part}_proj" for part in "qkv"))
    embeddings = ("embeddings.token_embedding.weight", "embeddings.position_embedding.weight")
    first = (f"encoder.layers.0.{layer}.{kind}" for layer in layers for kind in ("weight", "bias"))
    return tuple(f"{prefix}text_model.{key}" for key in (*embeddings, *first))


def essential_open_clip_keys(prefix: str) -> tuple[str, ...]:
    """Return the keys under open_clip's names that every text model has: the embeddings and the first layer.

    Args:
        prefix: of its keys.
    """
    layers = (f"transformer.resblocks.0.{layer}.{kind}" for layer in _LAYER for kind in ("weight", "bias"))
    attention = (f"transformer.resblocks.0.attn.in_proj_{kind}" for kind in ("weight", "bias"))
    return tuple(prefix + key for key in ("token_embedding.weight", "positional_embedding", *layers, *attention))


class TextEncoder(Protocol):
    """A text encoder that comes in a family's checkpoint files."""

    @property
    def component(self) -> Component:
        """Its name."""

    @property
    def prefix(self) -> str:
        """The prefix of its keys in a file."""

    @property
    def model_class(self) -> str:
        """The name of its class in transformers."""

    def views(self, rest: str) -> tuple[LiveView, ...]:
        """Return the live parameters that a stored tensor holds.

        Args:
            rest: the tensor's key without the prefix.
        """

    def part(self, name: str) -> StoredPart | None:
        """Return where a file stores a live parameter; None if no file has it."""

    def assumed_settings(self, shapes: Shapes) -> dict[str, Any]:
        """Return what a file cannot say of it, by the keys of its `config.json`; see `ModelFamily`."""

    def config(self, shapes: Shapes) -> dict[str, Any]:
        """Return the arguments of its configuration.

        Raises:
            CheckpointError: a tensor is missing.
        """

    def build(self, config: dict[str, Any]) -> nn.Module:
        """Build the model, on torch's current default device."""


@dataclass(frozen=True, kw_only=True)
class ClipL:
    """A CLIP text model stored under transformers' names. Implements `TextEncoder`."""

    component: Component
    prefix: str
    model_class: str = "CLIPTextModel"
    activation: str = "quick_gelu"

    def views(self, rest: str) -> tuple[LiveView, ...]:
        """Return the live parameter; none for other tensors, such as `text_projection`, which are not rendered with."""
        live = _LIVE.fullmatch(rest) is not None and not rest.endswith("position_ids")
        return (LiveView(self.component, rest),) if live else ()

    def part(self, name: str) -> StoredPart | None:
        """Return where a file stores a parameter; names without `text_model.` are accepted too."""
        match = _LIVE.fullmatch(name)
        return StoredPart(f"{self.prefix}text_model.{match[1]}") if match else None

    def config(self, shapes: Shapes) -> dict[str, Any]:
        """Return the arguments of transformers' CLIPTextConfig.

        Raises:
            CheckpointError: a tensor is missing.
        """
        prefix = f"{self.prefix}text_model."
        vocabulary, width = shape_of(shapes, f"{prefix}embeddings.token_embedding.weight")
        return {
            **_shared(vocabulary, width),
            "max_position_embeddings": shape_of(shapes, f"{prefix}embeddings.position_embedding.weight")[0],
            "intermediate_size": shape_of(shapes, f"{prefix}encoder.layers.0.mlp.fc1.weight")[0],
            "num_hidden_layers": _layers(shapes, f"{prefix}encoder.layers.", width),
            "hidden_act": self.activation,
        }

    def assumed_settings(self, shapes: Shapes) -> dict[str, Any]:
        """Return activation, heads, layers and the constant of the normalisation."""
        prefix = f"{self.prefix}text_model."
        widths = shapes.get(f"{prefix}embeddings.token_embedding.weight")
        return _assumed(self.activation, shapes, widths, f"{prefix}encoder.layers.")

    def build(self, config: dict[str, Any]) -> nn.Module:
        """Build a CLIPTextModel."""
        from transformers import CLIPTextConfig, CLIPTextModel

        model: nn.Module = CLIPTextModel(CLIPTextConfig(**config))
        return model


@dataclass(frozen=True, kw_only=True)
class OpenClip:
    """A CLIP text model with a projection, stored under open_clip's names. Implements `TextEncoder`."""

    component: Component
    prefix: str
    model_class: str = "CLIPTextModelWithProjection"
    activation: str = "gelu"

    def views(self, rest: str) -> tuple[LiveView, ...]:
        """Return the live parameters: three for a fused attention projection."""
        if rest == "text_projection":
            return (LiveView(self.component, "text_projection.weight", "transposed"),)
        if rest in _ENDS:
            return (LiveView(self.component, f"text_model.{_ENDS[rest]}"),)
        block = _BLOCK.fullmatch(rest)
        if block is None:
            return ()
        layer, inner = f"text_model.encoder.layers.{block[1]}", block[2]
        if inner.startswith("attn.in_proj_"):
            leaf = inner.removeprefix("attn.in_proj_")
            return tuple(
                LiveView(self.component, f"{layer}.self_attn.{part}_proj.{leaf}", third) for part, third in _THIRDS
            )
        stem, _, leaf = inner.rpartition(".")
        return (LiveView(self.component, f"{layer}.{_LAYER[stem]}.{leaf}"),) if stem in _LAYER else ()

    def part(self, name: str) -> StoredPart | None:
        """Return where a file stores a parameter: query, key and value projections are thirds of one tensor."""
        if name == "text_projection.weight":
            return StoredPart(f"{self.prefix}text_projection", "transposed")
        match = _LIVE.fullmatch(name)
        if match is None:
            return None
        if match[1] in _STORED_ENDS:
            return StoredPart(self.prefix + _STORED_ENDS[match[1]])
        layer = _LIVE_LAYER.fullmatch(match[1])
        if layer is None:
            return None
        block, inner, leaf = f"{self.prefix}transformer.resblocks.{layer[1]}.", layer[2], layer[3]
        if attention := _LIVE_ATTENTION.fullmatch(inner):
            return StoredPart(f"{block}attn.in_proj_{leaf}", dict(_THIRDS)[attention[1]])
        return StoredPart(f"{block}{_STORED_LAYER[inner]}.{leaf}") if inner in _STORED_LAYER else None

    def config(self, shapes: Shapes) -> dict[str, Any]:
        """Return the arguments of transformers' CLIPTextConfig.

        Raises:
            CheckpointError: a tensor is missing.
        """
        vocabulary, width = shape_of(shapes, f"{self.prefix}token_embedding.weight")
        return {
            **_shared(vocabulary, width),
            "max_position_embeddings": shape_of(shapes, f"{self.prefix}positional_embedding")[0],
            "intermediate_size": shape_of(shapes, f"{self.prefix}transformer.resblocks.0.mlp.c_fc.weight")[0],
            "num_hidden_layers": _layers(shapes, f"{self.prefix}transformer.resblocks.", width),
            "hidden_act": self.activation,
            "projection_dim": shape_of(shapes, f"{self.prefix}text_projection")[1],
        }

    def assumed_settings(self, shapes: Shapes) -> dict[str, Any]:
        """Return activation, heads, layers and the constant of the normalisation."""
        widths = shapes.get(f"{self.prefix}token_embedding.weight")
        return _assumed(self.activation, shapes, widths, f"{self.prefix}transformer.resblocks.")

    def build(self, config: dict[str, Any]) -> nn.Module:
        """Build a CLIPTextModelWithProjection."""
        from transformers import CLIPTextConfig, CLIPTextModelWithProjection

        model: nn.Module = CLIPTextModelWithProjection(CLIPTextConfig(**config))
        return model


def _assumed(activation: str, shapes: Shapes, embedding: tuple[int, ...] | None, layers: str) -> dict[str, Any]:
    """Return the settings of a text encoder that no file has.

    Args:
        embedding: shape [vocabulary, width] of the embedding of tokens; None if it is missing.
        layers: what the keys of the layers begin with.
    """
    heads = {} if embedding is None else {"num_attention_heads": _heads(embedding[1])}
    number = count(shapes, re.compile(re.escape(layers) + r"(\d+)\."))
    return {"hidden_act": activation, "layer_norm_eps": 1e-5, "num_hidden_layers": number, **heads}


def _heads(width: int) -> int:
    return max(1, width // HEAD_WIDTH)


def _shared(vocabulary: int, width: int) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_attention_heads": _heads(width),
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "pad_token_id": 1,
    }


def _layers(shapes: Shapes, prefix: str, width: int) -> int:
    """Count the layers of a text encoder.

    Args:
        width: of the encoder, which determines how many layers it should have.

    Raises:
        CheckpointError: layers are missing. Some files leave out the last one, and with one layer less the prompt would
            be read from another layer.
    """
    layers, expected = count(shapes, re.compile(re.escape(prefix) + r"(\d+)\.")), LAYERS.get(width, 0)
    if layers < expected:
        raise CheckpointError(
            f"{prefix}{layers} is missing: the text encoder has {layers} of {expected} layers; "
            "make a full checkpoint parent A"
        )
    return layers
