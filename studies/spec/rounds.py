"""The rounds of a bracket: which suite its checkpoints render in each of them.

A bracket is read from a spec whose parents do not matter, as the checkpoints that compete are named beside it. Its
`rounds` say what a round has otherwise than the spec's `suite`. What they leave open changes from round to round:

    subjects  each round has a part of the prompts, dealt out in turn, where that leaves enough for each
    noise     each round has seeds of its own, which are neither the suite's nor those of its final. So a search among
              the winners begins on noise that chose none of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from basics.settings import explain
from studies.errors import SpecError
from studies.spec.final import FinalSettings, unseen_shift
from studies.spec.own_settings import for_all_prompts
from studies.spec.study import LONGEST_NAME, StudySpec, checked_spec
from studies.spec.suite import SuitePrompt, SuiteSettings
from studies.system.documents import parse_yaml, read_text

FEWEST_DEALT: Final = 4  # prompts of a round; with fewer, every round has them all
WINNERS: Final = "-winners"
# Of a spec that names none.
SCORERS: Final[Mapping[str, None]] = {"aesthetic": None, "clip_score": None}


@dataclass(frozen=True, kw_only=True)
class RoundSettings:
    """What the spec says of a round."""

    suite: SuiteSettings  # the spec's, with the settings that the round names
    named: frozenset[str] = frozenset()  # settings that the round names


@dataclass(frozen=True, kw_only=True)
class BracketSpec:
    """A spec as a bracket reads it."""

    spec: StudySpec  # its parents are the checkpoints that would win if the order in which they were given decided
    rounds: tuple[RoundSettings, ...]  # of the first rounds; those after them follow the suite
    notes: tuple[str, ...]  # what the user should know of it, one line each

    def suites(self, count: int) -> tuple[SuiteSettings, ...]:
        """Return the suite of each of `count` rounds.

        Raises:
            SpecError: two rounds would render the same, or a round has no image.
        """
        suites = tuple(self._suites(count))
        for later, suite in enumerate(suites):
            for earlier in range(later):
                if suites[earlier].digest == suite.digest:
                    raise SpecError(
                        f"rounds: round {later + 1} would render the same as round {earlier + 1}: give it other "
                        "prompts, seeds or settings, or leave its seeds out"
                    )
        return suites

    def _suites(self, count: int) -> Iterator[SuiteSettings]:
        seen = {item.seed for suite in (self.spec.suite, self.spec.held_out) for item in suite.items()}
        for number in range(count):
            given = self.rounds[number] if number < len(self.rounds) else RoundSettings(suite=self.spec.suite)
            suite = _suite_of_round(given, number, count, seen)
            seen |= {item.seed for item in suite.items()}
            yield suite

    def of_round(self, suite: SuiteSettings) -> StudySpec:
        """Return the spec with a round's suite, whose settings of a search say nothing about it."""
        return self.spec.model_copy(update={"suite": suite, "final": FinalSettings(), "racing": None})

    def require_one_number(self) -> None:
        """Refuse several objectives, of which none says who is ahead.

        Raises:
            SpecError: the spec has several.
        """
        if self.spec.objectives is not None:
            raise SpecError(
                "a bracket compares by one number, and the spec has several `objectives`: combine its scorers under "
                "`objective`, or judge with --by eye"
            )
        if self.spec.constraints:
            raise SpecError(
                "a bracket keeps no `constraints`, so one that breaks them could win: remove them for the bracket, or "
                "judge with --by eye"
            )

    def among(self, parents: Sequence[Path]) -> StudySpec:
        """Return the spec of the search among some of the checkpoints.

        Raises:
            SpecError: its steps are of another number of parents.
        """
        name = self.spec.study
        data = self.spec.model_dump(mode="json", exclude_unset=True) | {
            "study": name if name.endswith(WINNERS) else name[: LONGEST_NAME - len(WINNERS)] + WINNERS,
            "parents": [str(path) for path in parents],
        }
        try:
            return StudySpec.model_validate(data)
        except ValidationError as error:
            raise SpecError(
                f"with {len(parents)} winners as parents: {explain(error, StudySpec)}; give another number with "
                "--winners"
            ) from error


def _suite_of_round(given: RoundSettings, number: int, count: int, seen: set[int]) -> SuiteSettings:
    """Return the suite of a round.

    Args:
        number: from 0.
        count: of rounds.
        seen: the seeds that it must not have, unless it names them.
    """
    suite, times = given.suite, 1
    if "prompts" not in given.named and _can_be_dealt(suite, count):
        suite, times = suite.model_copy(update={"prompts": suite.prompts[number::count]}), count
    if "seeds" in given.named:
        return suite
    fresh = _FreshSeeds(suite, seen, times, keeps="prompts" in given.named)
    changes = {"prompts": [prompt.model_dump() for prompt in map(fresh.of_prompt, suite.prompts)]}
    return SuiteSettings.model_validate(suite.model_dump() | changes | {"seeds": fresh.of(suite.seeds)})


