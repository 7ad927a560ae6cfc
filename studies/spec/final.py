"""The final: which trials are rendered once more, and on what."""

from __future__ import annotations

from typing import Any

from pydantic import Field, ValidationError, field_validator

from basics.settings import FrozenSettings
from studies.spec.suite import Seed, SuitePrompt, SuiteSettings, with_prompt

SEED_SHIFT = 1_000_003  # of the final's seeds: a prime far beyond what people count up to


class FinalSettings(FrozenSettings):
    """How the best trials are compared once more, on renders that the search never saw."""

    top: int = Field(default=5, ge=0, le=100)  # finished trials that take part; 0: no final
    prompts: tuple[SuitePrompt, ...] | None = Field(default=None, min_length=1)  # None: the suite's
    seeds: tuple[Seed, ...] | None = Field(default=None, min_length=1)  # None: derived from the suite's

    @field_validator("prompts", mode="before")
    @classmethod
    def _plain_prompts(cls, value: Any) -> Any:
        return with_prompt(value)

    def held_out(self, suite: SuiteSettings) -> SuiteSettings:
        """The final's suite: other prompts if given, other seeds always, everything else as in `suite`.

        Raises:
            ValueError: it would be empty, hold a render twice, or a seed that the search has seen.
        """
        seen = {item.seed for item in suite.items()}
        shift = _unseen_shift(seen | set(suite.seeds))

        def others(seeds: tuple[int, ...]) -> tuple[int, ...]:
            return self.seeds or tuple((seed + shift) % 2**63 for seed in seeds)

        prompts = self.prompts or tuple(
            row.model_copy(update={"seeds": None if row.seeds is None else others(row.seeds)}) for row in suite.prompts
        )
        try:
            changed = {"prompts": prompts, "seeds": others(suite.seeds)}
            found = SuiteSettings.model_validate(suite.model_dump() | changed)
        except ValidationError as error:
            msg = f"final: {error.errors()[0]['msg'].removeprefix('Value error, ')}"
            raise ValueError(msg) from error
        if repeated := sorted({item.seed for item in found.items()} & seen):
            msg = (
                f"final: seed {', '.join(map(str, repeated))} is one of the suite's: the final needs seeds that the "
                "search has not seen, so choose others or leave `seeds` out"
            )
            raise ValueError(msg)
        return found


def _unseen_shift(seeds: set[int]) -> int:
    """The same shift for every seed, so that all stay different, and none becomes one of them."""
    shift = SEED_SHIFT
    while any((seed + shift) % 2**63 in seeds for seed in seeds):
        shift += SEED_SHIFT
    return shift
