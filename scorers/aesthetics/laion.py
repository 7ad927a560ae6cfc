"""LAION's aesthetic predictors: a small head on the CLIP ViT-L/14 image embedding.

v2 (https://github.com/christophschuhmann/improved-aesthetic-predictor) has five linear layers without activations
between them. Their numbers have gaps because there were dropout layers between them in training. v1
(https://github.com/LAION-AI/aesthetic-predictor) is a single linear layer. Both take an L2-normalised embedding and
were fitted to ratings from 1 to 10. The keys of a file tell which of the two it holds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from basics.files import sha256_of
from scorers.aesthetics import kinds
from scorers.errors import ScorerSettingsError, WrongWeightsError
from scorers.networks.clip import ClipEmbedder, shared_embedder
from scorers.networks.heads import Affine, apply_head, input_width, keys_of, read_layers, wrong_keys
from scorers.weights.fetch import resolve
from scorers.weights.tensors import load_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from scorers.aesthetics.kinds import AestheticSettings
    from scorers.protocol import BuildContext, SuiteImages

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


class AestheticScorer:
    """An aesthetic scorer: a LAION head on a CLIP embedding. The head is tiny and stays on the CPU."""

    info = kinds.AESTHETIC

    def __init__(self, embedder: ClipEmbedder, layers: tuple[Affine, ...], source: str) -> None:
        width = input_width(layers)
        if width != embedder.width:
            raise WrongWeightsError(
                f"{source} is a head for CLIP embeddings of width {width}, this CLIP gives {embedder.width}: "
                "use the CLIP that the head was trained on"
            )
        self._embedder = embedder
        self._layers = layers

    def score(self, images: SuiteImages) -> Tensor:
        """Return the aesthetic score of each image, float64 [n], nominally 1..10."""
        return apply_head(self._embedder.embed_images(images), self._layers)


def build(settings: AestheticSettings, context: BuildContext) -> AestheticScorer:
    """Build an aesthetic scorer; its head is the pinned v2 file unless the settings name another.

    Raises:
        ScorerSettingsError: the LAION head was not trained on the CLIP of the settings.
        MissingWeightsError: the head or CLIP is missing and cannot be downloaded.
        WrongWeightsError: the head or CLIP is not what it should be, or the two do not fit.
    """
    if settings.head is None:
        _require_its_clip(settings)
    # The head comes first: it is small, and if it is missing, nobody should wait for CLIP.
    path = resolve(settings.head, kinds.AESTHETIC_V2, context.cache_dir)
    if settings.head is not None and sha256_of(path) == kinds.AESTHETIC_V2.sha256:
        _require_its_clip(settings)
    layers = read_head(load_tensors(path), str(path))
    return AestheticScorer(shared_embedder(settings.clip, context), layers, str(path))


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
