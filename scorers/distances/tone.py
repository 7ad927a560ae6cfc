"""Tone: how far the colours of the rendered images are from those of reference images, without a network.

The earth mover's distance of colours (Rubner, Tomasi and Guibas 2000, The Earth Mover's Distance as a Metric for Image
Retrieval, https://doi.org/10.1023/A:1026543900054), on each axis of CIELAB alone: the mean amounts by which lightness
(L*), green to red (a*) and blue to yellow (b*) must be moved, added up. On an axis, it is the area between the two
cumulative distributions. The sum is at most the distance on all three axes together, with the city-block metric.

Where colours are in the picture plays no part. All images count together, so single ones may differ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scorers.distances.colours import BIN_WIDTH, ColourDistributions
from scorers.distances.kinds import TONE
from scorers.distances.scorers import DistanceScorer, references_of

if TYPE_CHECKING:
    from torch import Tensor

    from scorers.distances.kinds import ToneSettings
    from scorers.protocol import BuildContext


class ToneScorer(DistanceScorer):
    """A scorer of the distance of colours to those of the references.

    Args:
        reference: mean cumulative distributions of the references, [d].
    """

    def __init__(self, reference: Tensor) -> None:
        super().__init__(ColourDistributions(), TONE)
        self._reference = reference.double()

    def score(self, features: Tensor) -> float:
        """Compute the distance of images with these distributions [n, d], >= 0, in units of CIELAB.

        Raises:
            SuiteImagesError: n is smaller than `info.min_images`.
        """
        self.info.check_count(len(features))
        return float((features.double().mean(dim=0) - self._reference).abs().sum() * BIN_WIDTH)


def build(settings: ToneSettings, context: BuildContext) -> ToneScorer:
    """Build a scorer of tone against the reference folder.

    Raises:
        ReferenceImagesError: the folder is missing, unreadable, or has no images.
    """
    references = references_of(settings.reference, ColourDistributions(), context, minimum=1)
    return ToneScorer(references.double().mean(dim=0))
