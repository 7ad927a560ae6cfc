"""Scorers by classifiers of anime pictures: the mean value of the labels, weighted by their probabilities.

- anime_aesthetic: https://huggingface.co/deepghs/anime_aesthetic, trained on the ratings of Danbooru; its seven labels
  count 0 to 6, as in imgutils (anime_dbaesthetic).
- cafe: https://huggingface.co/cafeai/cafe_aesthetic, a BEiT; the probability of "aesthetic".
- shadow: aesthetic-shadow-v2 of shadowlilac, a ViT of 1.1 billion parameters at 1024 pixels; the probability of "hq".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

from scorers.aesthetics import anime_kinds as kinds
from scorers.errors import WrongWeightsError
from scorers.networks.classifier import ClassifierFiles, ImageClassifier
from scorers.networks.onnx_classifier import OnnxClassifier

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from scorers.aesthetics.anime_kinds import ClassifierSettings, ShadowSettings
    from scorers.protocol import BuildContext, ScorerInfo, SuiteImages
    from scorers.weights.folder import ModelFolder

#: Value of each label; a file must have exactly these.
ANIME_AESTHETIC_VALUES = {"worst": 0, "low": 1, "normal": 2, "good": 3, "great": 4, "best": 5, "masterpiece": 6}
CAFE_VALUES = {"aesthetic": 1, "not_aesthetic": 0}
SHADOW_VALUES = {"hq": 1, "lq": 0}


class Classifier(Protocol):
    """A network that gives labels probabilities."""

    labels: tuple[str, ...]

    def probabilities(self, images: SuiteImages) -> Tensor:
        """Return the probability of each label for each image: float64 [n, labels]."""
        ...


class ClassifierScorer:
    """A scorer of the expected value of an image's label.

    Args:
        values: label -> value.
        source: the folder, for messages.

    Raises:
        WrongWeightsError: the classifier has other labels.
    """

    def __init__(self, classifier: Classifier, values: Mapping[str, int], info: ScorerInfo, source: str) -> None:
        if sorted(classifier.labels) != sorted(values):
            raise WrongWeightsError(
                f"{source}: expected a classifier with the labels {', '.join(values)}, got "
                f"{', '.join(classifier.labels[:8])}: give the files of {info.label}"
            )
        self.info = info
        self._classifier = classifier
        self._values = torch.tensor([values[label] for label in classifier.labels], dtype=torch.float64)

    def score(self, images: SuiteImages) -> Tensor:
        """Return the expected value of each image, float64 [n], from the smallest value to the largest."""
        return self._classifier.probabilities(images) @ self._values


def build_anime_aesthetic(settings: ClassifierSettings, context: BuildContext) -> ClassifierScorer:
    """Build a scorer by deepghs's classifier.

    Raises:
        MissingPackageError: onnxruntime is not installed.
        MissingWeightsError: a file is missing and cannot be downloaded.
        WrongWeightsError: the files are not the classifier's.
    """
    kinds.ONNXRUNTIME.require_named()
    folder = kinds.anime_aesthetic_folder(settings)
    key = ("anime_aesthetic", settings.folder)
    classifier = context.shared.get(key, lambda: OnnxClassifier(*folder.resolve(), key=key))
    return ClassifierScorer(classifier, ANIME_AESTHETIC_VALUES, kinds.ANIME_AESTHETIC, folder.source)


def build_cafe(settings: ClassifierSettings, context: BuildContext) -> ClassifierScorer:
    """Build a scorer by cafe_aesthetic.

    Raises:
        MissingWeightsError: a file is missing and cannot be downloaded.
        WrongWeightsError: the files are not the classifier's.
    """
    folder = kinds.cafe_folder(settings)
    return ClassifierScorer(_transformers(folder, "beit", context), CAFE_VALUES, kinds.CAFE, folder.source)


def build_shadow(settings: ShadowSettings, context: BuildContext) -> ClassifierScorer:
    """Build a scorer by aesthetic-shadow-v2; raises as `build_cafe`."""
    folder = kinds.shadow_folder(settings)
    return ClassifierScorer(_transformers(folder, "vit", context), SHADOW_VALUES, kinds.SHADOW, folder.source)


def _transformers(folder: ModelFolder, architecture: str, context: BuildContext) -> ImageClassifier:
    key = ("classifier", architecture, folder.source, context.device)

    def load() -> ImageClassifier:
        weights, config, preprocessor = folder.resolve()
        files = ClassifierFiles(weights=weights, config=config, preprocessor=preprocessor)
        return ImageClassifier(files, architecture, key=key, device=context.device, in_turns=context.in_turns)

    return context.shared.get(key, load)
