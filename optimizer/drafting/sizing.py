"""How many seeds and trials a first spec has, given the hours that it may take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from optimizer.runtime.timing import StudyTiming

WISHED_TRIALS = 60  # of a search block by block
LEAST_TRIALS = 20  # with fewer, hardly any would be proposed after the probes
MOST_TRIALS = 300
LEAST_IMAGES = 8  # of a trial: fewer say little about a merge
MOST_IMAGES = 32
UNMEASURED_TRIALS = 100
MOST_SEEDS = 4
BY_SECTIONS = 40  # trials, below which sections are searched instead of blocks


@dataclass(frozen=True, kw_only=True)
class Sizing:
    """The size of a study."""

    seeds: int  # of each prompt
    trials: int
    seconds: float | None  # that it takes; None: not measured

    @property
    def granularity(self) -> str:
        """What a ratio belongs to in a study of this size."""
        return "sections" if self.trials < BY_SECTIONS else "blocks"


def seed_counts(prompts: int) -> tuple[int, ...]:
    """Return how many seeds each prompt may have, most first."""
    least = min(MOST_SEEDS, -(-LEAST_IMAGES // prompts))
    most = max(least, min(MOST_SEEDS, MOST_IMAGES // prompts))
    return tuple(range(most, least - 1, -1))


def unmeasured(prompts: int) -> Sizing:
    """Return a size where nothing is known of the time: the study must end by the clock."""
    counts = seed_counts(prompts)
    return Sizing(seeds=min(counts, key=lambda count: abs(count - 2)), trials=UNMEASURED_TRIALS, seconds=None)


def size_for_hours(prompts: int, hours: float, timing: Callable[[int], StudyTiming]) -> Sizing:
    """Return the size that fits into a time: as many seeds as leave room for enough trials.

    It may take longer where not even `LEAST_TRIALS` fit.

    Args:
        timing: number of seeds -> what a study with them takes here.
    """
    for seeds in seed_counts(prompts):
        study = timing(seeds)
        trials = int((3600 * hours - study.final_seconds) // study.trial_seconds)
        if trials >= WISHED_TRIALS:
            break
    trials = min(max(trials, LEAST_TRIALS), MOST_TRIALS)
    return Sizing(seeds=seeds, trials=trials, seconds=replace(study, trials=trials).seconds)
