"""Constraints: between which values the means of scorers must stay, for a trial to count.

A trial is *feasible* if it keeps every constraint. One that is not comes after every one that is, whatever its
objective; among those that are not, the one whose *violation* is smallest comes first (Deb 2000, "An efficient
constraint handling method for genetic algorithms", Comput. Methods Appl. Mech. Eng. 186).

Notation, for one bound on a scorer:
    s     +1 for a least value, -1 for a largest one, so that s times a score is to be large
    b     the bound
    u     the scorer's unit, in which violations of several scorers are added
    c = (s b - s m) / u     how far a mean m is on the wrong side; feasible for c <= 0
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from studies.spec.study import StudySpec


@dataclass(frozen=True, slots=True)
class Bound:
    """One end of what a scorer's mean must stay between."""

    scorer: str
    sign: float  # s
    value: float  # b
    unit: float  # u

    @property
    def name(self) -> str:
        """What Optuna calls it: `fidelity min`."""
        return f"{self.scorer} {'min' if self.sign > 0 else 'max'}"

    @property
    def words(self) -> str:
        """It in words: `fidelity at least 0.8`."""
        return f"{self.scorer} at {'least' if self.sign > 0 else 'most'} {self.value:g}"

    def excess(self, mean: float) -> float:
        """Return c: how far a mean is on the wrong side, in the scorer's unit; 0 or less where the bound is kept."""
        return self.sign * (self.value - mean) / self.unit


@dataclass(frozen=True, slots=True)
class Constraints:
    """All bounds of a study; without any, every trial is feasible."""

    bounds: tuple[Bound, ...] = ()

    @classmethod
    def of(cls, spec: StudySpec) -> Constraints:
        """Return the constraints of a spec."""
        return cls(tuple(_bounds(spec)))

    @property
    def scorers(self) -> tuple[str, ...]:
        """The scorers that have a bound, each once."""
        return tuple(dict.fromkeys(bound.scorer for bound in self.bounds))

    def known(self, means: Mapping[str, float]) -> dict[str, float]:
        """Return those of some means that a bound is on."""
        return {name: means[name] for name in self.scorers if name in means}

    def excesses(self, means: Mapping[str, float]) -> dict[str, float]:
        """Return bound -> its c, as Optuna takes constraints; a bound on a scorer without a mean is left out."""
        return {bound.name: bound.excess(means[bound.scorer]) for bound in self.bounds if bound.scorer in means}

    def violation(self, means: Mapping[str, float]) -> float:
        """Return by how much all bounds together are broken, in units of their scorers; 0 for a feasible trial."""
        return sum(max(0.0, excess) for excess in self.excesses(means).values())

    def keeps(self, means: Mapping[str, float]) -> bool:
        """Return whether means keep every bound."""
        return all(excess <= 0 for excess in self.excesses(means).values())

    def broken(self, means: Mapping[str, float]) -> list[Bound]:
        """Return the bounds that means break."""
        return [bound for bound in self.bounds if bound.scorer in means and bound.excess(means[bound.scorer]) > 0]

    def breach(self, means: Mapping[str, float]) -> str | None:
        """Say which bounds are broken and by what: `fidelity 0.71 (at least 0.8)`; None where none is."""
        broken = [
            f"{bound.scorer} {means[bound.scorer]:.4g} ({bound.words.removeprefix(f'{bound.scorer} ')})"
            for bound in self.broken(means)
        ]
        return ", ".join(broken) or None

    def in_words(self) -> str:
        """Return every bound in words: `fidelity at least 0.8, sharpness at most 40`."""
        return ", ".join(bound.words for bound in self.bounds)


UNCONSTRAINED: Final = Constraints()


def _bounds(spec: StudySpec) -> Iterator[Bound]:
    for name, constraint in spec.constraints.items():
        unit = spec.scorers[name].info.unit  # not the loaded scorer's: who only reads the study must order trials alike
        if constraint.min is not None:
            yield Bound(name, 1.0, constraint.min, unit)
        if constraint.max is not None:
            yield Bound(name, -1.0, constraint.max, unit)


def nearest(means: Sequence[Mapping[str, float]], constraints: Constraints) -> list[int]:
    """Return the indices of those that are feasible or, where none is, of those whose violation is smallest."""
    violations = [constraints.violation(each) for each in means]
    least = min(violations, default=0.0)
    return [index for index, violation in enumerate(violations) if violation == least]


def feasible_or_all(means: Mapping[str, Mapping[str, float]], constraints: Constraints) -> list[str]:
    """Return the keys of those that are feasible; where none is, all of them.

    Args:
        means: key -> means of scorers.
    """
    return [key for key, each in means.items() if constraints.keeps(each)] or list(means)
