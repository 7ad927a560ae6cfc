"""What is wrong with a text that is no YAML, in words for its writer: where it is, what it is, and what to do.

PyYAML says what its parser expected and found, and marks where it gave up. What the writer did is often elsewhere: a
bracket that is never closed is noticed at the next colon, a missing colon in the line after.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import yaml
from yaml.error import Mark, MarkedYAMLError
from yaml.reader import ReaderError
from yaml.tokens import (
    FlowMappingEndToken,
    FlowMappingStartToken,
    FlowSequenceEndToken,
    FlowSequenceStartToken,
    ScalarToken,
    Token,
)

FIRST: Final = "put a text in quotes that begins with @ [ { ` % * & ! | > or a quotation mark"
COLON: Final = "put a text that contains a colon and a space in quotes"
COMMA: Final = "put a text that contains a comma, a bracket or a # in quotes"
KEY: Final = re.compile(r"[^#'\"\[{]*:(\s|$)")  # at a line's begin: a key and its colon
SHOWN: Final = 40  # characters of a line in a message
CLOSING: Final = {"[": "]", "{": "}"}
END: Final = "<stream end>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What is wrong in a text, and where: `line` and `column` count from 1."""

    line: int
    column: int
    words: str


def fault_in(error: yaml.YAMLError, text: str) -> Fault | None:
    """Return what is wrong with a text, and where; None where PyYAML does not say where.

    Args:
        error: what PyYAML raised for the text.
    """
    if isinstance(error, ReaderError):
        before = text[: error.position]
        words = f"the character U+{ord(text[error.position]):04X} is not allowed: remove it"
        return Fault(line=before.count("\n") + 1, column=len(before) - before.rfind("\n"), words=words)
    if not isinstance(error, MarkedYAMLError) or error.problem_mark is None:
        return None
    mark, words = next(_findings(_Place(error, text)), (error.problem_mark, str(error.problem)))
    return Fault(line=mark.line + 1, column=mark.column + 1, words=words)


Finding = tuple[Mark, str]


class _Place:
    """What PyYAML says of a text, and where it gave up.

    Args:
        error: with a mark.
        text: whole.
    """

    def __init__(self, error: MarkedYAMLError, text: str) -> None:
        self.problem, self.context = str(error.problem), str(error.context or "")
        self.mark: Mark = error.problem_mark  # type: ignore[assignment] # it has one
        self.begin: Mark = error.context_mark or self.mark  # of what was being read
        self.text, self.lines = text, [*text.split("\n"), ""]

    @property
    def line(self) -> str:
        """The line in which the reading ended."""
        return self.lines[self.mark.line]

    @property
    def found(self) -> str:
        """What was found there, in PyYAML's words; empty where it does not say."""
        named = re.search(r"(?:but (?:found|got)|found character) '(.*?)'", self.problem)
        return named[1] if named is not None else ""

    @property
    def is_at_end(self) -> bool:
        return not self.text[self.mark.index :].strip()


def _findings(place: _Place) -> Iterator[Finding]:
    """Yield explanations, the surest first."""
    for explain in EXPLAINERS:
        if (found := explain(place)) is not None:
            yield found


def _tab(place: _Place) -> Finding | None:
    """Explain a tab before a line's text; PyYAML stumbles over it there, or over what it does to the indentation."""
    indentation = place.line[: len(place.line) - len(place.line.lstrip())]
    if place.found != r"\t" and "\t" not in indentation:
        return None
    return place.mark, "there is a tab, which YAML does not take for indentation: indent with spaces"


def _unclosed_quote(place: _Place) -> Finding | None:
    """Explain a quotation mark that is never closed, or only by one that was to begin another text."""
    if "quoted scalar" in place.context and "unexpected" in place.problem:
        sign = place.text[place.begin.index]
        return place.begin, f"the quotation mark {sign} is never closed: add another at the end of the text"
    quoted = _quoted_before(place)
    if quoted is None or not place.problem.endswith("'<scalar>'"):
        return None
    sign = quoted.style
    if quoted.start_mark.line != quoted.end_mark.line:
        words = f"the text that this {sign} begins goes on to line {quoted.end_mark.line + 1}: close it where it ends"
        return quoted.start_mark, words
    if "flow" in place.context and place.text[place.mark.index] in {"'", '"'}:
        return None  # two texts, of which the first is closed
    doubled = "or write ' twice for an apostrophe" if sign == "'" else 'or write \\" for a quotation mark in it'
    return place.mark, f"the text goes on after its closing {sign}: {FIRST}, {doubled}"


def _quoted_before(place: _Place) -> ScalarToken | None:
    """Return the text in quotes that ends where the reading ended."""
    *_, last = None, *_tokens_before(place)
    return last if isinstance(last, ScalarToken) and last.style in {"'", '"'} else None


def _tokens_before(place: _Place) -> Iterator[Token]:
    """Yield what the text consists of, up to where the reading ended."""
    try:
        for token in yaml.scan(place.text, Loader=yaml.SafeLoader):
            if token.end_mark.index > place.mark.index:
                break
            yield token
    except yaml.YAMLError:  # this far it was read before
        pass


