"""Aesthetic predictor v2.5: five linear layers on the image embedding of SigLIP so400m at 384 pixels.

https://github.com/discus0434/aesthetic-predictor-v2-5. The embedding is L2-normalised. Between the layers there were
dropouts in training, which leave gaps in their numbers, and no activations. Its author calls 5.5 a good score.

SigLIP is open_clip's, which computes GELU exactly; the author's, of transformers, takes its tanh approximation.
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

    from scorers.aesthetics.kinds import AestheticV25Settings
    from scorers.protocol import BuildContext, SuiteImages

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


class AestheticV25Scorer:
    """A scorer by the head on a SigLIP embedding. The head is tiny and stays on the CPU."""

    info = kinds.AESTHETIC_V25

    def __init__(self, embedder: ClipEmbedder, layers: tuple[Affine, ...], source: str) -> None:
        if input_width(layers) != embedder.width:
            raise WrongWeightsError(
                f"{source} is a head for embeddings of width {input_width(layers)}, this SigLIP gives "
                f"{embedder.width}: use the SigLIP that the head was trained on"
            )
        self._embedder = embedder
        self._layers = layers

    def score(self, images: SuiteImages) -> Tensor:
        """Return the aesthetic score of each image, float64 [n], nominally 1..10."""
        return apply_head(self._embedder.embed_images(images), self._layers)


def build(settings: AestheticV25Settings, context: BuildContext) -> AestheticV25Scorer:
    """Build a scorer; its head is the pinned file unless the settings name another.

    Raises:
        ScorerSettingsError: the published head was not trained on the model of the settings.
        MissingWeightsError: the head or SigLIP is missing and cannot be downloaded.
        WrongWeightsError: the head or SigLIP is not what it should be, or the two do not fit.
    """
    if settings.head is None:
        _require_its_siglip(settings)
    # The head comes first: it is small, and if it is missing, nobody should wait for SigLIP.
    path = resolve(settings.head, kinds.AESTHETIC_V25_HEAD, context.cache_dir)
    if settings.head is not None and sha256_of(path) == kinds.AESTHETIC_V25_HEAD.sha256:
        _require_its_siglip(settings)
    layers = read_head(load_tensors(path), str(path))
    return AestheticV25Scorer(shared_embedder(settings.clip, context), layers, str(path))


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
