"""The final's settings: which trials are rendered again, and with which prompts and seeds."""

from __future__ import annotations

from typing import Any

from pydantic import Field, ValidationError, field_validator

from basics.settings import FrozenSettings
from studies.spec.suite import Seeds, SuitePrompt, SuiteSettings, expand_prompts, noise_of

SEED_SHIFT = 1_000_003  # added to the suite's seeds: a prime far beyond the seeds that people choose


class FinalSettings(FrozenSettings):
    """Settings of the final, which compares the best trials on renders that the search never saw."""

    top: int = Field(default=5, ge=0, le=100)  # how many trials take part; 0: no final
    prompts: tuple[SuitePrompt, ...] | None = Field(default=None, min_length=1)  # None: the suite's
    seeds: Seeds | None = Field(default=None, min_length=1)  # None: derived from the suite's

    @field_validator("prompts", mode="before")
    @classmethod
    def _plain_prompts(cls, value: Any) -> Any:
        return expand_prompts(value)

    def held_out(self, suite: SuiteSettings) -> SuiteSettings:
        """Return the final's suite: other seeds, other prompts if they are given, everything else as in `suite`.

        Raises:
            ValueError: it would be empty, or contain a render twice or a seed that the search has seen.
        """
        seen = {item.seed for item in suite.items()}
        shift = unseen_shift(seen | set(suite.seeds))

        def others(seeds: tuple[int, ...]) -> tuple[int, ...]:
            return self.seeds or tuple((seed + shift) % 2**63 for seed in seeds)

        prompts = self.prompts or tuple(
            prompt.model_copy(update={"seeds": None if prompt.seeds is None else others(prompt.seeds)})
            for prompt in suite.prompts
        )
        try:
            changes = {"prompts": prompts, "seeds": others(suite.seeds)}
            held_out = SuiteSettings.model_validate(suite.model_dump() | changes)
        except ValidationError as error:
            msg = f"final: {error.errors()[0]['msg'].removeprefix('Value error, ')}"
            raise ValueError(msg) from error
        if repeated := sorted({item.seed for item in held_out.items()} & seen):
            msg = (
                f"final: seed {', '.join(map(str, repeated))} is one of the suite's: the final needs seeds that the "
                "search has not seen, so choose others or leave `seeds` out"
            )
            raise ValueError(msg)
        return held_out


def unseen_shift(seeds: set[int]) -> int:
    """Choose one shift for all seeds: their noises stay as different as they are, and become none of the given ones."""
    seen = {noise_of(seed) for seed in seeds}
    shift = SEED_SHIFT
    while any(noise_of(seed + shift) in seen for seed in seeds):
        shift += SEED_SHIFT
    return shift
