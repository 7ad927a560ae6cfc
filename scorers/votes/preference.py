"""The score of a trial before anybody has voted: that of the average trial. Votes change it in the database later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from scorers.errors import SuiteImagesError
from scorers.protocol import ScorerInfo
from scorers.votes.kinds import PREFERENCE, PreferenceSettings

if TYPE_CHECKING:
    from torch import Tensor

    from scorers.protocol import BuildContext, SuiteImages


@dataclass(frozen=True, kw_only=True)
class Unvoted:
    """A set scorer that gives every set of images the score of the average trial."""

    info: ScorerInfo = PREFERENCE

    def features(self, images: SuiteImages) -> Tensor:
        """Return how many images there are, for each of them [n, 1]."""
        return torch.full((len(images), 1), float(len(images)))

    def score(self, features: Tensor) -> float:
        """Return 0, that of the average trial.

        Raises:
            SuiteImagesError: these are some of the images only. Votes are on whole trials.
        """
        if len(features) != int(features[0, 0]):
            raise SuiteImagesError("votes are on whole trials: there is no preference for some of their images")
        return 0.0


def build(_settings: PreferenceSettings, _context: BuildContext) -> Unvoted:
    """Build the scorer."""
    return Unvoted()
