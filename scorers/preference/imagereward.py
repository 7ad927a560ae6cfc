"""ImageReward: BLIP trained on people's rankings and ratings of images of one prompt.

Xu et al. 2023, ImageReward, https://arxiv.org/abs/2304.05977. The score is (reward - mean) / deviation, with the two
numbers that the authors found on their data: 0 is an average image. Of a prompt, BERT's first 35 tokens are read, start
and end included.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import BertTokenizer

from scorers.errors import WrongWeightsError
from scorers.images import Preprocess, prepare_batch
from scorers.networks.blip import BlipReward, load_blip_reward
from scorers.networks.inference import Runner
from scorers.preference import kinds
from scorers.weights.fetch import resolve
from scorers.weights.tensors import load_tensors

if TYPE_CHECKING:
    from collections.abc import Hashable
    from pathlib import Path

    from torch import Tensor

    from scorers.preference.kinds import ImageRewardSettings
    from scorers.protocol import BuildContext, SuiteImages

# https://github.com/THUDM/ImageReward/blob/main/ImageReward/ImageReward.py
MEAN = 0.16717362830052426
DEVIATION = 1.0333394966054072
PROMPT_TOKENS = 35


class ImageRewardScorer:
    """A scorer of each image with its own prompt. Rewards are cached with the images."""

    info = kinds.IMAGEREWARD

    def __init__(self, network: BlipReward, tokenizer: Any, key: Hashable, context: BuildContext) -> None:
        self._network = network
        self._tokenizer = tokenizer
        self._key = key
        self._runner = Runner(network, context.device, in_turns=context.in_turns)
        self.preprocess = Preprocess(
            size=(network.image_size, network.image_size),
            mean=(0.48145466, 0.4578275, 0.40821073),
            std=(0.26862954, 0.26130258, 0.27577711),
        )

    def score(self, images: SuiteImages) -> Tensor:
        """Return the score of each image, float64 [n], nominally -3..3."""
        rewards = images.memo(("imagereward", self._key), lambda: self._rewards(images))
        return (rewards.double() - MEAN) / DEVIATION

    def _rewards(self, images: SuiteImages) -> Tensor:
        """Return the raw reward of each image, float32 [n] on the CPU."""
        device = self._runner.device
        texts = self._tokenizer(
            list(images.prompts), padding="max_length", truncation=True, max_length=PROMPT_TOKENS, return_tensors="pt"
        )

        def forward(numbers: list[int]) -> Tensor:
            pixels = prepare_batch([images.images[number] for number in numbers], self.preprocess, device)
            tokens, mask = (texts[part][numbers].to(device) for part in ("input_ids", "attention_mask"))
            rewards: Tensor = self._network(pixels, tokens, mask)
            return rewards

        return self._runner.map_numbers(images.images, forward)


def build(settings: ImageRewardSettings, context: BuildContext) -> ImageRewardScorer:
    """Build a scorer, which is one for all with the same settings.

    Raises:
        MissingWeightsError: the weights or the vocabulary are missing and cannot be downloaded.
        WrongWeightsError: a file does not hold what it should, or has another digest than the public one.
    """
    key = ("imagereward", settings, context.device)
    return context.shared.get(key, lambda: _load(settings, context))


def _load(settings: ImageRewardSettings, context: BuildContext) -> ImageRewardScorer:
    # The vocabulary comes first: it is small, and if it is missing, nobody should wait for the weights.
    vocabulary = resolve(settings.vocabulary, kinds.BERT_VOCABULARY, context.cache_dir)
    tokenizer = read_tokenizer(vocabulary)
    path = resolve(settings.weights, kinds.IMAGEREWARD_V1, context.cache_dir)
    network = load_blip_reward(load_tensors(path), str(path))
    if len(tokenizer) > network.vocabulary_size:
        raise WrongWeightsError(
            f"{vocabulary} has {len(tokenizer)} tokens, of which {path} knows {network.vocabulary_size}: give the "
            "vocabulary of BERT base uncased with option 'vocabulary'"
        )
    return ImageRewardScorer(network, tokenizer, (settings, context.device), context)


def read_tokenizer(vocabulary: Path) -> Any:
    """Make BERT's uncased tokenizer of its vocabulary, with the two tokens that BLIP adds behind it.

    Raises:
        WrongWeightsError: the file is not such a vocabulary.
    """
    try:
        lines = vocabulary.read_text(encoding="utf-8").split("\n")
    except ValueError:
        lines = []
    tokens = {token: number for number, token in enumerate(lines) if token}
    if not tokens.keys() >= {"[PAD]", "[UNK]", "[CLS]", "[SEP]"} or sorted(tokens.values()) != [*range(len(tokens))]:
        raise WrongWeightsError(
            f"{vocabulary} is not a vocabulary of BERT: expected a token on each line, [PAD], [UNK], [CLS] and [SEP] "
            "among them: give vocab.txt of BERT base uncased with option 'vocabulary'"
        )
    return BertTokenizer(vocab=tokens, bos_token="[DEC]", additional_special_tokens=["[ENC]"])  # noqa: S106 - of texts
