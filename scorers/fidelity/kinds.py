"""The kinds of scorers of this folder, with their options.

No torch here: the command line lists scorers without it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from scorers.config import ClipModelSettings, ScorerSettings, SpecPath, spec_path
from scorers.kind import ScorerKind, by_name
from scorers.networks.clip.files import ClipNeed
from scorers.protocol import ScorerInfo, is_parent_letter
from scorers.weights.needs import ComparedCheckpoint, Need, OwnFile

FIDELITY = ScorerInfo(
    name="fidelity",
    label="fidelity",
    summary="likeness to the same item rendered by a parent or another checkpoint: 1 is the same picture",
    direction="maximize",
    # Renders of a merge and of its parents lie some 0.05 to 0.3 apart in cosine.
    unit=0.01,
    range=(-1.0, 1.0),
    limits=(-1.0, 1.0),
    scope="image",
)


class FidelitySettings(ScorerSettings):
    """Options of `fidelity`."""

    to: Annotated[str, Field(description="a parent's letter, such as A, or a checkpoint file")]
    by: Literal["clip", "ssim", "network"] = "clip"
    clip: ClipModelSettings = ClipModelSettings()
    network: str | None = None  # a timm architecture
    weights: SpecPath | None = None  # its weights
    input_size: Annotated[int, Field(ge=16, le=2048)] | None = None  # pixels; None: the network's own

    @field_validator("to")
    @classmethod
    def _is_letter_or_file(cls, value: str, info: ValidationInfo) -> str:
        return value if is_parent_letter(value) else spec_path(value, info)

    @model_validator(mode="after")
    def _has_its_network(self) -> Self:
        named = self.network is not None and self.weights is not None
        if self.by == "network" and not named:
            msg = "by: network needs `network`, a timm architecture, and `weights`, its file: give both"
            raise ValueError(msg)
        if self.by != "network" and (self.network, self.weights, self.input_size) != (None, None, None):
            msg = f"`network`, `weights` and `input_size` belong to by: network, and it says by: {self.by}"
            raise ValueError(msg)
        if self.by != "clip" and "clip" in self.model_fields_set:
            msg = f"`clip` belongs to by: clip, and it says by: {self.by}"
            raise ValueError(msg)
        return self


def _needs(settings: FidelitySettings | None) -> tuple[Need, ...]:
    if settings is None:
        return (ClipNeed(settings=ClipModelSettings()),)
    found: list[Need] = [] if is_parent_letter(settings.to) else [ComparedCheckpoint(named=Path(settings.to))]
    if settings.by == "clip":
        found.append(ClipNeed(settings=settings.clip))
    if settings.by == "network":
        found.append(OwnFile(named=settings.weights, title="weights of a timm network", setting="weights"))
    return tuple(found)


def _references(settings: FidelitySettings) -> tuple[str, ...]:
    return (settings.to,)


KINDS = by_name(
    ScorerKind(
        info=FIDELITY,
        settings=FidelitySettings,
        builder="scorers.fidelity.fidelity:build",
        needs=_needs,
        references=_references,
    ),
)
