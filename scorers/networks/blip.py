"""BLIP with a head of linear layers, for a reward of image and prompt: the network of ImageReward.

Li et al. 2022, BLIP, https://arxiv.org/abs/2201.12086. An image tower gives a row for each patch; a text tower (BERT
with cross-attention) reads the prompt and looks at these rows; its first row goes into the head. The towers are those
of transformers; the tensors have the names of the original code, and the sizes are read off their shapes. What these do
not tell is fixed: an attention head has a width of 64, and the towers have the epsilons of the original code.
"""

from __future__ import annotations

import math
import re
from itertools import pairwise
from typing import TYPE_CHECKING

from torch import nn
from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

from scorers.errors import WrongWeightsError
from scorers.networks.state_dict import first_finding, layer_count

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

_HEAD_WIDTH = 64
_IMAGE, _TEXT, _MLP = "blip.visual_encoder.", "blip.text_encoder.", "mlp.layers."

# Names in the image tower, original -> transformers; the text tower has the same in both.
_RENAMED = (
    (re.compile(r"cls_token"), "embeddings.class_embedding"),
    (re.compile(r"pos_embed"), "embeddings.position_embedding"),
    (re.compile(r"patch_embed\.proj\.(.*)"), r"embeddings.patch_embedding.\1"),
    (re.compile(r"norm\.(.*)"), r"post_layernorm.\1"),
    (re.compile(r"blocks\.(\d+)\.norm(\d)\.(.*)"), r"encoder.layers.\1.layer_norm\2.\3"),
    (re.compile(r"blocks\.(\d+)\.attn\.qkv\.(.*)"), r"encoder.layers.\1.self_attn.qkv.\2"),
    (re.compile(r"blocks\.(\d+)\.attn\.proj\.(.*)"), r"encoder.layers.\1.self_attn.projection.\2"),
    (re.compile(r"blocks\.(\d+)\.mlp\.(.*)"), r"encoder.layers.\1.mlp.\2"),
)

# Tensors whose shapes give the sizes, with their number of dimensions.
_MEASURED = {
    f"{_IMAGE}patch_embed.proj.weight": 4,
    f"{_IMAGE}pos_embed": 3,
    f"{_IMAGE}blocks.0.mlp.fc1.weight": 2,
    f"{_TEXT}embeddings.word_embeddings.weight": 2,
    f"{_TEXT}embeddings.position_embeddings.weight": 2,
    f"{_TEXT}encoder.layer.0.intermediate.dense.weight": 2,
}


class BlipReward(nn.Module):
    """BLIP's two towers and a head.

    Attributes:
        image_size: height and width of its input, in pixels.
        vocabulary_size: number of tokens that it knows.
    """

    def __init__(self, image: BlipVisionConfig, text: BlipTextConfig) -> None:
        super().__init__()
        self.image = BlipVisionModel(image)
        self.text = BlipTextModel(text, add_pooling_layer=False)
        linear = [nn.Linear(width, out) for width, out in pairwise((text.hidden_size, 1024, 128, 64, 16, 1))]
        # In training there were dropouts, which leave gaps in the numbers, and no activations.
        self.mlp = nn.Sequential(
            linear[0], nn.Identity(), linear[1], nn.Identity(), linear[2], nn.Identity(), linear[3], linear[4]
        )
        self.image_size: int = image.image_size
        self.vocabulary_size: int = text.vocab_size

    def forward(self, pixels: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return the raw reward of each pair, [b].

        Args:
            pixels: [b, 3, image_size, image_size], normalised.
            tokens: [b, n] numbers of tokens.
            mask: [b, n], 1 for tokens and 0 for padding.
        """
        patches = self.image(pixel_values=pixels).last_hidden_state
        states = self.text(input_ids=tokens, attention_mask=mask, encoder_hidden_states=patches).last_hidden_state
        rewards: Tensor = self.mlp(states[:, 0]).squeeze(-1)
        return rewards


def load_blip_reward(state: Mapping[str, Tensor], source: str) -> BlipReward:
    """Make the network of named tensors, in float32.

    BLIP's projections for retrieval, which the reward does not use, and lists of position numbers are left out; all
    other tensors must fit.

    Args:
        state: the tensors by the names of the original code.
        source: their file, for messages.

    Raises:
        WrongWeightsError: they are not those of such a network.
    """
    for name, dimensions in _MEASURED.items():
        if name not in state or state[name].ndim != dimensions:
            raise WrongWeightsError(
                f"{source} does not hold ImageReward: expected {name} with {dimensions} dimensions, got the keys "
                f"{', '.join(sorted(state)[:3])}: give another file with option 'weights'"
            )
    try:
        network = BlipReward(_image_config(state), _text_config(state))
        network.load_state_dict(_as_transformers(state), strict=True)
    except (RuntimeError, ValueError) as error:
        raise WrongWeightsError(
            f"{source} does not hold ImageReward ({first_finding(error)}): give another file with option 'weights'"
        ) from error
    return network.float().eval().requires_grad_(requires_grad=False)


def _image_config(state: Mapping[str, Tensor]) -> BlipVisionConfig:
    width, _, patch, _ = state[f"{_IMAGE}patch_embed.proj.weight"].shape
    return BlipVisionConfig(
        hidden_size=width,
        intermediate_size=state[f"{_IMAGE}blocks.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=layer_count(state, f"{_IMAGE}blocks."),
        num_attention_heads=max(width // _HEAD_WIDTH, 1),
        image_size=patch * math.isqrt(state[f"{_IMAGE}pos_embed"].shape[1] - 1),
        patch_size=patch,
        hidden_act="gelu",
        layer_norm_eps=1e-6,
    )


def _text_config(state: Mapping[str, Tensor]) -> BlipTextConfig:
    vocabulary, width = state[f"{_TEXT}embeddings.word_embeddings.weight"].shape
    return BlipTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        encoder_hidden_size=state[f"{_IMAGE}patch_embed.proj.weight"].shape[0],
        intermediate_size=state[f"{_TEXT}encoder.layer.0.intermediate.dense.weight"].shape[0],
        num_hidden_layers=layer_count(state, f"{_TEXT}encoder.layer."),
        num_attention_heads=max(width // _HEAD_WIDTH, 1),
        max_position_embeddings=state[f"{_TEXT}embeddings.position_embeddings.weight"].shape[0],
        hidden_act="gelu",
        layer_norm_eps=1e-12,
        is_decoder=True,  # only that it has cross-attention; prompts are read in both directions
    )


def _as_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in state.items():
        if name.startswith(_IMAGE):
            renamed[f"image.{_in_image_tower(name.removeprefix(_IMAGE))}"] = tensor
        elif name.startswith(_TEXT) and not name.endswith(".position_ids"):
            renamed[f"text.{name.removeprefix(_TEXT)}"] = tensor
        elif name.startswith(_MLP):
            renamed[f"mlp.{name.removeprefix(_MLP)}"] = tensor
        elif not name.startswith("blip."):
            renamed[name] = tensor  # refused when loaded
    return renamed


def _in_image_tower(name: str) -> str:
    for pattern, replacement in _RENAMED:
        if (match := pattern.fullmatch(name)) is not None:
            return match.expand(replacement)
    return name
