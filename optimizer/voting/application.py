"""The page on which people judge pictures, as a WSGI application: one page, questions and pictures, answers.

The page keeps an answer until it is told that it is stored. So a server that was stopped meanwhile, or a database that
is away, loses none; and the question's token keeps one from being counted twice. Each request names what the page asks
about, so that an answer never goes to another study that is served at the same address later.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, Final

from markupsafe import Markup
from sqlalchemy.exc import SQLAlchemyError

from basics.errors import MergetuneError
from basics.messages import first_line
from basics.names import plain, unseen
from optimizer.observe.http_gate import EVERYWHERE, Environment, StartResponse
from optimizer.observe.http_server import Limits
from optimizer.report.html import digest_of, page_environment, source_of
from optimizer.system.retry import OUTAGES
from optimizer.voting.questions import ANSWERS, Question, Questions
from studies.errors import ArtifactError

LOGGER = logging.getLogger(__name__)

TOKEN: Final = re.compile(r"[0-9a-f]{32}")
IMAGE: Final = re.compile(rf"/image/({TOKEN.pattern})/(left|right)\.png")
MOST_NAME: Final = 100  # characters of a person's name
MOST_BODY: Final = 4 << 10  # bytes of a request
LIMITS: Final = Limits(connections=100, connections_per_address=32, body_bytes=64 << 10, threads=8)


class _Refusal(Exception):  # noqa: N818 - an answer, not an error of ours
    """An answer that is no success."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class VotePage:
    """The WSGI application.

    Args:
        person: the name that the page begins with.
    """

    def __init__(self, questions: Questions, person: str) -> None:
        self._questions, self._person = questions, person
        self._identity = f"{questions.kind}-{questions.identity}"
        self._environment = page_environment("optimizer.voting")
        self._script = source_of(self._environment, "vote.js")
        self._style = source_of(self._environment, "style.css", "vote.css")

    def __call__(self, environment: Environment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        try:
            kind, content, policy = self._answer(environment)
            status = "200 OK"
        except _Refusal as refusal:
            status, kind, content, policy = refusal.status, "application/json", _json({"reason": refusal.message}), None
        except (MergetuneError, SQLAlchemyError, OSError, *OUTAGES) as error:
            LOGGER.warning("a voter's request failed: %s", first_line(error))
            status, kind, policy = "503 Service Unavailable", "application/json", None
            content = _json({"reason": f"not stored yet, and tried again: {first_line(error)}"})
        headers = [
            ("Content-Type", kind),
            ("Content-Length", str(len(content))),
            ("Cache-Control", "no-store"),
            ("Content-Security-Policy", policy or "default-src 'none'; frame-ancestors 'none'"),
            *EVERYWHERE,
        ]
        start_response(status, headers)
        return [content]

    def _answer(self, environment: Environment) -> tuple[str, bytes, str | None]:
        """Return type, content and policy of an answer.

        Raises:
            _Refusal: the request is not one of the page's.
        """
        method, path = str(environment["REQUEST_METHOD"]), str(environment.get("PATH_INFO", ""))
        if method in ("GET", "HEAD"):
            if path == "/":
                return "text/html; charset=utf-8", *self._page()
            if (image := IMAGE.fullmatch(path)) is not None:
                return "image/png", self._image(image[1], image[2]), None
        posted = {"/next": self._next, "/answer": self._answer_to, "/undo": self._undo}
        if method == "POST" and path in posted:
            asked = _body(environment)
            self._require_own(asked)
            return "application/json", _json(posted[path](asked)), None
        raise _Refusal("404 Not Found", "there is nothing here")

    def _require_own(self, asked: dict[str, Any]) -> None:
        """Refuse what a page of another study, bracket or kind of question asks.

        Raises:
            _Refusal: it is of such a page.
        """
        if asked.get("identity") != self._identity:
            raise _Refusal(
                "409 Conflict",
                f"another page is served at this address now, that of {self._questions.name}: reload to see it. "
                "Answers that wait are kept, and stored once their own page is served here again",
            )

    def _page(self) -> tuple[bytes, str]:
        template = self._environment.get_template("vote.html.j2")
        text = template.render(
            name=self._questions.name,
            kind=self._questions.kind,
            identity=self._identity,
            explanation=self._questions.explanation,
            person=self._person,
            style=self._style,
            script=self._script,
        )
        style = digest_of(_inside(self._style))
        policy = (
            f"default-src 'none'; img-src 'self' data:; connect-src 'self'; style-src 'sha256-{style}'; "
            f"script-src 'sha256-{digest_of(_inside(self._script))}'; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'"
        )
        return text.encode(), policy

    def _image(self, token: str, side: str) -> bytes:
        try:
            content = self._questions.image(token, side)
        except ArtifactError as error:
            raise _Refusal("404 Not Found", first_line(error)) from error
        if content is None:
            raise _Refusal("404 Not Found", "this picture is gone")
        return content

    def _next(self, asked: dict[str, Any]) -> dict[str, Any]:
        return _described(self._questions.ask(_person(asked))) or {"waiting": self._questions.waiting}

    def _answer_to(self, asked: dict[str, Any]) -> dict[str, Any]:
        known = ANSWERS[self._questions.kind]
        token = asked.get("token")
        if asked.get("answer") not in known or not isinstance(token, str) or not TOKEN.fullmatch(token):
            raise _Refusal("400 Bad Request", f"expected a token, and an answer of {', '.join(known)}")
        return {"stored": self._questions.answer(token, asked["answer"])}

    def _undo(self, asked: dict[str, Any]) -> dict[str, Any]:
        question = _described(self._questions.undo(_person(asked)))
        return question or {"nothing": "no answer of yours is left to take back"}


def _inside(source: Markup) -> str:
    """Return what stands between the tags of the page, whose digest its policy names."""
    return f"\n{source}\n"


def _body(environment: Environment) -> dict[str, Any]:
    """Read a request's JSON object.

    Raises:
        _Refusal: it is none. A form of another site cannot send this type.
    """
    if str(environment.get("CONTENT_TYPE", "")).partition(";")[0].strip() != "application/json":
        raise _Refusal("415 Unsupported Media Type", "expected application/json")
    length = str(environment.get("CONTENT_LENGTH") or "0")
    if not length.isdecimal() or int(length) > MOST_BODY:
        raise _Refusal("413 Content Too Large", f"expected at most {MOST_BODY} bytes")
    try:
        read = json.loads(environment["wsgi.input"].read(int(length)))
    except (ValueError, RecursionError):
        read = None
    if not isinstance(read, dict):
        raise _Refusal("400 Bad Request", "expected a JSON object")
    return read


def _person(asked: dict[str, Any]) -> str:
    """Return the name of the person who asks.

    Raises:
        _Refusal: there is none, or it cannot be shown.
    """
    name = plain(str(asked.get("person", ""))).strip()
    if not name or len(name) > MOST_NAME or unseen(name) is not None:
        raise _Refusal("400 Bad Request", f"expected a name of 1 to {MOST_NAME} visible characters")
    return name


def _described(question: Question | None) -> dict[str, Any] | None:
    return None if question is None else asdict(question)


def _json(answer: object) -> bytes:
    return json.dumps(answer, ensure_ascii=False).encode()
