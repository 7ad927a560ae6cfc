"""A scorer of one's own taste: a head on CLIP embeddings that learned from votes in `mergetune study vote`.

The score is in log-odds, as in the model of Bradley and Terry: of two images, one is preferred with the probability
1 / (1 + exp(other - own)). 0 is the average of the images that were voted on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scorers.aesthetics.heads import HeadScorer
from scorers.errors import WrongWeightsError
from scorers.networks.clip.embedder import shared_embedder
from scorers.networks.clip.files import title_of
from scorers.preference import kinds
from scorers.preference.personal_head import read_head
from scorers.weights.fetch import existing_file

if TYPE_CHECKING:
    from scorers.preference.kinds import PersonalSettings
    from scorers.protocol import BuildContext


def build(settings: PersonalSettings, context: BuildContext) -> HeadScorer:
    """Build a scorer of each image by itself, on the shared embedder of its settings.

    Raises:
        MissingWeightsError: the head or CLIP is missing.
        WrongWeightsError: the head is none, or was trained on another CLIP.
    """
    # The head comes first: it is small, and if it is missing, nobody should wait for CLIP.
    head = read_head(existing_file(settings.head, "head"))
    embedder = shared_embedder(settings.clip, context)
    if head.training.clip_digest != embedder.digest:
        raise WrongWeightsError(
            f"{settings.head} was trained on {head.training.clip}, and the spec has {title_of(settings.clip)} with "
            "other weights or another preprocessing: name its CLIP with option 'clip', or train it anew with "
            "`mergetune study train-personal`"
        )
    return HeadScorer(kinds.PERSONAL, embedder, (head.layer,), source=str(settings.head), model="CLIP")
