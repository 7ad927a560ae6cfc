"""CLIP weights under the names of transformers' CLIPModel, renamed for open_clip. Pure functions of named tensors."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

# transformers -> open_clip, for names that stay whole.
_NAMES = {
    "logit_scale": "logit_scale",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",  # the spelling is theirs
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
}
# open_clip multiplies by these matrices from the right.
_TURNED = {"text_projection.weight": "text_projection", "visual_projection.weight": "visual.proj"}
_TOWERS = {"text_model": "transformer", "vision_model": "visual.transformer"}
_PARTS = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_LAYER = re.compile(r"(text_model|vision_model)\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")


def is_of_transformers(state: Mapping[str, Tensor]) -> bool:
    """Return whether named tensors are those of a CLIPModel of transformers."""
    matrices = all(name in state and state[name].ndim == 2 for name in _TURNED)
    return matrices and "vision_model.embeddings.patch_embedding.weight" in state


def as_open_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a CLIPModel of transformers for open_clip's CLIP.

    Query, key and value become one matrix, and projections are transposed. Lists of position numbers, which older
    versions stored, are left out. A name that is not known stays, so that loading refuses it.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.endswith(".position_ids"):
            continue
        layer = _LAYER.fullmatch(name)
        block = f"{_TOWERS[layer[1]]}.resblocks.{layer[2]}" if layer else ""
        if name in _TURNED:
            renamed[_TURNED[name]] = tensor.T.contiguous()
        elif layer is None:
            renamed[_NAMES.get(name, name)] = tensor
        elif layer[3] in _PARTS:
            renamed[f"{block}.{_PARTS[layer[3]]}.{layer[4]}"] = tensor
        elif layer[3] == "self_attn.q_proj":
            names = [name.replace("q_proj", f"{part}_proj") for part in "qkv"]
            rows = [state[each] for each in names if each in state and state[each].shape == tensor.shape]
            # Stacked, not joined, so that what is no matrix or vector can be put together and is refused when loaded.
            renamed[f"{block}.attn.in_proj_{layer[4]}"] = torch.stack(rows).flatten(0, min(tensor.ndim, 1))
        elif layer[3] not in {"self_attn.k_proj", "self_attn.v_proj"}:
            renamed[name] = tensor
    return renamed