def _unclosed_bracket(place: _Place) -> Finding | None:
    """Explain a list or mapping in brackets that goes on where none is meant."""
    opened = _open_bracket(place) if place.context.startswith("while parsing a flow") else None
    if opened is None:
        return None
    sign = place.text[opened.index]
    if place.found in {":", END} and (place.is_at_end or opened.line != place.mark.line):
        cut = f"; or {COMMA}" if "#" in place.lines[opened.line][opened.column :] else ""
        return opened, f"the bracket {sign} is never closed: add {CLOSING[sign]} at its end{cut}"
    if place.found == ":":
        return place.mark, f"a colon within brackets makes a mapping of the text: {COLON}"
    return place.mark, f"a comma or the closing {CLOSING[sign]} is missing before this; or {COMMA}"


def _open_bracket(place: _Place) -> Mark | None:
    """Return where the innermost bracket is that is open where the reading ended."""
    opened: list[Mark] = []
    for token in _tokens_before(place):
        if isinstance(token, (FlowSequenceStartToken, FlowMappingStartToken)):
            opened.append(token.start_mark)
        elif isinstance(token, (FlowSequenceEndToken, FlowMappingEndToken)) and opened:
            opened.pop()
    return opened[-1] if opened else None


def _unopened_bracket(place: _Place) -> Finding | None:
    if place.found not in {"]", "}"} or "<block end>" not in place.problem:
        return None
    return place.mark, f"the bracket {place.found} closes none that is open: remove it, or {COMMA}"


def _missing_colon(place: _Place) -> Finding | None:
    if place.problem != "could not find expected ':'":
        return None
    written = place.lines[place.begin.line].strip()
    shown = written if len(written) <= SHOWN else f"{written[:SHOWN]}..."
    return place.begin, f"`{shown}` has no colon after its key: write `key: value`"


def _second_colon(place: _Place) -> Finding | None:
    """Explain a colon where no key may stand: in a text, or after a line whose indentation makes it a part of one."""
    if not place.problem.startswith("mapping values are not allowed"):
        return None
    before = place.line[: place.mark.column].lstrip().removeprefix("- ")
    if KEY.match(before) or place.mark.line == 0:
        return place.mark, f"a second colon in the line: {COLON}"
    return _wrong_indentation(place)


def _indentation(place: _Place) -> Finding | None:
    if "<block end>" not in place.problem or place.found not in {"<block mapping start>", "<block sequence start>"}:
        return None
    return _wrong_indentation(place)


def _wrong_indentation(place: _Place) -> Finding:
    column = len(place.line) - len(place.line.lstrip())
    above = next((line for line in reversed(range(place.mark.line)) if place.lines[line].strip()), 0)
    width = len(place.lines[above]) - len(place.lines[above].lstrip())
    how = "more" if column > width else "less"
    words = (
        f"the line is indented {how} than line {above + 1} in a way that fits nothing ({column} and {width} spaces): "
        "give lines that belong together the same indentation"
    )
    return place.mark, words


def _mixed(place: _Place) -> Finding | None:
    """Explain a list's entry among keys, or a key among a list's entries."""
    if "<block end>" in place.problem and place.found in {"-", "<block entry>"}:
        return place.mark, "an entry of a list (-) among lines `key: value`: put the list under a key of its own"
    if "<block end>" in place.problem and place.found in {"?", ":"}:
        return place.mark, "a line `key: value` among the entries of a list: give it a - as the others, or move it out"
    if "sequence entries are not allowed" in place.problem:
        return place.mark, f"an entry of a list (-) where none may begin: begin it in a new line, or {FIRST}"
    return None


def _sign(place: _Place) -> Finding | None:
    """Explain a sign that means something to YAML at the begin of a text."""
    if "unknown escape character" in place.problem:
        words = "a backslash within \"...\" needs another before it: write paths in '...', or with /"
        return place.mark, words
    if "another document" in place.problem or "document separator" in place.problem:
        return place.mark, "a second document begins here (---): one file holds one"
    first = ("cannot start any token", "undefined alias", "alphabetic or numeric", "determine a constructor")
    block = ("a comment or a line break", "chomping or indentation", "while scanning a tag", "undefined tag handle")
    said = f"{place.context} {place.problem}"
    if any(words in said for words in (*first, *block)) or place.found in {"<scalar>", ","}:
        sign = place.text[place.mark.index : place.mark.index + 1].strip()
        shown = (
            f"{sign} means something else to YAML here" if sign and not sign.isalnum() else "this is no text to YAML"
        )
        return place.mark, f"{shown}: {FIRST}"
    return None


def _duplicate(place: _Place) -> Finding | None:
    if "given twice" not in place.problem:
        return None
    return place.mark, f"{place.problem}, first in line {place.begin.line + 1}: keep one of them"


EXPLAINERS: Final[tuple[Callable[[_Place], Finding | None], ...]] = (
    _tab,
    _unclosed_quote,
    _unclosed_bracket,
    _unopened_bracket,
    _missing_colon,
    _second_colon,
    _indentation,
    _mixed,
    _sign,
    _duplicate,
)