def _can_be_dealt(suite: SuiteSettings, count: int) -> bool:
    """Return whether each round can have a part of the prompts: enough of them, which all count alike."""
    return len(suite.prompts) >= FEWEST_DEALT * count and suite.counts_alike


class _FreshSeeds:
    """Seeds for a round that no other has.

    Args:
        times: how many seeds take the place of each, so that a round with a part of the prompts has as many images.
        keeps: whether prompts keep seeds of their own, which the round names.
    """

    def __init__(self, suite: SuiteSettings, seen: set[int], times: int, *, keeps: bool) -> None:
        own = {item.seed for item in suite.items()} | set(suite.seeds)
        known, self._shifts, self._keeps = seen | own, list[int](), keeps
        for _ in range(times):
            self._shifts.append(unseen_shift(known))
            known |= {seed + self._shifts[-1] for seed in own}

    def of(self, seeds: Sequence[int]) -> tuple[int, ...]:
        return tuple((seed + shift) % 2**63 for seed in seeds for shift in self._shifts)

    def of_prompt(self, prompt: SuitePrompt) -> SuitePrompt:
        if prompt.seeds is None or self._keeps:
            return prompt
        return prompt.model_copy(update={"seeds": self.of(prompt.seeds)})


# ------------------------------------------------------------------------------------------ reading


def read_bracket(file: Path, parents: Sequence[Path]) -> BracketSpec:
    """Read the spec of a bracket, which may leave out `study`, `parents` and `scorers`.

    Args:
        parents: two or more checkpoints, to check settings that depend on their number.

    Raises:
        SpecError: as for `load_spec`, or its `rounds` cannot be used.
    """
    text = read_text(file, "spec", "a YAML file with a `suite`", SpecError)
    data = parse_yaml(text, file.name, SpecError)
    if not isinstance(data, dict):
        raise SpecError(f"{file.name} contains no settings: expected `suite:`, and perhaps `scorers:` and `rounds:`")
    return bracket_of(data, parents, text=text, base_dir=file.resolve().parent, origin=file.name)


def bracket_of(
    data: Mapping[str, Any],
    parents: Sequence[Path],
    *,
    text: str = "",
    base_dir: Path = Path("/"),
    origin: str = "spec",
) -> BracketSpec:
    """Check the settings of a bracket.

    Args:
        data: the settings, as YAML has them.
        parents: as for `read_bracket`.
        text: that they were read from, for messages.
        base_dir: the folder of relative paths.
        origin: the text's name, for messages.

    Raises:
        SpecError: as for `read_bracket`.
    """
    written = {"study": "bracket", "scorers": dict(SCORERS), **data, "parents": [str(path) for path in parents]}
    entries = _entries(written.pop("rounds", None), origin)
    read = checked_spec(written, text, base_dir=base_dir, origin=origin)
    rounds = []
    for number, entry in enumerate(entries, start=1):
        of_round = {**written, "suite": {**written["suite"], **entry}, "racing": None}
        found = checked_spec(of_round, text, base_dir=base_dir, origin=f"{origin}: round {number}")
        suite = found.spec.suite if "prompts" in entry else _for_all_prompts(found.spec.suite, entry, number)
        rounds.append(RoundSettings(suite=suite, named=frozenset(entry)))
    return BracketSpec(spec=read.spec, rounds=tuple(rounds), notes=read.notes)


def _for_all_prompts(suite: SuiteSettings, named: Iterable[str], number: int) -> SuiteSettings:
    """Return the suite of a round whose settings hold for prompts too that have a value of their own.

    Args:
        named: the settings that the round names.
        number: of the round, for messages.

    Raises:
        SpecError: two prompts that differ in these settings alone are the same then.
    """
    try:
        return for_all_prompts(suite, named)
    except ValidationError as error:
        raise SpecError(f"rounds: round {number}: {explain(error, SuiteSettings)}") from error


def _entries(rounds: Any, origin: str) -> list[dict[str, Any]]:
    """Return the settings of each round that is named, in order.

    Raises:
        SpecError: `rounds` is no list of settings.
    """
    entries = [] if rounds is None else rounds
    if not isinstance(entries, list) or not all(each is None or isinstance(each, dict) for each in entries):
        raise SpecError(
            f"{origin}: `rounds`: expected a list with settings of the suite for each round, such as "
            "`- {steps: 30, cfg: 5}`; an empty entry `- {}` leaves a round as it is"
        )
    return [each or {} for each in entries]
