"""Pictures and architectures that several scorer tests use."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scorers.networks.clip.embedder import ClipEmbedder
    from scorers.protocol import ImageScorer

WIDTH = 24

TINY_CLIP = {
    "embed_dim": WIDTH,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


def picture(seed: int, height: int = 48, width: int = 48) -> torch.Tensor:
    """Draw a smooth coloured picture, uint8 [3, h, w]: waves, so that neighbouring pixels are alike, as in a photo."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    channels = []
    for _ in range(3):
        waves = [
            random.normal() * np.sin(2 * np.pi * (random.uniform(0, 4) * x + random.uniform(0, 4) * y) + phase)
            for phase in random.uniform(0, 2 * np.pi, 5)
        ]
        channels.append(np.tanh(sum(waves)) / 2 + 0.5)
    return torch.from_numpy((255 * np.stack(channels)).round().astype(np.uint8))


def embedder_of(scorer: ImageScorer) -> ClipEmbedder:
    """Return the embedder of a scorer that has one."""
    return cast("Any", scorer)._embedder  # type: ignore[no-any-return]


@contextmanager
def forwards_of(scorer: ImageScorer) -> Iterator[list[int]]:
    """Count the images of each forward pass of the image tower of a scorer's embedder, while the context is open."""
    counts: list[int] = []
    tower = embedder_of(scorer)._model.visual
    hook = tower.register_forward_hook(lambda _m, inputs, _o: counts.append(len(inputs[0])))
    try:
        yield counts
    finally:
        hook.remove()


@register_model  # type: ignore[untyped-decorator]
def tiny_siglip(pretrained: bool = False, **options: Any) -> VisionTransformer:
    """Make a small SigLIP image tower, built as timm's vit_so400m_patch14_siglip_384; timm finds it by its name."""
    shape = {"patch_size": 14, "embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 3.7362}
    return VisionTransformer(**shape | {"img_size": 56, "class_token": False, "global_pool": "map"} | _known(options))


def _known(options: dict[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in ("num_classes", "img_size", "global_pool") if name in options}


TINY_SIGLIP = {
    "embed_dim": 32,
    "init_logit_bias": -10,
    "custom_text": True,
    "preprocess_cfg": {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "resize_mode": "squash"},
    "vision_cfg": {
        "image_size": 56,
        "timm_model_name": "tiny_siglip",
        "timm_model_pretrained": False,
        "timm_pool": "map",
        "timm_proj": "none",
    },
    "text_cfg": {
        "context_length": 64,
        "vocab_size": 100,
        "hf_tokenizer_name": "timm/ViT-B-16-SigLIP",
        "width": 32,
        "heads": 2,
        "layers": 1,
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
    },
}


@register_model  # type: ignore[untyped-decorator]
def tiny_dinov2(pretrained: bool = False, **options: Any) -> VisionTransformer:
    """Make a small DINOv2, built as timm's vit_large_patch14_dinov2; timm finds it by its name."""
    shape = {"patch_size": 14, "embed_dim": 32, "depth": 2, "num_heads": 2, "init_values": 1e-5}
    return VisionTransformer(**shape | {"img_size": 518} | _known(options))
