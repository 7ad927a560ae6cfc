"""Aesthetic predictor v2.5: five linear layers on the image embedding of SigLIP so400m at 384 pixels.

https://github.com/discus0434/aesthetic-predictor-v2-5. The embedding is L2-normalised. Between the layers there were
dropouts in training, which leave gaps in their numbers, and no activations. Its author calls 5.5 a good score.

SigLIP is open_clip's, which computes GELU exactly; the author's, of transformers, takes its tanh approximation.
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

    from scorers.aesthetics.kinds import AestheticV25Settings
    from scorers.protocol import BuildContext

_PREFIXES = tuple(f"scoring_head.{index}." for index in (0, 2, 4, 6, 8))
_WIDTHS = (1024, 128, 64, 16, 1)


def read_head(state: Mapping[str, Tensor], source: str) -> tuple[Affine, ...]:
    """Read the layers of the head from its named tensors, as float64.

    Args:
        state: key -> tensor.
        source: the file, for messages.

    Raises:
        WrongWeightsError: keys or shapes are not the head's.
    """
    if keys_of(_PREFIXES) != state.keys():
        expected = "a head of aesthetic predictor v2.5: expected keys scoring_head.0.weight to scoring_head.8.bias"
        raise wrong_keys(state, expected, source)
    return read_layers(state, _PREFIXES, _WIDTHS, source)


def build(settings: AestheticV25Settings, context: BuildContext) -> HeadScorer:
    """Build a scorer, nominally 1..10; raises as `build_head_scorer`."""
    return build_head_scorer(
        kinds.AESTHETIC_V25,
        settings,
        context,
        public=kinds.AESTHETIC_V25_HEAD,
        read=read_head,
        require_its_model=partial(_require_its_siglip, settings),
        model="SigLIP",
    )


def _require_its_siglip(settings: AestheticV25Settings) -> None:
    """Refuse a model that the published head was not trained on; a weight file without a tag may be the right one.

    Raises:
        ScorerSettingsError: the settings name another model.
    """
    clip, its = settings.clip, kinds.SIGLIP_OF_THE_HEAD
    if clip.tag is None or (clip.model, clip.tag) == (its.model, its.tag):
        return
    raise ScorerSettingsError(
        f"the head of aesthetic predictor v2.5 was trained on {its.model} with weights {its.tag!r}, not on "
        f"{clip.model} with {clip.tag!r}: use those, or name a head of your own with option 'head'"
    )
