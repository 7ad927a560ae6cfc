"""Prompts of any length in chunks of 75 tokens, each between a start and an end mark: 77 that a text encoder reads.

A1111 (modules/sd_hijack_clip.py) goes token by token: a chunk that is full ends at a comma among its last 20 tokens, if
there is one, and BREAK ends a chunk wherever it is. ComfyUI (comfy/sd1_clip.py) goes by pieces, which are what stands
between brackets and embeddings: a piece of fewer than 8 tokens is never divided, a longer one fills the chunk.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from optimizer.families.clip import END
from optimizer.families.family import TextReader
from optimizer.rendering.prompts.comfyui import Named, words_and_embeddings
from optimizer.rendering.prompts.inversions import Inversion, InversionFolder
from optimizer.rendering.prompts.pieces import Piece
from optimizer.rendering.prompts.tokens import COMMA, START, Tokenize

LENGTH: Final = 75  # tokens of a chunk, without its marks
BACKTRACK: Final = 20  # tokens that A1111 moves into the next chunk so that one ends at a comma
WHOLE: Final = 8  # tokens from which on ComfyUI divides a piece


@dataclass(frozen=True, slots=True, kw_only=True)
class Vector:
    """A vector of an embedding, in the place of a token's own."""

    position: int  # in the chunk, its start mark included
    inversion: str  # the embedding's name
    row: int  # of its vectors


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """What a text encoder reads at once."""

    ids: tuple[int, ...]  # 77, marks and padding included; 0 where a vector stands
    weights: tuple[float, ...] = (1.0,) * (LENGTH + 2)
    vectors: tuple[Vector, ...] = ()

    @property
    def is_weighted(self) -> bool:
        """Whether a weight is not 1."""
        return any(weight != 1.0 for weight in self.weights)

    @property
    def token_count(self) -> int:
        """Tokens between the marks."""
        return self.ids.index(END, 1) - 1 if END in self.ids[1:] else LENGTH


def empty_chunk(reader: TextReader) -> Chunk:
    """Return the chunk of an empty prompt."""
    return Chunk(ids=(START, END, *[reader.padding] * LENGTH))


@dataclass(slots=True)
class _Filling:
    """A chunk to which tokens are added."""

    ids: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    vectors: list[Vector] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, token: int | Vector, weight: float) -> None:
        if isinstance(token, Vector):
            self.vectors.append(replace(token, position=len(self.ids) + 1))
        self.ids.append(0 if isinstance(token, Vector) else token)
        self.weights.append(weight)

    def chunk(self, reader: TextReader) -> Chunk:
        """Return the chunk with its marks and padding."""
        rest = LENGTH - len(self.ids)
        ids = [START, *self.ids, END, *[reader.padding] * rest]
        return Chunk(ids=tuple(ids), weights=(1.0, *self.weights, *[1.0] * (rest + 1)), vectors=tuple(self.vectors))


# ------------------------------------------------------------------------------------ A1111


