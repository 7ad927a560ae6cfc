"""The scorers of a first spec: those that can be used on this machine, and why others are left out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from scorers.distances.kinds import SET_MIN_IMAGES


@dataclass(frozen=True, kw_only=True)
class ChosenScorer:
    """A scorer with its options, and what it is there for."""

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)
    why: str


@dataclass(frozen=True, kw_only=True)
class ScorerChoice:
    """The scorers of a spec, and what is said of others."""

    chosen: tuple[ChosenScorer, ...]
    lacking: tuple[str, ...]  # a line for each that would be there if this machine had its weights

    @property
    def judges(self) -> bool:
        """Whether any scorer judges pictures, rather than measuring their pixels."""
        return any(scorer.kind != "sharpness" for scorer in self.chosen)


def choose_scorers(here: Collection[str], *, refs: str | None, images: int) -> ScorerChoice:
    """Choose the scorers of a first spec.

    Args:
        here: the kinds that can be used on this machine.
        refs: the folder of reference images, as the spec names it; None: there is none.
        images: of the suite.
    """
    chosen, lacking = [], []
    for kind, why in (
        ("aesthetic", "how much people would like it"),
        ("clip_score", "how well it fits its prompt; the same CLIP serves both"),
    ):
        if kind in here:
            chosen.append(ChosenScorer(kind=kind, why=why))
        else:
            lacking.append(f"{kind}: its weights are not on this machine; name it here, and `study check` fetches "
                           "them, or says where to put them")  # fmt: skip
    if refs is not None:
        _add_distance(chosen, lacking, here, refs, images)
    if not chosen:
        chosen.append(ChosenScorer(kind="sharpness", why="fine detail, but noise too: a placeholder, no judge"))
    return ScorerChoice(chosen=tuple(chosen), lacking=tuple(lacking))


def _add_distance(
    chosen: list[ChosenScorer], lacking: list[str], here: Collection[str], refs: str, images: int
) -> None:
    """Choose the distance to the user's reference images, if it can be measured."""
    if "kid" not in here:
        lacking.append(f"kid, the distance to {refs}: its network is not on this machine; name it with `reference: "
                       "FOLDER`, and `study check` fetches it, or says where to put it")  # fmt: skip
    elif images < SET_MIN_IMAGES:
        lacking.append(f"kid, the distance to {refs}: it needs {SET_MIN_IMAGES} images a trial, the suite has {images}")
    else:
        chosen.append(ChosenScorer(kind="kid", options={"reference": refs}, why="how far from your reference images"))
