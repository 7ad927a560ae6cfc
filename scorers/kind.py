"""What a kind of scorer declares: its measure, its options, its builder and the files that it needs. No torch here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from scorers.config import ScorerSettings
from scorers.protocol import ScorerInfo
from scorers.weights.needs import Need

Needs = Callable[[Any], tuple[Need, ...]]
References = Callable[[Any], tuple[str, ...]]
LoraNames = Callable[[Any], tuple[str, ...]]


def no_needs(_settings: ScorerSettings | None) -> tuple[Need, ...]:
    """Return the needs of a scorer that needs nothing but the images."""
    return ()


def no_references(_settings: ScorerSettings) -> tuple[str, ...]:
    """Return the references of a scorer that looks at the images of the trial alone."""
    return ()


@dataclass(frozen=True, kw_only=True)
class ScorerKind:
    """One kind of scorer."""

    info: ScorerInfo
    settings: type[ScorerSettings]
    # "module:function", called as function(settings, context) -> Scorer. It is text, so that listing scorers does not
    # import torch.
    builder: str
    # Called with settings, or with None for those that a spec without options gets. They are looked for before torch is
    # imported; a plug-in that declares none says for itself what is missing, when it is built.
    needs: Needs = no_needs
    # The models whose renders of the same items it compares with: letters of parents, or absolute paths of checkpoints.
    # The scorer gets their images from `SuiteImages.of_reference`.
    references: References = no_references
    # The LoRAs of the suite at whose items it looks, by file names without suffix; an empty tuple means any LoRA. None:
    # it looks at items with and without LoRAs.
    only_with_loras: LoraNames | None = None


def by_name(*kinds: ScorerKind) -> dict[str, ScorerKind]:
    """Return the kinds by the names that a spec gives them."""
    return {kind.info.name: kind for kind in kinds}