class A1111Chunks:
    """Divides pieces into chunks as A1111 does, for one text encoder.

    Args:
        inversions: the embeddings, which a prompt names by a bare word.
    """

    def __init__(self, reader: TextReader, tokenize: Tokenize, inversions: InversionFolder) -> None:
        self.reader, self.tokenize, self.inversions = reader, tokenize, inversions
        by_tokens = ((tuple(tokenize(name)), name) for name in inversions.stems)
        # The longest first; of names with the same tokens, the one that A1111 lists first.
        self._names = sorted(by_tokens, key=lambda pair: (-len(pair[0]), pair[1].lower()))
        self._firsts = {ids[0] for ids, _ in self._names if ids}

    def divide(self, pieces: Iterable[Piece]) -> tuple[Chunk, ...]:
        """Return the chunks of a prompt; an empty one has one.

        Raises:
            PromptError: an embedding cannot be used.
        """
        done: list[Chunk] = []
        filling, comma = _Filling(), None
        for piece in pieces:
            if piece.ends_chunk:
                done.append(filling.chunk(self.reader))
                filling, comma = _Filling(), None
                continue
            tokens, position = self.tokenize(piece.text), 0
            while position < len(tokens):
                if tokens[position] == COMMA:
                    comma = len(filling)
                elif len(filling) == LENGTH and comma is not None and LENGTH - comma <= BACKTRACK:
                    filling, moved = _split(filling, comma + 1)
                    done.append(filling.chunk(self.reader))
                    filling, comma = moved, None
                found, length = self._named_at(tokens, position)
                added = [tokens[position]] if found is None else _vectors(found, self.reader)
                if len(filling) + len(added) > LENGTH:
                    done.append(filling.chunk(self.reader))
                    filling, comma = _Filling(), None
                for token in added:
                    filling.add(token, piece.weight)
                position += length
        if len(filling) or not done:
            done.append(filling.chunk(self.reader))
        return tuple(done)

    def _named_at(self, tokens: Sequence[int], position: int) -> tuple[Inversion | None, int]:
        """Return the embedding whose name stands at a position, and its tokens; None and 1 if there is none."""
        if tokens[position] not in self._firsts:
            return None, 1
        for ids, name in self._names:
            if ids and tuple(tokens[position : position + len(ids)]) == ids:
                return self.inversions.open(name), len(ids)
        return None, 1


def _split(filling: _Filling, at: int) -> tuple[_Filling, _Filling]:
    """Divide a chunk; as in A1111, vectors of embeddings keep their places in the first part, over its padding."""
    first = _Filling(filling.ids[:at], filling.weights[:at], filling.vectors)
    return first, _Filling(filling.ids[at:], filling.weights[at:])


def _vectors(inversion: Inversion, reader: TextReader) -> list[int | Vector]:
    return [Vector(position=0, inversion=inversion.name, row=row) for row in range(len(inversion.vectors[reader.clip]))]


# ------------------------------------------------------------------------------------ ComfyUI


def comfyui_chunks(
    pieces: Iterable[Piece], reader: TextReader, tokenize: Tokenize, inversions: InversionFolder
) -> tuple[Chunk, ...]:
    """Divide pieces into chunks as ComfyUI does, for one text encoder; an empty prompt has one.

    Raises:
        PromptError: an embedding is not there, or cannot be used.
    """
    done: list[Chunk] = []
    filling = _Filling()
    for group, weight in _groups(pieces, reader, tokenize, inversions):
        tokens, divided = group, len(group) >= WHOLE
        while tokens:
            room = LENGTH - len(filling)
            fits = tokens if len(tokens) <= room else tokens[:room] if divided else []
            for token in fits:
                filling.add(token, weight)
            tokens = tokens[len(fits) :]
            if tokens:
                done.append(filling.chunk(reader))
                filling = _Filling()
    return (*done, filling.chunk(reader))


def _groups(
    pieces: Iterable[Piece], reader: TextReader, tokenize: Tokenize, inversions: InversionFolder
) -> Iterable[tuple[Sequence[int | Vector], float]]:
    """Yield tokens that ComfyUI keeps together, and their weight."""
    for piece in pieces:
        for part in words_and_embeddings(piece.text):
            text = part
            if isinstance(part, Named):
                inversion, text = _named(part, inversions)
                yield _vectors(inversion, reader), piece.weight
            if isinstance(text, str) and text:
                yield tokenize(text), piece.weight


def _named(named: Named, inversions: InversionFolder) -> tuple[Inversion, str]:
    """Return an embedding and the text that follows it; commas around its name belong to the text.

    Raises:
        PromptError: there is none of this name, or it cannot be used.
    """
    name = named.name if inversions.knows(named.name) else named.name.strip(",")
    if name == named.name:
        return inversions.open(name), named.rest
    return inversions.open(name), f"{named.name[len(name) :]} {named.rest}"
