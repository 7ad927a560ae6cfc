"""How often the nominal 95 % interval of a gain covers the gain on new prompts: over images, and over prompts.

    python benchmarks/interval_coverage.py [--suites 4000]

A paired difference is an effect of its prompt plus one of its seed. Each suite draws both anew, and the true gain, the
mean over all prompts, is 0. `share` is the prompts' part of the variance of a difference. Effects are normal or, where
it says skewed, exponential. Intervals over images and over prompts are computed by `mean_interval`; the percentile
bootstrap draws prompts with replacement.

The second table is of a set score: the Fréchet distance of feature vectors to references, of a merge less that of its
parent. The truth is the mean over all suites of that size.

The third is of races, which ask about the suite itself: how often a merge that is exactly as good as the best on the
whole suite is stopped, if one look may stop 5 %.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from optimizer.trial.evidence import Evidence
from optimizer.trial.gains import difference_interval
from optimizer.trial.objective import Scores, Term
from optimizer.trial.racing import Race
from optimizer.trial.standard_errors import mean_interval
from scorers.distances.distance import frechet_distance, frechet_reference
from studies.records.values import Basis

Array = NDArray[np.float64]
Numbers = NDArray[np.int64]
Effects = Callable[[np.random.Generator, tuple[int, ...]], Array]

SUITES = ((2, 4), (3, 4), (4, 4), (8, 1), (8, 4), (8, 8), (16, 4), (32, 2))  # prompts, seeds
SHARES = (0.0, 0.2, 0.5, 0.9)
DRAWS = 500  # of the percentile bootstrap
FEATURES, REFERENCES = 64, 300  # of the set score
SETS = ((4, 4), (8, 4), (16, 2))
RACED, BATCH = (16, 4), 16
DISTANCE = (Term("distance", 1.0),)
SCORE = (Term("score", 1.0),)


def normal(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Draw effects of variance 1."""
    return generator.normal(size=shape)


