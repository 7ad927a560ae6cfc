"""What every family of models says of its files: its blocks, to which of them a key belongs, and how to tell it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]  # key in the family's single-file layout -> shape

VAE: Final = "vae"
OTHER: Final = "other"
EMA: Final = "ema"


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """What people hand over instead of a model of a family."""

    what: str
    advice: str | None = None  # what to do; None: only the registered families are supported


@dataclass(frozen=True, kw_only=True)
class Match:
    """What a file's tensors say for one family. Either of the first two suffices, if nothing contradicts it."""

    unet: bool  # the tensors of the U-Net are this family's
    texts: bool  # it has all the text encoders that only this family has
    mistake: Mistake | None = None  # the U-Net is known to be another one


@dataclass(frozen=True, kw_only=True)
class BorrowedWeights:
    """Block weights that people wrote for another family, and use with this one as well."""

    title: str  # of the family they were written for
    blocks: int  # numbers in a string, BASE not counted
    taken: tuple[int, ...]  # which of them this family's blocks get, in order


class Family(Protocol):
    """A family of models, as far as its keys and blocks go."""

    @property
    def title(self) -> str:
        """Name for people, such as SD1.5."""

    @property
    def sections(self) -> Mapping[str, tuple[str, ...]]:
        """Section -> its blocks. Both are in the order in which the signal passes them.

        A model whose blocks are one list has one section, or one for each kind of block. A block's name means the same
        section in every family that has it.
        """

    @property
    def text_encoders(self) -> tuple[str, ...]:
        """Names of the text encoders that are merged; none where they are frozen and come in files of their own."""

    @property
    def labels(self) -> Mapping[str, str]:
        """Text encoder -> what people call it in pictures."""

    @property
    def borrowed_weights(self) -> BorrowedWeights | None:
        """Another family's block weights that this one takes too."""

    @property
    def preset_groups(self) -> Mapping[str, Mapping[str, tuple[str, ...]]]:
        """Named search space -> the groups that it has in this family only, as `SpaceSettings.groups`."""

    def place_of(self, key: str) -> str:
        """Return a block, a text encoder, VAE, OTHER or EMA. Never raises."""

    def match(self, shapes: Shapes) -> Match | None:
        """Return what the tensors say for this family; None where they have nothing like its U-Net."""
