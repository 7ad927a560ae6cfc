"""A scorer of one's own taste: a head on CLIP embeddings that learned from votes in `mergetune study vote`.

The score is in log-odds, as in the model of Bradley and Terry: of two images, one is preferred with the probability
1 / (1 + exp(other - own)). 0 is the average of the images that were voted on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scorers.errors import WrongWeightsError
from scorers.networks.clip import ClipEmbedder, shared_embedder
from scorers.networks.clip_files import title_of
from scorers.networks.heads import apply_head, input_width
from scorers.preference import kinds
from scorers.preference.personal_head import PersonalHead, read_head
from scorers.weights.fetch import existing_file

if TYPE_CHECKING:
    from torch import Tensor

    from scorers.preference.kinds import PersonalSettings
    from scorers.protocol import BuildContext, SuiteImages


class PersonalScorer:
    """A scorer of each image by itself. The head is tiny and stays on the CPU."""

    info = kinds.PERSONAL

    def __init__(self, embedder: ClipEmbedder, head: PersonalHead) -> None:
        self._embedder = embedder
        self._layers = (head.layer,)

    def score(self, images: SuiteImages) -> Tensor:
        """Return the score of each image, float64 [n], in log-odds."""
        return apply_head(self._embedder.embed_images(images), self._layers)


def build(settings: PersonalSettings, context: BuildContext) -> PersonalScorer:
    """Build a scorer on the shared embedder of its settings.

    Raises:
        MissingWeightsError: the head or CLIP is missing.
        WrongWeightsError: the head is none, or was trained on another CLIP.
    """
    # The head comes first: it is small, and if it is missing, nobody should wait for CLIP.
    head = read_head(existing_file(settings.head, "head"))
    embedder = shared_embedder(settings.clip, context)
    if (input_width((head.layer,)), head.training.clip_digest) != (embedder.width, embedder.digest):
        raise WrongWeightsError(
            f"{settings.head} was trained on {head.training.clip}, and the spec has {title_of(settings.clip)} with "
            "other weights or another preprocessing: name its CLIP with option 'clip', or train it anew with "
            "`mergetune study train-personal`"
        )
    return PersonalScorer(embedder, head)
