"""LAION's aesthetic predictors: a small head on the CLIP ViT-L/14 image embedding.

v2 (https://github.com/christophschuhmann/improved-aesthetic-predictor) has five linear layers without activations
between them. Their numbers have gaps because there were dropout layers between them in training. v1
(https://github.com/LAION-AI/aesthetic-predictor) is a single linear layer. Both take an L2-normalised embedding and
were fitted to ratings from 1 to 10. The keys of a file tell which of the two it holds.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from scorers.aesthetics import kinds
from scorers.aesthetics.heads import Affine, HeadScorer, build_head_scorer, keys_of, read_layers, wrong_keys
from scorers.errors import ScorerSettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from scorers.aesthetics.kinds import AestheticSettings
    from scorers.protocol import BuildContext

_V1_PREFIXES = ("",)
_V2_PREFIXES = tuple(f"layers.{index}." for index in (0, 2, 4, 6, 7))
_V2_WIDTHS = (1024, 128, 64, 16, 1)


def read_head(state: Mapping[str, Tensor], source: str) -> tuple[Affine, ...]:
    """Read the layers of a v2 or v1 head from its named tensors, as float64.

    Args:
        state: key -> tensor.
        source: the file, for messages.

    Raises:
        WrongWeightsError: keys or shapes are those of neither version.
    """
    for prefixes, widths in ((_V2_PREFIXES, _V2_WIDTHS), (_V1_PREFIXES, (1,))):
        if keys_of(prefixes) == state.keys():
            return read_layers(state, prefixes, widths, source)
    expected = "a LAION aesthetic head: expected keys layers.0.weight to layers.7.bias (v2) or weight and bias (v1)"
    raise wrong_keys(state, expected, source)


CLIP_OF_THE_HEAD = frozenset(
    {"ViT-L-14", "ViT-L-14-quickgelu"}
)  # at 224 pixels; embeddings of the model at 336 pixels have the same width


def build(settings: AestheticSettings, context: BuildContext) -> HeadScorer:
    """Build a scorer, nominally 1..10; raises as `build_head_scorer`."""
    return build_head_scorer(
        kinds.AESTHETIC,
        settings,
        context,
        public=kinds.AESTHETIC_V2,
        read=read_head,
        require_its_model=partial(_require_its_clip, settings),
        model="CLIP",
    )


def _require_its_clip(settings: AestheticSettings) -> None:
    """Refuse a CLIP that LAION's head was not trained on; a weight file without a tag may be the right one.

    Raises:
        ScorerSettingsError: the settings name another CLIP.
    """
    clip = settings.clip
    if clip.tag not in (None, "openai") or (clip.tag == "openai" and clip.model not in CLIP_OF_THE_HEAD):
        raise ScorerSettingsError(
            f"the LAION aesthetic head was trained on ViT-L-14 with CLIP weights 'openai', not on {clip.model} with "
            f"{clip.tag!r}: use those, or name a head of your own with option 'head'"
        )
