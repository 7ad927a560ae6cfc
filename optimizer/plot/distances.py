"""How far the pictures of a cell are from those of another: in pixel levels and, by a CLIP, in what they show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scorers.config import ClipModelSettings
from scorers.protocol import SuiteImages
from scorers.registry import parse_settings
from studies.spec.study import StudySpec

if TYPE_CHECKING:
    from scorers.networks.clip.embedder import ClipEmbedder


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureDistance:
    """The distance of two sets of pictures, picture by picture."""

    levels: float  # mean absolute difference of the 8-bit values of all channels, 0..255
    cosine: float | None  # 1 - cosine of their CLIP embeddings, the mean over pictures; None without a CLIP


def clip_settings(spec: StudySpec) -> ClipModelSettings | None:
    """Return the settings of the first CLIP among a spec's scorers; None if there is none."""
    for entry in spec.scorers.values():
        settings = getattr(parse_settings(entry.kind, entry.options, Path("/")), "clip", None)
        if isinstance(settings, ClipModelSettings):
            return settings
    return None


def embeddings(embedder: ClipEmbedder, images: Sequence[Tensor]) -> Tensor:
    """Embed pictures, uint8 [3, h, w]: float32 [n, width], L2-normalised."""
    return embedder.embed_images(SuiteImages(images=tuple(images), prompts=("",) * len(images)))


def level_distance(images: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    """Return the mean absolute difference of pictures, uint8 [3, h, w] each, in 8-bit levels."""
    differences = [(one.int() - other.int()).abs().double().mean() for one, other in zip(images, others, strict=True)]
    return float(torch.stack(differences).mean())


def cosine_distance(one: Tensor, other: Tensor) -> float:
    """Return the mean of 1 - cosine of paired L2-normalised embeddings, [n, width]; 0..2."""
    return max(0.0, float(1 - (one.double() * other.double()).sum(dim=-1).mean()))  # rounding may leave less than 0
