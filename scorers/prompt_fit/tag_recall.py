"""Tag recall: which of the prompt's tags a tagger finds in the image.

The score is the mean of the tagger's probabilities over those of the prompt's tags that it knows. It has no threshold,
so that a tag that is nearly found counts as such. Words that are no tags ("masterpiece", sentences) do not count.
Nothing is said of what the image shows beside them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch

from basics.texts import shortened
from scorers.errors import SuiteImagesError
from scorers.networks.tagger import Tagger, TaggerFiles
from scorers.prompt_fit.kinds import TAG_RECALL, tagger_folder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from scorers.prompt_fit.kinds import TagRecallSettings
    from scorers.protocol import BuildContext, SuiteImages

_ESCAPE = re.compile(r"\\([()\[\]{}\\])")
_SPACES = re.compile(r"[\s_]+")


def normalised(tag: str) -> str:
    """Write a tag of a prompt as Danbooru does: lower case, underscores for spaces, no escapes before brackets."""
    return _SPACES.sub("_", _ESCAPE.sub(r"\1", tag)).strip("_").lower()


def tags_of(prompt: str) -> tuple[str, ...]:
    """Return the tags of a prompt between its commas and line breaks, normalised, each once."""
    parts = (normalised(part) for part in re.split(r"[,\n]", prompt))
    return tuple(dict.fromkeys(part for part in parts if part))


class TagRecallScorer:
    """A scorer of the tags of each image's own prompt."""

    info = TAG_RECALL

    def __init__(self, tagger: Tagger) -> None:
        self._tagger = tagger
        self._outputs = {normalised(name): index for name, index in tagger.outputs.items()}

    def score(self, images: SuiteImages) -> Tensor:
        """Return the tag recall of each image, float64 [n] in 0..1.

        Raises:
            SuiteImagesError: the tagger knows none of a prompt's tags.
        """
        columns = [known_tags(prompt, self._outputs) for prompt in images.prompts]  # before the slow part
        found = self._tagger.probabilities(images)
        return torch.stack([row[own].mean() for row, own in zip(found, columns, strict=True)])


def known_tags(prompt: str, outputs: Mapping[str, int]) -> list[int]:
    """Return the outputs of a prompt's tags.

    Args:
        outputs: normalised name -> number of the output.

    Raises:
        SuiteImagesError: there are none.
    """
    tags = tags_of(prompt)
    found = [outputs[tag] for tag in tags if tag in outputs]
    if not found:
        raise SuiteImagesError(
            f"expected at least one tag of Danbooru between the commas of a prompt, got {shortened(prompt, 60)!r}: "
            "write tags, or leave this scorer out of the prompt with `without`"
        )
    return found


def build(settings: TagRecallSettings, context: BuildContext) -> TagRecallScorer:
    """Build a tag recall scorer.

    Raises:
        MissingWeightsError: a file of the tagger is missing and cannot be downloaded.
        WrongWeightsError: the files are not those of a tagger.
    """
    key = ("tagger", settings.folder, context.device)

    def load() -> Tagger:
        weights, config, tags = tagger_folder(settings).resolve()
        files = TaggerFiles(weights=weights, config=config, tags=tags)
        return Tagger(files, key=key, device=context.device, in_turns=context.in_turns)

    return TagRecallScorer(context.shared.get(key, load))
