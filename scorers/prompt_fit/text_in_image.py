"""Text in images: which of the words that a prompt puts in quotation marks are read in the image.

Case and punctuation do not count. A word that the prompt has twice must be read twice.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from typing import TYPE_CHECKING

import torch

from basics.texts import shortened
from scorers.errors import SuiteImagesError
from scorers.networks.reader import OcrReader
from scorers.prompt_fit.kinds import RAPIDOCR, TEXT_IN_IMAGE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from scorers.prompt_fit.kinds import TextSettings
    from scorers.protocol import BuildContext, SuiteImages

_QUOTED = re.compile('"([^"]+)"|“([^”“]+)[”“]|„([^“”]+)[“”]|«([^»]+)»')  # apostrophes are no quotation marks


def words_of(text: str) -> list[str]:
    """Return the words of a text between its spaces: letters and digits alone, without case."""
    parts = unicodedata.normalize("NFKC", text).casefold().split()
    words = ("".join(filter(str.isalnum, part)) for part in parts)
    return [word for word in words if word]


def quoted_words(prompt: str) -> list[str]:
    """Return the words that stand in quotation marks, as `words_of`."""
    return [word for groups in _QUOTED.findall(prompt) for text in groups for word in words_of(text)]


def share_read(wanted: Iterable[str], lines: Iterable[str]) -> float:
    """Return the share, 0..1, of wanted words, at least one, that are among the words of the lines.

    Recognisers may leave out the space between two words, so a word of a line that is made of wanted words counts as
    those.
    """
    left = Counter(wanted)
    count = left.total()
    for line in lines:
        for word in words_of(line):
            left -= Counter(_made_of(word, left))
    return (count - left.total()) / count


def _made_of(word: str, wanted: Counter[str]) -> tuple[str, ...]:
    """Return the wanted words that a word is made of, one after the other; none if it is made of anything else."""
    if word in wanted:
        return (word,)
    for first in sorted(wanted, key=len, reverse=True):
        if word.startswith(first) and (rest := _made_of(word[len(first) :], wanted - Counter([first]))):
            return (first, *rest)
    return ()


class TextInImageScorer:
    """A scorer of the quoted words of each image's own prompt."""

    info = TEXT_IN_IMAGE

    def __init__(self, reader: OcrReader) -> None:
        self._reader = reader

    def score(self, images: SuiteImages) -> Tensor:
        """Return the share of words that are read in each image, float64 [n] in 0..1.

        Raises:
            SuiteImagesError: a prompt has no words in quotation marks.
        """
        wanted = [_wanted(prompt) for prompt in images.prompts]  # before the slow part
        shares = map(share_read, wanted, self._reader.read(images))
        return torch.tensor([*shares], dtype=torch.float64)


def _wanted(prompt: str) -> list[str]:
    words = quoted_words(prompt)
    if not words:
        raise SuiteImagesError(
            f"expected words in quotation marks in a prompt, got {shortened(prompt, 60)!r}: write what the image "
            "should say in quotation marks, or leave this scorer out of the prompt with `without`"
        )
    return words


def build(_settings: TextSettings, context: BuildContext) -> TextInImageScorer:
    """Build a scorer of text in images.

    Raises:
        MissingPackageError: rapidocr or onnxruntime is not installed.
    """
    for package in RAPIDOCR:
        package.require_named()
    return TextInImageScorer(context.shared.get("text reader", OcrReader))
