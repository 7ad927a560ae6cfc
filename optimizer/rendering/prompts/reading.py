"""How a prompt is read: the texts that it stands for while an image is sampled, each as chunks of tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from optimizer.errors import PromptError
from optimizer.families.clip_tokens import clip_tokenizer, pad_with_end
from optimizer.families.family import ModelFamily
from optimizer.rendering.prompts import attention, comfyui
from optimizer.rendering.prompts.chunks import A1111Chunks, Chunk, comfyui_chunks, empty_chunk
from optimizer.rendering.prompts.composition import refuse_composition
from optimizer.rendering.prompts.editing import phases
from optimizer.rendering.prompts.inversions import InversionFolder
from optimizer.rendering.prompts.networks import NamedLora, networks_taken_out
from optimizer.rendering.prompts.pieces import Piece, misread, refuse_long
from optimizer.rendering.prompts.tokens import comfyui_ids, mended_ids, open_clip_ids
from studies.spec.spellings import without_comments
from studies.spec.suite import SuiteSettings

MOST_CHUNKS = 50  # of a prompt; each costs memory and time in every call of the U-Net

Row = tuple[Chunk, ...]  # one chunk for each text encoder


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A text with everything in it resolved that changes while an image is sampled."""

    text: str = field(compare=False)
    pieces: tuple[Piece, ...] = field(compare=False)
    rows: tuple[Row, ...]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A prompt as it is read. Readings are equal if the same reaches the model."""

    prompt: str = field(compare=False)
    texts: tuple[Text, ...]  # all with as many chunks
    phases: tuple[tuple[int, int], ...]  # last call of the denoiser that gets a text, and the text's index
    loras: tuple[NamedLora, ...] = ()  # that it names, in its order; they are no part of the texts

    @property
    def chunk_count(self) -> int:
        """Chunks that the U-Net reads."""
        return len(self.texts[0].rows)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is written."""
        return all(not text.text for text in self.texts)

    @property
    def is_weighted(self) -> bool:
        """Whether a weight is not 1."""
        return any(chunk.is_weighted for text in self.texts for row in text.rows for chunk in row)

    @cached_property
    def repeats(self) -> tuple[int, ...]:
        """In how many phases each text holds."""
        counts = Counter(index for _, index in self.phases)
        return tuple(counts[index] for index in range(len(self.texts)))


class PromptReader:
    """Reads the prompts of a suite for a family of models.

    Args:
        widths: component -> features of a token's vector; those that are missing are not checked.
    """

    def __init__(self, suite: SuiteSettings, family: ModelFamily, widths: Mapping[str, int] | None = None) -> None:
        self.syntax, self.readers = suite.syntax, family.readers
        self._as_words = suite.emphasis == "none"  # whether brackets are text for A1111
        self._ignores_weights = suite.emphasis == "ignore"
        known = widths or {}
        self.inversions = InversionFolder(
            None if suite.syntax == "plain" else suite.embeddings,
            {reader.clip: known.get(reader.component) for reader in self.readers},
        )
        self._cache: dict[tuple[str, bool, int, int | None], Reading] = {}

    def read(self, prompt: str, calls: int, *, negative: bool = False, before: int | None = None) -> Reading:
        """Read a prompt for a pass.

        Args:
            calls: of the denoiser for an image in the pass, by which prompt editing counts.
            negative: whether it is a negative prompt.
            before: calls of the first pass, if this is the second.

        Raises:
            PromptError: it is not written as its syntax asks, or names an embedding that cannot be used.
        """
        key = (prompt, negative, calls, before)
        if key not in self._cache:
            refuse_long(prompt)
            self._cache[key] = self._read(prompt, calls, negative=negative, before=before)
        return self._cache[key]

    def _read(self, prompt: str, calls: int, *, negative: bool, before: int | None) -> Reading:
        if self.syntax != "a1111":
            read = self._plain if self.syntax == "plain" else self._comfyui
            return Reading(prompt=prompt, texts=(read(prompt),), phases=((calls, 0),))
        written, loras = networks_taken_out(without_comments(prompt), negative=negative)
        changing = phases(written, calls, before)  # first: a bracket that does not close explains what comes after it
        if not negative:
            refuse_composition(written)
        different = list(dict.fromkeys(text for _, text in changing))
        texts = [self._a1111(text) for text in different]
        most = max(len(text.rows) for text in texts)
        return Reading(
            prompt=prompt,
            texts=tuple(self._padded(text, most) for text in texts),
            phases=tuple((end, different.index(text)) for end, text in changing),
            loras=loras,
        )

    def _plain(self, prompt: str) -> Text:
        ids = clip_tokenizer()([prompt])
        with_ends = tuple(pad_with_end(ids)[0].tolist())
        row = tuple(Chunk(ids=with_ends if reader.padding else tuple(ids[0].tolist())) for reader in self.readers)
        return Text(text=prompt, pieces=(Piece(text=prompt),), rows=(row,))

    def _comfyui(self, prompt: str) -> Text:
        pieces = comfyui.weighted_pieces(prompt)
        chunks = [comfyui_chunks(pieces, reader, comfyui_ids, self.inversions) for reader in self.readers]
        return self._text(prompt, pieces, chunks)

    def _a1111(self, text: str) -> Text:
        pieces = (Piece(text=text),) if self._as_words else attention.weighted_pieces(text)
        if self._ignores_weights:
            pieces = tuple(replace(piece, weight=1.0) for piece in pieces)
        if not attention.is_finite(pieces):
            raise misread(text, 0, "its weights multiply beyond any number: use fewer brackets")
        return self._text(text, pieces, [divider.divide(pieces) for divider in self._dividers])

    @cached_property
    def _dividers(self) -> tuple[A1111Chunks, ...]:
        return tuple(
            A1111Chunks(reader, open_clip_ids if reader.is_open_clip else mended_ids, self.inversions)
            for reader in self.readers
        )

    def _text(self, prompt: str, pieces: tuple[Piece, ...], chunks: list[tuple[Chunk, ...]]) -> Text:
        """Return a text with equally many chunks for each encoder.

        Args:
            chunks: of each encoder.

        Raises:
            PromptError: there are too many.
        """
        most = max(map(len, chunks))
        if most > MOST_CHUNKS:
            raise PromptError(
                f"the prompt {prompt[:40]!r}... has {most} chunks of 75 tokens, more than {MOST_CHUNKS}: give the "
                "words of one picture"
            )
        padded = [
            (*each, *[empty_chunk(reader)] * (most - len(each)))
            for each, reader in zip(chunks, self.readers, strict=True)
        ]
        return Text(text=prompt, pieces=pieces, rows=tuple(zip(*padded, strict=True)))

    @property
    def empty_row(self) -> Row:
        """The chunk of an empty prompt for each text encoder."""
        return tuple(map(empty_chunk, self.readers))

    def _padded(self, text: Text, count: int) -> Text:
        rows = (*text.rows, *[self.empty_row] * (count - len(text.rows)))
        return Text(text=text.text, pieces=text.pieces, rows=rows)
