"""Dynamic prompts: variants `{a|b}` and wildcards `__animal__`, expanded once by seed when a spec is read.

The grammar is that of the extension sd-dynamic-prompts, without its variables and templates with parameters:
    {a|b|c}             one of them; {0.5::a|b} with weights, 1 where none is written
    {2$$a|b|c}          two different ones, joined by a comma; {1-2$$a|b}, {2$$ and $$a|b} with another text between
    __animal__          a line of animal.txt in the folder of wildcards; __sub/*__ a line of any file that matches
    \\{ \\} \\|            the characters themselves
Options and lines may hold variants and wildcards in turn. In a file, empty lines and those that begin with # do not
count, and a line may have a weight: `3::cat`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from pydantic import Field, ValidationError

from basics import foreign
from basics.messages import first_line, nearest
from basics.names import from_home
from basics.settings import FrozenSettings, explain

DEPTH: Final = 20  # of variants and wildcards within each other
MOST_CHARACTERS: Final = 20_000  # of an expanded prompt
FILE_BYTES: Final = 4_000_000
MOST_FILES: Final = 10_000
TRIES: Final = 50  # for each prompt that is to differ from those before

_WILDCARD: Final = re.compile(r"__([\w\-./*]+?)__(?!_)")
_WEIGHT: Final = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)::")
_COUNT: Final = re.compile(r"\s*(?:(\d+)|(\d*)-(\d*))\$\$(?:([^$|{}]*)\$\$)?")
_SIGNS: Final = re.compile(r"\\[{}|]|[{}|]|\$\{")
_WITH_PARAMETERS: Final = re.compile(r"__[\w\-./*]+?\(")


class DynamicSettings(FrozenSettings):
    """How the prompts of a suite are expanded."""

    seed: int = Field(default=0, ge=0, lt=2**63)
    count: int = Field(default=1, ge=1, le=1000)  # different prompts made of each that is written


def expand_spec(data: Any, base_dir: Path) -> Any:
    """Expand the prompts of a spec's suite and final, where the suite has `dynamic` or `wildcards`.

    Raises:
        ValueError: a prompt or a wildcard cannot be read.
    """
    suite = data.get("suite") if isinstance(data, Mapping) else None
    if not isinstance(suite, Mapping) or not {"dynamic", "wildcards"} & suite.keys():
        return data
    kept = {key: value for key, value in suite.items() if key not in {"dynamic", "wildcards"}}
    if suite.get("dynamic") is False:
        return {**data, "suite": kept}
    expansion = _Expansion(
        settings=_settings(suite.get("dynamic")),
        wildcards=_wildcards(suite.get("wildcards"), base_dir),
        negative=suite.get("negative", ""),
    )
    changed = {**data, "suite": {**kept, "prompts": expansion.prompts(kept.get("prompts"))}}
    if isinstance(expansion.negative, str):  # each prompt has its own by now, and the suite's is for none of them
        changed["suite"]["negative"] = expansion.alone(expansion.negative)
    final = data.get("final")
    if isinstance(final, Mapping) and final.get("prompts") is not None:
        changed["final"] = {**final, "prompts": expansion.prompts(final["prompts"])}
    return changed


def _settings(value: Any) -> DynamicSettings:
    try:
        return DynamicSettings.model_validate({} if value is None or value is True else value)
    except ValidationError as error:
        raise ValueError(f"suite.dynamic: {explain(error, DynamicSettings)}") from error


def _wildcards(value: Any, base_dir: Path) -> Wildcards | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError(f"suite.wildcards: expected a folder, got {value!r}")
    folder = base_dir / from_home(Path(value))
    if not folder.is_dir():
        raise ValueError(f"suite.wildcards: {folder} is no folder: give the folder of the wildcards' .txt files")
    return Wildcards(folder)


@dataclass(frozen=True)
class _Expansion:
    """The expansion of all prompts of a spec."""

    settings: DynamicSettings
    wildcards: Wildcards | None
    negative: Any  # of the suite

    def prompts(self, prompts: Any) -> Any:
        """Return a list of prompts with each expanded `count` times, as far as there are so many different ones."""
        if not isinstance(prompts, (list, tuple)):
            return prompts
        return [expanded for prompt in prompts for expanded in self._expanded(prompt)]

    def _expanded(self, prompt: Any) -> list[Any]:
        if isinstance(prompt, str):
            prompt = {"prompt": prompt}
        if not isinstance(prompt, Mapping):
            return [prompt]
        if not isinstance(prompt.get("prompt"), str):  # that of a picture, which is not written here, or a mistake
            negative = prompt.get("negative")
            return [{**prompt, "negative": self.alone(negative)} if isinstance(negative, str) else prompt]
        has_own = prompt.get("negative") is not None  # an empty key is none
        written, negative = prompt["prompt"], prompt["negative"] if has_own else self.negative
        found: dict[tuple[str, str], Any] = {}
        for number in range(TRIES * self.settings.count):
            choice = self._choice(written, number)
            text = expand(written, choice, self.wildcards)
            against = expand(negative, choice, self.wildcards) if isinstance(negative, str) else negative
            own = {} if against == self.negative and not has_own else {"negative": against}
            found.setdefault((text, str(against)), {**prompt, "prompt": text, **own})
            if len(found) == self.settings.count:
                break
        return list(found.values())

    def alone(self, text: str) -> str:
        """Return a text that belongs to no prompt with its variants and wildcards replaced."""
        return expand(text, self._choice(text, 0), self.wildcards)

    def _choice(self, written: str, number: int) -> random.Random:
        return random.Random(f"{self.settings.seed}/{written}/{number}")  # noqa: S311 - no secret


class Wildcards:
    """The text files of a folder and its sub-folders, by their paths without the suffix."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lines: dict[str, tuple[tuple[float, str], ...]] = {}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """All names, in order."""
        files = sorted(path for path in self._folder.rglob("*.txt") if path.is_file())
        if len(files) > MOST_FILES:
            raise ValueError(f"suite.wildcards: {self._folder} has more than {MOST_FILES:,} text files")
        return tuple(path.relative_to(self._folder).with_suffix("").as_posix() for path in files)

    def options(self, name: str) -> tuple[tuple[float, str], ...]:
        """Return weight and text of each line of the files that a name means.

        Raises:
            ValueError: there is none.
        """
        matching = [each for each in self.names if fnmatchcase(each.casefold(), name.casefold())]
        if not matching:
            close = nearest(name, self.names)
            advice = f"did you mean __{close[0]}__?" if close else f"{self._folder} has {len(self.names)} of them"
            raise ValueError(f"there is no wildcard __{name[:60]}__: {advice}")
        found = tuple(option for each in matching for option in self._read(each))
        if not found:
            raise ValueError(f"wildcard __{name}__ has no lines: write one text a line")
        return found

    def _read(self, name: str) -> tuple[tuple[float, str], ...]:
        if name not in self._lines:
            path = self._folder / f"{name}.txt"
            try:
                lines = foreign.read_bytes(path, FILE_BYTES).decode("utf-8-sig").splitlines()
            except (OSError, ValueError) as error:
                raise ValueError(f"wildcard {path} cannot be read: {first_line(error)}") from error
            written = [line.strip() for line in lines]
            self._lines[name] = tuple(_weighted(line) for line in written if line and not line.startswith("#"))
        return self._lines[name]


def expand(text: str, choice: random.Random, wildcards: Wildcards | None = None, depth: int = 0) -> str:
    """Return a text with its variants and wildcards replaced by what is drawn.

    Raises:
        ValueError: a brace is not closed, a wildcard is not known, or they contain each other without an end.
    """
    if depth > DEPTH:
        raise ValueError(f"variants or wildcards are nested more than {DEPTH} deep, or contain themselves")
    parts: list[str] = []
    place = 0
    while place < len(text):
        wildcard = _WILDCARD.match(text, place)
        if text[place] == "\\" and text[place + 1 : place + 2] in {"{", "}", "|"}:
            parts.append(text[place + 1])
            place += 2
        elif text[place] == "{":
            end = _closing(text, place)
            parts.append(_variant(text[place + 1 : end], choice, wildcards, depth))
            place = end + 1
        elif wildcard is not None:
            drawn = _draw(_options(wildcard[1], wildcards), 1, choice)
            parts += [expand(each, choice, wildcards, depth + 1) for each in drawn]
            place = wildcard.end()
        else:
            _refuse(text, place)
            parts.append(text[place])
            place += 1
    if sum(map(len, parts)) > MOST_CHARACTERS:
        raise ValueError(f"an expanded prompt has more than {MOST_CHARACTERS:,} characters")
    return "".join(parts)


def _refuse(text: str, place: int) -> None:
    """Refuse what the grammar has no meaning for here.

    Raises:
        ValueError: a closing brace that nothing opens, a variable, or a wildcard with parameters.
    """
    sign = _SIGNS.match(text, place) or _WITH_PARAMETERS.match(text, place)
    if sign is None or sign[0] == "|":
        return
    if sign[0] == "}":
        raise ValueError(f"a }} closes nothing in {_shown(text)}: write \\}} for the character itself")
    raise ValueError(f"variables and wildcards with parameters are not read: {_shown(text[place:])}")


def _closing(text: str, begin: int) -> int:
    """Return where the brace that is opened at `begin` is closed."""
    if text[begin - 1 : begin] == "$":
        raise ValueError(f"variables are not read: {_shown(text[begin - 1 :])}")
    open_braces = 0
    for sign in _SIGNS.finditer(text, begin):
        open_braces += sign[0].endswith("{") and not sign[0].startswith("\\")
        open_braces -= sign[0] == "}"
        if not open_braces:
            return sign.start()
    raise ValueError(f"a {{ is not closed in {_shown(text)}: write \\{{ for the character itself")


def _variant(inner: str, choice: random.Random, wildcards: Wildcards | None, depth: int) -> str:
    low, high, between = 1, 1, ", "
    counted = _COUNT.match(inner)
    if counted is not None:
        exact, least, most, written = counted.groups()
        low = int((exact if exact is not None else least) or 1)
        high = int((exact if exact is not None else most) or 10**6)
        between = ", " if written is None else written
        inner = inner[counted.end() :]
    options = [_weighted(option) for option in _split(inner)]
    only = _WILDCARD.fullmatch(options[0][1].strip())
    if len(options) == 1 and only is not None:  # different lines of one file
        options = list(_options(only[1], wildcards))
    high = min(high, len(options))
    count = min(low, high) + int(choice.random() * (high - min(low, high) + 1))
    drawn = _draw(options, count, choice)
    return between.join(expand(each, choice, wildcards, depth + 1) for each in drawn)


def _split(inner: str) -> list[str]:
    """Split the inside of a variant at the bars that are not inside another one."""
    cuts, open_braces = [-1], 0
    for sign in _SIGNS.finditer(inner):
        open_braces += sign[0].endswith("{") and not sign[0].startswith("\\")
        open_braces -= sign[0] == "}"
        if sign[0] == "|" and not open_braces:
            cuts.append(sign.start())
    return [inner[begin + 1 : end] for begin, end in zip(cuts, [*cuts[1:], len(inner)], strict=True)]


def _weighted(option: str) -> tuple[float, str]:
    weight = _WEIGHT.match(option)
    return (1.0, option) if weight is None else (float(weight[1]), option[weight.end() :])


def _options(name: str, wildcards: Wildcards | None) -> Sequence[tuple[float, str]]:
    if wildcards is None:
        raise ValueError(f"__{name[:60]}__ is a wildcard: give the folder of its file as `suite.wildcards`")
    return wildcards.options(name)


def _draw(options: Sequence[tuple[float, str]], count: int, choice: random.Random) -> list[str]:
    """Draw different options by their weights. Those of weight 0 are never drawn."""
    left = [option for option in options if option[0] > 0]
    drawn: list[str] = []
    while left and len(drawn) < count:
        mark = choice.random() * sum(weight for weight, _ in left)
        place = 0
        while place < len(left) - 1 and mark >= left[place][0]:
            mark -= left[place][0]
            place += 1
        drawn.append(left.pop(place)[1])
    return drawn


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
