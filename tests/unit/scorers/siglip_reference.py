"""The weights of a small SigLIP under the names that transformers has for them: what ours is checked against."""

from __future__ import annotations

from functools import reduce

import torch

_IMAGE_PARTS = {
    "blocks.": "encoder.layers.",
    "patch_embed.proj": "embeddings.patch_embedding",
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.proj": "self_attn.out_proj",
    "attn_pool.latent": "head.probe",
    "attn_pool.norm": "head.layernorm",
    "attn_pool.mlp": "head.mlp",
    "attn_pool.proj": "head.attention.out_proj",
}


def as_transformers(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the image tower's weights under the names of google/siglip-so400m-patch14-384, in float64."""
    tower = {key.removeprefix("visual.trunk."): value for key, value in state.items() if "visual.trunk." in key}
    theirs = {"embeddings.position_embedding.weight": tower.pop("pos_embed")[0]}
    for part in ("weight", "bias"):
        theirs[f"post_layernorm.{part}"] = tower.pop(f"norm.{part}")
        rows = [tower.pop(f"attn_pool.{name}.{part}") for name in ("q", "kv")]
        theirs[f"head.attention.in_proj_{part}"] = torch.cat(rows)
        for layer in range(2):
            for name, value in zip("qkv", tower.pop(f"blocks.{layer}.attn.qkv.{part}").chunk(3), strict=True):
                theirs[f"encoder.layers.{layer}.self_attn.{name}_proj.{part}"] = value
    theirs |= {reduce(lambda name, each: name.replace(*each), _IMAGE_PARTS.items(), key): tower[key] for key in tower}
    return {f"vision_model.{key}": value.double() for key, value in theirs.items()}


_TEXT_PARTS = {
    "text.transformer.resblocks.": "encoder.layers.",
    "text.token_embedding": "embeddings.token_embedding",
    "text.ln_final": "final_layer_norm",
    "text.text_projection": "head",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}


def text_as_transformers(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the text tower's weights under the names of google/siglip-so400m-patch14-384, in float64."""
    theirs = {}
    for key, value in state.items():
        if key == "text.positional_embedding":
            theirs["embeddings.position_embedding.weight"] = value
        elif "attn.in_proj_" in key:
            start, part = key.replace("text.transformer.resblocks.", "encoder.layers.").split("attn.in_proj_")
            for name, rows in zip("qkv", value.chunk(3), strict=True):
                theirs[f"{start}self_attn.{name}_proj.{part}"] = rows
        elif key.startswith("text."):
            theirs[reduce(lambda name, each: name.replace(*each), _TEXT_PARTS.items(), key)] = value
    return {f"text_model.{key}": value.double() for key, value in theirs.items()}