def skewed(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Draw effects of variance 1 with a long upper tail."""
    return generator.exponential(size=shape) - 1.0


def differences(
    generator: np.random.Generator, prompts: int, seeds: int, share: float, effects: Effects = normal
) -> tuple[Array, Numbers]:
    """Draw paired differences whose true mean is 0, and the number of each one's prompt: [prompts * seeds] each."""
    of_prompts = np.repeat(effects(generator, (prompts,)), seeds)
    of_seeds = generator.normal(size=prompts * seeds)
    return np.sqrt(share) * of_prompts + np.sqrt(1 - share) * of_seeds, np.repeat(np.arange(prompts), seeds)


def covers(low: float | None, high: float | None, truth: float = 0.0) -> bool:
    """Return whether an interval has the truth in it."""
    return low is not None and high is not None and low <= truth <= high


def percentile(generator: np.random.Generator, values: Array, prompts: int) -> tuple[float, float]:
    """Return the interval between percentiles of means over prompts that are drawn with replacement."""
    means = values.reshape(prompts, -1).mean(axis=1)
    drawn = means[generator.integers(0, prompts, (DRAWS, prompts))].mean(axis=1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)


def image_coverage(suites: int, prompts: int, seeds: int, share: float, effects: Effects, weighted: bool) -> Array:
    """Return how often intervals over images, by the percentile bootstrap and over prompts cover the truth."""
    generator = np.random.default_rng(0)
    weights = np.repeat(np.where(np.arange(prompts) < prompts // 4, 4.0, 1.0), seeds) if weighted else None
    found = []
    for _ in range(suites):
        values, numbers = differences(generator, prompts, seeds, share, effects)
        images = mean_interval([values], weights)[1:]
        over_prompts = mean_interval([values], weights, numbers)[1:]
        drawn = (None, None) if weighted else percentile(generator, values, prompts)
        found.append((covers(*images), covers(*drawn), covers(*over_prompts)))
    shares: Array = np.mean(found, axis=0)
    return shares


def print_image_coverage(suites: int) -> None:
    """Print the first table."""
    print("| prompts x seeds | share | over images (before) | bootstrap of prompts | over prompts (now) |")
    print("|---|---|---|---|---|")
    cells = [(prompts, seeds, share, normal, False) for share in SHARES for prompts, seeds in SUITES]
    cells += [(prompts, 4, 0.5, skewed, False) for prompts in (4, 8, 16)]
    cells += [(prompts, 4, 0.5, normal, True) for prompts in (8, 16)]
    for prompts, seeds, share, effects, weighted in cells:
        images, drawn, over_prompts = image_coverage(suites, prompts, seeds, share, effects, weighted)
        note = (" skewed" if effects is skewed else "") + (", a quarter counts 4 times" if weighted else "")
        of_bootstrap = "" if weighted else f"{drawn:.1%}"
        print(
            f"| {prompts} x {seeds} | {share:g}{note} | {images:.1%} | {of_bootstrap} | {over_prompts:.1%} |",
            flush=True,
        )


class Distances:
    """The Fréchet distance of feature vectors to references."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        references = np.random.default_rng(1).normal(size=(REFERENCES, FEATURES))
        self._reference = frechet_reference(torch.from_numpy(references))

    def of(self, features: Array) -> float:
        """Return the distance of features, [images, d]."""
        return frechet_distance(torch.from_numpy(features), self._reference)

    def evidence(self, features: Array, numbers: Numbers) -> Evidence:
        """Return the evidence of a trial with these features, [images, d]."""
        scores = Scores(by_item={}, by_set={"distance": self.of(features)}, prompts=numbers)
        return Evidence(
            items=len(features), scores=scores, resampled={"distance": lambda rows: self.of(features[rows])}
        )

    def bootstrap(
        self, generator: np.random.Generator, sides: Sequence[Array], prompts: int, *, by_prompt: bool
    ) -> tuple[float, float]:
        """Return Student's t interval of a difference with the error of a bootstrap."""
        units = np.arange(len(sides[0])).reshape(prompts if by_prompt else -1, -1 if by_prompt else 1)
        count = len(units)
        drawn = []
        for _ in range(200):
            rows = units[generator.integers(0, count, count)].ravel()
            drawn.append(self.of(sides[0][rows]) - self.of(sides[1][rows]))
        error = float(np.std(drawn, ddof=1) * np.sqrt(count / (count - 1)) * stats.t.ppf(0.975, count - 1))
        value = self.of(sides[0]) - self.of(sides[1])
        return value - error, value + error


def features_of(generator: np.random.Generator, prompts: int, seeds: int, share: float) -> list[Array]:
    """Draw the features of a merge and of its parent, [images, d] each: prompts and noise are the same for both."""

    def drawn() -> Array:
        of_prompts = np.repeat(generator.normal(size=(prompts, FEATURES)), seeds, axis=0)
        of_seeds = generator.normal(size=(prompts * seeds, FEATURES))
        both: Array = np.sqrt(share) * of_prompts + np.sqrt(1 - share) * of_seeds
        return both

    common, own, parents = drawn(), drawn(), drawn()
    return [common + 0.5 * own, 0.3 + common + 0.5 * parents]


def set_coverage(suites: int, prompts: int, seeds: int, share: float) -> Array:
    """Return how often intervals by bootstraps over images and prompts, and by the jackknife, cover the truth."""
    generator, distances = np.random.default_rng(2), Distances()
    numbers = np.repeat(np.arange(prompts), seeds)
    pairs = [features_of(generator, prompts, seeds, share) for _ in range(4 * suites)]
    truth = float(np.mean([distances.of(merge) - distances.of(parent) for merge, parent in pairs]))
    found = []
    for pair in pairs[:suites]:
        sides = [distances.evidence(side, numbers) for side in pair]
        found.append(
            (
                covers(*distances.bootstrap(generator, pair, prompts, by_prompt=False), truth),
                covers(*distances.bootstrap(generator, pair, prompts, by_prompt=True), truth),
                covers(*difference_interval(sides[0], sides[1], DISTANCE), truth),
            )
        )
    shares: Array = np.mean(found, axis=0)
    return shares


def print_set_coverage(suites: int) -> None:
    """Print the second table."""
    print("| prompts x seeds | share | bootstrap of images (before) | bootstrap of prompts | prompts left out (now) |")
    print("|---|---|---|---|---|")
    for share in (0.2, 0.5):
        for prompts, seeds in SETS:
            cells = " | ".join(f"{each:.1%}" for each in set_coverage(suites, prompts, seeds, share))
            print(f"| {prompts} x {seeds} | {share:g} | {cells} |", flush=True)


def stopped(suites: int, share: float, basis: Basis) -> float:
    """Return how often the first look of a race stops a merge that is as good as the best on the whole suite."""
    generator, (prompts, seeds) = np.random.default_rng(3), RACED
    wrong = 0
    for _ in range(suites):
        values, numbers = differences(generator, prompts, seeds, share)
        values -= values.mean()
        whole = Scores(
            by_item={"score": np.zeros(values.size)}, by_set={}, prompts=numbers if basis == "prompts" else None
        )
        wrong += not _first_look(generator, values, whole, basis)
    return wrong / suites


def _first_look(generator: np.random.Generator, values: Array, whole: Scores, basis: Basis) -> bool:
    seen = sorted(generator.permutation(values.size)[:BATCH].tolist())
    best = Evidence(items=values.size, scores=whole)
    trial = Evidence(items=values.size, scores=Scores(by_item={"score": values}, by_set={}, prompts=whole.prompts))
    if basis == "images":
        race = Race(incumbent=0, objective=0.0, evidence=best, terms=SCORE, confidence=0.95, looks=1)
        return race.goes_on(seen, trial.part(seen))
    _, high = difference_interval(trial.part(seen), best.part(seen), SCORE, 0.9)
    mean = float(values[seen].mean())
    return high is None or mean + (high - mean) * np.sqrt(1 - BATCH / values.size) >= 0


def print_races(suites: int) -> None:
    """Print the third table."""
    print("| prompts x seeds | share | stopped over images (now) | stopped over prompts |")
    print("|---|---|---|---|")
    for share in SHARES:
        images, prompts = stopped(suites, share, "images"), stopped(suites, share, "prompts")
        print(f"| {RACED[0]} x {RACED[1]} | {share:g} | {images:.1%} | {prompts:.1%} |", flush=True)


def main() -> None:
    """Print the three tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--suites", type=int, default=4000, help="simulated suites for each row; of sets an eighth")
    suites = parser.parse_args().suites
    print_image_coverage(suites)
    print()
    print_set_coverage(max(1, suites // 8))
    print()
    print_races(suites)


if __name__ == "__main__":
    main()
