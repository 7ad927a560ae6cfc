"""The interface of a family of models: its blocks, the block of each key, and how its files are recognised."""

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
    """A kind of file that people give by mistake instead of a supported model."""

    what: str
    advice: str | None = None  # what to do; None: say that only the registered families are supported


@dataclass(frozen=True, kw_only=True)
class Match:
    """How a file's tensors match a family. Either of the first two suffices, unless something contradicts it."""

    unet: bool  # the tensors of the U-Net are this family's
    texts: bool  # it has all the text encoders that only this family has
    mistake: Mistake | None = None  # the U-Net is known to be of another kind


@dataclass(frozen=True, kw_only=True)
class BorrowedWeights:
    """Block weights that people wrote for another family and also use with this one."""

    title: str  # of the family they were written for
    blocks: int  # numbers in a string, without BASE
    taken: tuple[int, ...]  # indices of the numbers that this family's blocks use, in order


class Family(Protocol):
    """A family of models, as far as its keys and blocks are concerned."""

    @property
    def title(self) -> str:
        """Name for people, such as SD1.5."""

    @property
    def sections(self) -> Mapping[str, tuple[str, ...]]:
        """Section -> its blocks, both in the order in which the signal passes them.

        A model whose blocks are one list has one section, or one for each kind of block. A block is in the same section
        in every family that has it.
        """

    @property
    def text_encoders(self) -> tuple[str, ...]:
        """Names of the text encoders that are merged; none where they are frozen and come in files of their own."""

    @property
    def labels(self) -> Mapping[str, str]:
        """Text encoder -> what people call it in pictures."""

    @property
    def borrowed_weights(self) -> BorrowedWeights | None:
        """Another family's block weights that this one accepts as well."""

    @property
    def preset_groups(self) -> Mapping[str, Mapping[str, tuple[str, ...]]]:
        """Named search space -> its groups in this family, as in `SpaceSettings.groups`."""

    def place_of(self, key: str) -> str:
        """Return a block, a text encoder, VAE, OTHER or EMA. Never raises."""

    def match(self, shapes: Shapes) -> Match | None:
        """Match tensors against this family; None if they have nothing like its U-Net."""
