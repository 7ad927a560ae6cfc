"""Text embeddings of a suite's items, cached for as long as the text encoders are unchanged."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from optimizer.families.family import Embedded
from optimizer.families.registry import model_family
from optimizer.merging.engine.plan import WeightedLoras
from optimizer.merging.files.layout import Component
from optimizer.rendering.loras import UsedLora, names_in, used_by
from optimizer.rendering.models import LiveModels
from optimizer.rendering.prompts.chunks import LENGTH, Chunk
from optimizer.rendering.prompts.editing import holding_at
from optimizer.rendering.prompts.emphasis import from_empty, mean_restored, multiplied
from optimizer.rendering.prompts.inversions import InversionFolder
from optimizer.rendering.prompts.reading import PromptReader, Reading, Row, Text
from studies.spec.samplers import Sampling
from studies.spec.suite import SuiteItem, SuiteSettings

TEXT_BATCH = 64  # chunks that are embedded at once
TEXTS: tuple[Component, ...] = ("text_encoder", "text_encoder_2")


@dataclass(frozen=True, slots=True)
class Embedding:
    """The embedding of one text, as the U-Net reads it."""

    tokens: Tensor  # [tokens, width]
    pooled: Tensor | None  # [width of the pooled text], if the family uses it


@dataclass(frozen=True, slots=True)
class Phase:
    """What a prompt stands for up to a call of the denoiser."""

    until_call: int  # the last call, counted from 0, that gets the embedding; those after the last phase get the first
    embedding: Embedding


@dataclass(frozen=True, slots=True)
class Conditions:
    """The embeddings for an item, all of them with as many tokens."""

    positive: tuple[Phase, ...]
    negative: tuple[Phase, ...]

    @property
    def token_count(self) -> int:
        """Tokens that the U-Net reads."""
        return len(self.positive[0].embedding.tokens)


def phase_at(phases: Sequence[Phase], call: int) -> int:
    """Return the place of the phase that holds at a call of the denoiser, as A1111 counts.

    Args:
        call: from 0.
    """
    return holding_at([phase.until_call for phase in phases], call)


@dataclass(frozen=True, slots=True)
class _Key:
    """What an embedding depends on; of prompts that are read alike, each is embedded by itself."""

    prompt: str
    reading: Reading = field(compare=False)
    texts: tuple[Text, ...]  # of the reading, and in how many phases each holds, which decides their mean
    repeats: tuple[int, ...]
    clip_skip: int
    loras: WeightedLoras  # on top of the text encoders

    @classmethod
    def of(cls, reading: Reading, clip_skip: int, loras: WeightedLoras) -> _Key:
        return cls(reading.prompt, reading, reading.texts, reading.repeats, clip_skip, loras)


class PromptEncoder:
    """The live text encoders, with a cache of embeddings.

    Args:
        suite: says how prompts are written.
    """

    def __init__(self, models: LiveModels, suite: SuiteSettings) -> None:
        self.models, self.suite = models, suite
        self.family = model_family(models.architecture)
        widths = {name: encoder.config.hidden_size for name, encoder in models.text_encoders.items()}
        self.reader = PromptReader(suite, self.family, widths)
        self._lora_names = names_in(suite)
        self._cache: dict[_Key, tuple[Embedding, ...]] = {}  # an embedding for each of the reading's texts

    def forget(self) -> None:
        """Empty the cache, which is required when a text encoder's weights have changed."""
        self._cache.clear()

    def conditions(self, items: Sequence[SuiteItem]) -> dict[int, Conditions]:
        """Return index of an item -> its embeddings; those not in the cache are computed.

        Raises:
            PromptError: a prompt cannot be read, or names an embedding that cannot be used.
        """
        return self._of_keys({item.index: self._keys(item, item.sampling) for item in items})

    def second_conditions(self, items: Sequence[SuiteItem]) -> dict[int, Conditions]:
        """Return index of an item -> its embeddings of the second pass, for items that have one; see `conditions`."""
        seconds = [(item, item.sampling.second) for item in items]
        return self._of_keys(
            {
                item.index: self._keys(item, second, before=item.sampling.prompt_steps)
                for item, second in seconds
                if second is not None
            }
        )

    @torch.inference_mode()
    def _of_keys(self, keys: Mapping[int, tuple[_Key, _Key]]) -> dict[int, Conditions]:
        self._embed(dict.fromkeys(key for pair in keys.values() for key in pair))
        return {index: self._conditions(*pair) for index, pair in keys.items()}

    def loras_of(self, item: SuiteItem) -> tuple[UsedLora, ...]:
        """Return the LoRAs on top of the merge for an item.

        Raises:
            PromptError: its prompt cannot be read, or names a LoRA that is not there.
        """
        named = self.reader.read(item.prompt, item.sampling.prompt_steps).loras
        return used_by(self.suite, named, self._lora_names)

    def _keys(self, item: SuiteItem, sampling: Sampling, before: int | None = None) -> tuple[_Key, _Key]:
        """Return the keys of an item's prompt and negative prompt, which are read with the same LoRAs.

        Args:
            sampling: of the pass.
            before: see `PromptReader.read`.
        """
        loras = self.models.loras.on(tuple(self.models.text_encoders), self.loras_of(item))
        calls = sampling.prompt_steps
        prompt = self.reader.read(item.prompt, calls, before=before)
        negative = self.reader.read(item.negative, calls, negative=True, before=before)
        return _Key.of(prompt, item.clip_skip, loras), _Key.of(negative, item.clip_skip, loras)

    # ------------------------------------------------------------------------------------ conditions

    def _conditions(self, positive: _Key, negative: _Key) -> Conditions:
        counts = positive.reading.chunk_count, negative.reading.chunk_count
        zeroed = self.suite.syntax == "a1111" and self.family.zeroes_empty_negative and negative.reading.is_empty
        negatives = tuple(map(_zeroed, self._cache[negative])) if zeroed else self._cache[negative]
        return Conditions(
            positive=self._phases(positive, self._cache[positive], counts),
            negative=self._phases(negative, negatives, counts),
        )

    def _phases(self, key: _Key, embeddings: Sequence[Embedding], counts: tuple[int, int]) -> tuple[Phase, ...]:
        repeated = [self._repeated(each, counts) for each in embeddings]
        return tuple(Phase(until, repeated[index]) for until, index in key.reading.phases)

    def _repeated(self, embedding: Embedding, counts: tuple[int, int]) -> Embedding:
        """Return an embedding with as many tokens as the other prompt's.

        ComfyUI repeats both up to a common length, which changes no attention. A1111 computes the two apart, unless
        told to pad, and that gives the same.

        Args:
            counts: chunks of both prompts.
        """
        tokens, own = embedding.tokens, len(embedding.tokens) // (LENGTH + 2)
        if own < math.lcm(*counts):
            tokens = tokens.repeat(math.lcm(*counts) // own, 1)
        return Embedding(tokens, embedding.pooled)

    # ------------------------------------------------------------------------------------ encoding

    def _embed(self, keys: Iterable[_Key]) -> None:
        """Embed those readings that are not in the cache; those with the same LoRAs one after the other."""
        new = [key for key in keys if key not in self._cache]
        for loras in dict.fromkeys(key.loras for key in new):
            self.models.lay_on_top(loras, *TEXTS)
            self.models.use(*TEXTS)
            self._embed_alike([key for key in new if key.loras == loras])
        self.models.lay_on_top((), *TEXTS)

    def _embed_alike(self, keys: Sequence[_Key]) -> None:
        """Embed readings with the LoRAs that lie on top of the text encoders."""
        for clip_skip in dict.fromkeys(key.clip_skip for key in keys):
            same = [key for key in keys if key.clip_skip == clip_skip]
            encoded = self._encode([row for key in same for row in self._rows(key.reading)], clip_skip)
            start = 0
            for key in same:
                end = start + len(self._rows(key.reading))
                self._cache[key] = self._weighted(key.reading, encoded.part(start, end))
                start = end

    def _rows(self, reading: Reading) -> list[Row]:
        """Return the chunks to embed: those of each text, then an empty one where ComfyUI needs it for weights."""
        rows = [row for text in reading.texts for row in text.rows]
        needs_empty = self.suite.syntax == "comfyui" and any(chunk.is_weighted for row in rows for chunk in row)
        return [*rows, self.reader.empty_row] if needs_empty else rows

    def _encode(self, rows: Sequence[Row], clip_skip: int) -> _Encoded:
        """Embed rows of chunks, `TEXT_BATCH` at once."""
        batches = [
            self._encode_batch(rows[start : start + TEXT_BATCH], clip_skip) for start in range(0, len(rows), TEXT_BATCH)
        ]
        layers = [[layer for batch in batches for layer in batch.layers[reader]] for reader in range(len(rows[0]))]
        pooled = [
            each
            for batch in batches
            for each in ([None] * len(batch.layers[0]) if batch.pooled is None else batch.pooled)
        ]
        return _Encoded(layers, pooled)

    def _encode_batch(self, rows: Sequence[Row], clip_skip: int) -> Embedded:
        readers = range(len(self.family.readers))
        device = self.models.unet.device
        ids = [torch.tensor([row[reader].ids for row in rows], device=device) for reader in readers]
        with ExitStack() as inserted:
            for reader, settings in enumerate(self.family.readers):
                encoder = self.models.text_encoders[settings.component]
                chunks = [row[reader] for row in rows]
                inserted.enter_context(vectors_inserted(encoder, chunks, self.reader.inversions, settings.clip))
            return self.family.embed(ids, self.models.text_encoders, clip_skip)

    def _weighted(self, reading: Reading, encoded: _Encoded) -> tuple[Embedding, ...]:
        """Apply weights to the embedding of a reading's rows, and return that of each text."""
        count, texts = reading.chunk_count, len(reading.texts)
        empty = [layer[-1] for layer in encoded.layers]
        parts: list[list[Tensor]] = [
            [] for _ in range(texts)
        ]  # of each text, its chunks with all encoders side by side
        for chunk in range(count):
            rows = [text * count + chunk for text in range(texts)]
            chunks = [reading.texts[text].rows[chunk] for text in range(texts)]
            sides = [
                self._emphasised(
                    [layer[row] for row in rows], [each[reader] for each in chunks], reading.repeats, empty[reader]
                )
                for reader, layer in enumerate(encoded.layers)
            ]
            for text in range(texts):
                parts[text].append(
                    torch.cat([side[text] for side in sides], dim=-1) if len(sides) > 1 else sides[0][text]
                )
        tokens = [each[0] if count == 1 else torch.cat(each) for each in parts]
        return tuple(Embedding(tokens[text], encoded.pooled[text * count]) for text in range(texts))

    def _emphasised(
        self, layers: Sequence[Tensor], chunks: Sequence[Chunk], repeats: Sequence[int], empty: Tensor
    ) -> Sequence[Tensor]:
        """Return one encoder's output for the same chunk of each text, weighted; as it is if every weight is 1."""
        if self.suite.syntax == "plain" or not any(chunk.is_weighted for chunk in chunks):
            return layers
        z = torch.stack(list(layers))
        weights = torch.tensor([chunk.weights for chunk in chunks], device=z.device)
        if self.suite.syntax == "comfyui":
            return tuple(from_empty(z, weights, empty))
        if self.suite.emphasis == "original":
            return tuple(mean_restored(z, weights, torch.tensor(repeats, dtype=torch.float32, device=z.device)))
        return tuple(multiplied(z, weights))


@dataclass(frozen=True, slots=True)
class _Encoded:
    """The text encoders' output for some rows."""

    layers: Sequence[Sequence[Tensor]]  # of each encoder, a layer [tokens, width] for each row
    pooled: Sequence[Tensor | None]

    def part(self, start: int, end: int) -> _Encoded:
        return _Encoded([layer[start:end] for layer in self.layers], self.pooled[start:end])


def _zeroed(embedding: Embedding) -> Embedding:
    pooled = None if embedding.pooled is None else torch.zeros_like(embedding.pooled)
    return Embedding(torch.zeros_like(embedding.tokens), pooled)


@contextmanager
def vectors_inserted(encoder: Any, chunks: Sequence[Chunk], inversions: InversionFolder, clip: str) -> Iterator[None]:
    """Put the vectors of embeddings in the place of tokens' own while an encoder reads the chunks, one in each row.

    The encoder's weights are not touched, and nothing is done where no chunk has a vector.

    Args:
        clip: name of the encoder in files of textual inversion.
    """
    placed = [(row, vector) for row, chunk in enumerate(chunks) for vector in chunk.vectors]
    if not placed:
        yield
        return
    names = dict.fromkeys(vector.inversion for _, vector in placed)
    vectors = {name: inversions.open(name).vectors[clip] for name in names}

    def insert(_module: object, _args: object, embedded: Tensor) -> Tensor:
        embedded = embedded.clone()
        for row, vector in placed:
            embedded[row, vector.position] = vectors[vector.inversion][vector.row].to(embedded)
        return embedded

    handle = encoder.get_input_embeddings().register_forward_hook(insert)
    try:
        yield
    finally:
        handle.remove()
