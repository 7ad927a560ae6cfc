"""A first spec before it is written: what is given and found, and the size that is chosen for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from optimizer.drafting.findings import FilesFound
from optimizer.drafting.names import lora_names, seen_from
from optimizer.drafting.prompts import EXAMPLE_PROMPTS
from optimizer.drafting.scorers import ScorerChoice, choose_scorers
from optimizer.drafting.sizing import Sizing
from search_spaces.blocks import Architecture

USUAL_STEPS = {Architecture.SDXL: 25}
OTHER_STEPS = 20
UNMEASURED = "The time of an image was not measured: the study ends by the clock."


@dataclass(frozen=True, kw_only=True)
class Draft:
    """Everything that a first spec says."""

    study: str
    folder: Path  # of the spec
    parents: tuple[Path, ...]
    loras: tuple[Path, ...]
    refs: Path | None
    own_prompts: tuple[str, ...]  # the user's; if empty, examples are taken
    kinds: frozenset[str]  # of scorers that can be used here
    found: FilesFound
    hours: float
    sizing: Sizing
    basis: str = UNMEASURED  # how the number of trials was found

    @property
    def steps(self) -> int:
        """Steps of an image."""
        return USUAL_STEPS.get(self.found.architecture, OTHER_STEPS)

    @property
    def prompts(self) -> tuple[str, ...]:
        """The user's prompts, or examples."""
        return self.own_prompts or EXAMPLE_PROMPTS

    @property
    def images(self) -> int:
        """Images of a trial."""
        return len(self.prompts) * self.sizing.seeds

    @property
    def named_parents(self) -> tuple[str, ...]:
        """The parents as the spec names them."""
        return tuple(seen_from(self.folder, path) for path in self.parents)

    @property
    def named_loras(self) -> Mapping[str, str]:
        """Name -> path of each LoRA as the spec names it."""
        names = lora_names(path.stem for path in self.loras)
        return {name: seen_from(self.folder, path) for name, path in zip(names, self.loras, strict=True)}

    @property
    def scorers(self) -> ScorerChoice:
        """The scorers that can be used here."""
        refs = None if self.refs is None else seen_from(self.folder, self.refs)
        return choose_scorers(self.kinds, refs=refs, images=self.images)

    def with_size(self, sizing: Sizing, basis: str) -> Draft:
        """Return the draft with another size.

        Args:
            basis: how it was found.
        """
        return replace(self, sizing=sizing, basis=basis)
