"""The CLIP that preference scorers were trained from: LAION's ViT-H/14, with GELU and OpenAI's normalisation.

https://huggingface.co/laion/CLIP-ViT-H-14-laion2B-s32B-b79K. The sizes are read off the tensors. What these do not tell
is fixed: the width of an attention head is 80 for images and 64 for texts.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from basics.files import sha256_of
from scorers.errors import WrongWeightsError
from scorers.networks.clip.architecture import make_model
from scorers.networks.clip.embedder import ClipEmbedder
from scorers.networks.clip.preprocessing import preprocess_of
from scorers.networks.clip.tokenizer import make_tokenizer
from scorers.networks.clip.weights import load_state
from scorers.networks.digest import digest_of
from scorers.networks.state_dict import layer_count

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping
    from pathlib import Path

    from torch import Tensor

    from scorers.protocol import BuildContext

_IMAGE_HEAD = 80
_TEXT_HEAD = 64

# Tensors whose shapes give the sizes, with their number of dimensions.
_MEASURED = {
    "visual.conv1.weight": 4,
    "visual.positional_embedding": 2,
    "visual.proj": 2,
    "positional_embedding": 2,
    "token_embedding.weight": 2,
}


def make_embedder(
    state: dict[str, Tensor],
    path: Path,
    context: BuildContext,
    *,
    resize_mode: Literal["shortest", "longest"],
    key: Hashable,
) -> ClipEmbedder:
    """Make an embedder of a model that was trained from LAION's ViT-H/14.

    Args:
        state: the tensors by open_clip's names.
        path: the file that they are from.
        resize_mode: shortest: images fill the frame and are cropped; longest: they fit into it and are padded, black.
        key: of the embeddings that are cached with the images.

    Raises:
        WrongWeightsError: the tensors are not those of such a model.
    """
    config = clip_h_config(state, str(path))
    model = make_model(config)
    advice = "give another file with option 'weights'"
    load_state(model, state, str(path), expected="a CLIP ViT-H/14", advice=advice)
    preprocess = preprocess_of(model.visual.image_size, {"resize_mode": resize_mode})
    return ClipEmbedder(
        model,
        partial(make_tokenizer, "ViT-H-14", config["text_cfg"]),
        preprocess,
        width=config["embed_dim"],
        digest=lambda: digest_of("clip-h", repr(config), sha256_of(path), repr(preprocess)),
        key=key,
        device=context.device,
        in_turns=context.in_turns,
    )


def clip_h_config(state: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    """Return the architecture, in the format of open_clip's JSON files, that tensors by open_clip's names belong to.

    Raises:
        WrongWeightsError: they are those of no such model.
    """
    for name, dimensions in _MEASURED.items():
        if name not in state or state[name].ndim != dimensions:
            raise WrongWeightsError(
                f"{source} does not hold a CLIP ViT-H/14: expected {name} with {dimensions} dimensions, got the keys "
                f"{', '.join(sorted(state)[:3])}: give another file with option 'weights'"
            )
    width, _, patch, _ = state["visual.conv1.weight"].shape
    text_width = state["token_embedding.weight"].shape[1]
    if width % _IMAGE_HEAD or text_width % _TEXT_HEAD:
        raise WrongWeightsError(
            f"{source} holds another CLIP than ViT-H/14: expected widths that are multiples of {_IMAGE_HEAD} for "
            f"images and of {_TEXT_HEAD} for texts, got {width} and {text_width}: give another file with option "
            "'weights'"
        )
    patches = math.isqrt(
        max(state["visual.positional_embedding"].shape[0] - 1, 1)
    )  # in a row; one row more is no patch
    return {
        "embed_dim": state["visual.proj"].shape[1],
        "vision_cfg": {
            "image_size": patches * patch,
            "patch_size": patch,
            "width": width,
            "head_width": _IMAGE_HEAD,
            "layers": layer_count(state, "visual.transformer.resblocks."),
        },
        "text_cfg": {
            "context_length": state["positional_embedding"].shape[0],
            "vocab_size": state["token_embedding.weight"].shape[0],
            "width": text_width,
            "heads": text_width // _TEXT_HEAD,
            "layers": layer_count(state, "transformer.resblocks."),
        },
    }
