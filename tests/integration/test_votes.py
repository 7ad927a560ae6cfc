"""Votes in a real database, and the page's requests: nothing is lost, nothing is counted twice."""

from __future__ import annotations

import io
import json
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from real_databases import new_postgresql_url
from reported_study import ReportedStudy, begin_reported, draw, store_pictures
from scipy import stats
from slow_cases import first_fast
from stored_study import store_study

from optimizer.observe.guarded_server import guarded_server
from optimizer.voting.application import LIMITS, VotePage
from optimizer.voting.ballots import Ballots
from optimizer.voting.preferred_trials import load_preferred_trials
from optimizer.voting.questions import Questions
from optimizer.voting.rated_renders import RatedRenders
from studies.files.artifacts import Artifacts
from studies.records import tables
from studies.records.database import Database, open_database
from studies.records.ratings import (
    forget_unrated,
    load_ratings,
    load_shown_render,
    show_render,
    store_rating,
    take_rating_back,
)
from studies.records.study_records import StudyRecords
from studies.records.votes import (
    cast_vote,
    forget_unanswered,
    load_pair,
    load_votes,
    show_pair,
    take_back,
)
from studies.records.whole_studies import delete_study
from studies.system.database_url import database_file

TRIALS = 6


def score(params: Mapping[str, float]) -> dict[str, tuple[float, ...]]:
    mean = float(np.mean(list(params.values())))
    return {"sharpness": (mean, mean, 1.0, 2.0), "contrast": (0.1, 0.2, 0.3, mean)}


@pytest.fixture(params=["sqlite", "postgresql"])
def records(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StudyRecords]:
    url = f"sqlite:///{tmp_path}/study.db" if request.param == "sqlite" else new_postgresql_url()
    database: Database = open_database(url)
    yield store_study(database, "v", score, trials=4)
    database.close()


def test_a_vote_that_is_sent_twice_counts_once_and_the_last_word_counts(records: StudyRecords) -> None:
    pair = show_pair(records, "ann", 2, 0, 3)
    assert load_votes(records) == []
    assert cast_vote(records, pair.token, "left")
    assert cast_vote(records, pair.token, "right")
    (vote,) = load_votes(records)
    assert (vote.person, vote.item, vote.left, vote.right, vote.verdict) == ("ann", 2, 0, 3, "right")
    assert not cast_vote(records, "f" * 32, "left")


def test_each_takes_back_the_last_vote_of_their_own(records: StudyRecords) -> None:
    tokens = {}
    for person in ("ann", "bob", "ann"):
        tokens[person] = show_pair(records, person, 0, 1, 2).token
        cast_vote(records, tokens[person], "equal")
    back = take_back(records, "ann")
    assert back is not None
    assert back.token == tokens["ann"]
    assert [vote.person for vote in load_votes(records)] == ["ann", "bob"]
    assert cast_vote(records, back.token, "left")
    assert take_back(records, "nobody") is None


def test_votes_go_with_their_study(records: StudyRecords) -> None:
    pair = show_pair(records, "ann", 0, 0, 1)
    cast_vote(records, pair.token, "left")
    open_pair = show_pair(records, "ann", 1, 0, 1)
    delete_study(records, Artifacts.beside(records.database.url))
    assert load_pair(records, pair.token) is None
    assert not cast_vote(records, open_pair.token, "right")


def test_people_who_vote_at_once_lose_nothing(records: StudyRecords) -> None:
    def votes_of(person: str) -> None:
        for index in range(10):
            cast_vote(records, show_pair(records, person, index % 4, 0, 1).token, "left")

    threads = [threading.Thread(target=votes_of, args=(f"p{index}",)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(load_votes(records)) == 40


def test_pairs_that_nobody_voted_on_are_removed_after_a_month(
    records: StudyRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    voted, left = show_pair(records, "ann", 0, 0, 1), show_pair(records, "ann", 1, 0, 1)
    cast_vote(records, voted.token, "left")
    forget_unanswered(records)
    assert load_pair(records, left.token) is not None
    monkeypatch.setattr("studies.records.votes.FORGOTTEN_SECONDS", -1)
    forget_unanswered(records)
    assert load_pair(records, left.token) is None
    assert len(load_votes(records)) == 1


def test_ratings_count_once_are_taken_back_and_go_with_their_study(records: StudyRecords) -> None:
    shown = show_render(records, "ann", 2, 3)
    assert load_ratings(records) == []
    assert store_rating(records, shown.token, 4)
    assert store_rating(records, shown.token, 10)
    (rating,) = load_ratings(records)
    assert (rating.person, rating.item, rating.number, rating.rating) == ("ann", 2, 3, 10)
    assert take_rating_back(records, "bob") is None
    back = take_rating_back(records, "ann")
    assert back is not None
    assert back.token == shown.token
    assert load_ratings(records) == []
    delete_study(records, Artifacts.beside(records.database.url))
    assert not store_rating(records, shown.token, 5)


def test_renders_that_nobody_rated_are_removed_after_a_month(
    records: StudyRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    rated, left = show_render(records, "ann", 0, 0), show_render(records, "ann", 1, 0)
    store_rating(records, rated.token, 0)
    monkeypatch.setattr("studies.records.ratings.FORGOTTEN_SECONDS", -1)
    forget_unrated(records)
    assert load_shown_render(records, left.token) is None
    assert len(load_ratings(records)) == 1


@dataclass(frozen=True)
class Page:
    """The page as it is served."""

    study: ReportedStudy
    url: str
    identity: str

    def request(self, path: str, **body: Any) -> urllib.request.Request:
        """A request as the page sends it."""
        content = json.dumps({"identity": self.identity, **body}).encode()
        return urllib.request.Request(self.url + path, content, {"Content-Type": "application/json"})

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        with urllib.request.urlopen(self.request(path, **body)) as answer:
            read: dict[str, Any] = json.loads(answer.read())
        return read

    def image(self, token: str, side: str) -> Image.Image:
        with urllib.request.urlopen(f"{self.url}/image/{token}/{side}.png") as answer:
            return Image.open(io.BytesIO(answer.read()))


@pytest.fixture
def reported(tmp_path: Path) -> ReportedStudy:
    study = begin_reported(tmp_path, "v", score, trials=TRIALS)
    store_pictures(study, (0, 1, 4))
    return study


@contextmanager
def served(study: ReportedStudy, questions: Questions) -> Iterator[Page]:
    """Serve the page until the block ends."""
    server = guarded_server(VotePage(questions, "ann"), "127.0.0.1", 0, None, LIMITS)
    thread = threading.Thread(target=server.run)
    thread.start()
    yield Page(study, f"http://127.0.0.1:{server.port}", f"{questions.kind}-{questions.identity}")
    server.close()
    thread.join()


@pytest.fixture
def page(reported: ReportedStudy) -> Iterator[Page]:
    with served(reported, Ballots(reported.records, reported.artifacts, np.random.default_rng(0))) as page:
        yield page


@pytest.fixture
def rating_page(reported: ReportedStudy) -> Iterator[Page]:
    with served(reported, RatedRenders(reported.records, reported.artifacts, np.random.default_rng(0))) as page:
        yield page


def refusal(request: urllib.request.Request) -> tuple[int, bytes]:
    """Send a request that is refused, and return status and body."""
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request)
    with refused.value as answer:
        return answer.code, answer.read()


def test_a_pair_is_shown_blind_and_its_vote_is_stored(page: Page) -> None:
    pair = page.post("/next", person=" ann ")
    assert set(pair) == {"token", "prompt", "progress"}
    assert pair["progress"] == "0 votes of yours, 0 in all, on 3 trials"
    stored = load_pair(page.study.records, pair["token"])
    assert stored is not None
    assert {stored.left, stored.right} <= {0, 1, 4}
    item = page.study.records.study.spec.suite.items()[stored.item]
    assert pair["prompt"] == item.prompt
    for side, number in (("left", stored.left), ("right", stored.right)):
        image = page.image(pair["token"], side)
        assert image.info == {}  # no text of a render, which would tell its trial
        np.testing.assert_array_equal(np.array(image).transpose(2, 0, 1), draw(item, number, (96, 64)))
    assert page.post("/answer", token=pair["token"], answer="left") == {"stored": True}
    assert page.post("/answer", token=pair["token"], answer="left") == {"stored": True}
    (vote,) = load_votes(page.study.records)
    assert (vote.person, vote.verdict) == ("ann", "left")
    following = page.post("/next", person="ann")
    assert following["progress"] == "1 vote of yours, 1 in all, on 3 trials"
    assert page.post("/undo", person="ann")["token"] == pair["token"]
    assert page.post("/undo", person="ann") == {"nothing": "no answer of yours is left to take back"}


def test_a_study_without_pictures_says_what_to_do(tmp_path: Path) -> None:
    study = begin_reported(tmp_path, "v", score, trials=4)
    ballots = Ballots(study.records, study.artifacts)
    assert ballots.ask("ann") is None
    store_pictures(study, (0,))
    assert Ballots(study.records, study.artifacts).ask("ann") is None


@pytest.mark.parametrize(
    ("path", "body", "status"),
    first_fast(
        4,
        [
            ("/answer", {"token": "\ud800", "answer": "left"}, 400),  # half of a pair, which cannot be stored
            ("/next", {"person": "ann", "identity": "\ud800"}, 409),
            ("/next", {"person": "a\u202eb"}, 400),
            ("/next", {"person": "a" * 5000}, 413),
            ("/answer", {"token": "0" * 32, "answer": "best"}, 400),
            ("/answer", {"answer": "left"}, 400),
            ("/answer", {"token": "0" * 31 + "\n", "answer": "left"}, 400),
            ("/answer", {"token": "0" * 32, "answer": "\ud800"}, 400),
            ("/next", {"person": "a\ud800"}, 400),
            ("/undo", {"person": "a\ud800"}, 400),
            ("/next", {"person": "   "}, 400),
            ("/next", {"person": "x" * 101}, 400),
            ("/next", {"person": "ann", "identity": None}, 409),
            ("/elsewhere", {}, 404),
        ],
    ),
)
def test_what_the_page_never_sends_is_refused_in_one_line(page: Page, path: str, body: Any, status: int) -> None:
    code, content = refusal(page.request(path, **body))
    assert code == status
    reason = json.loads(content)["reason"]
    assert "\n" not in reason
    assert load_votes(page.study.records) == []


def test_what_is_no_json_object_is_refused(page: Page) -> None:
    for content in (b"[]", b"{", b"", b"\xff"):
        request = urllib.request.Request(f"{page.url}/answer", content, {"Content-Type": "application/json"})
        assert refusal(request)[0] == 400


def test_an_answer_to_what_is_no_longer_served_at_an_address_is_refused_and_counts_where_it_belongs(
    page: Page, rating_page: Page, tmp_path: Path
) -> None:
    pair = page.post("/next", person="ann")
    (tmp_path / "other").mkdir()
    other = begin_reported(tmp_path / "other", "w", score, trials=TRIALS)
    with served(other, Ballots(other.records, other.artifacts)) as elsewhere:
        for there in (elsewhere, rating_page):  # another study, and other questions of the same one
            request = replace(there, identity=page.identity).request("/answer", token=pair["token"], answer="left")
            code, content = refusal(request)
            assert code == 409
            assert f"that of {there.study.records.study.name}" in json.loads(content)["reason"]
    assert load_votes(page.study.records) == []
    assert page.post("/answer", token=pair["token"], answer="left") == {"stored": True}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text/plain"}, 415),  # which a form of another site can send
        ({"Content-Type": "application/json", "Origin": "https://elsewhere.example"}, 403),
        ({"Content-Type": "application/json", "Host": "elsewhere.example"}, 403),
    ],
)
def test_pages_of_other_sites_cannot_vote(page: Page, headers: dict[str, str], status: int) -> None:
    request = urllib.request.Request(f"{page.url}/next", b'{"person": "ann"}', headers)
    assert refusal(request)[0] == status


def test_a_vote_on_a_study_that_was_deleted_is_told(page: Page) -> None:
    pair = page.post("/next", person="ann")
    delete_study(page.study.records, page.study.artifacts)
    assert page.post("/answer", token=pair["token"], answer="left") == {"stored": False}


def test_preferred_trials_name_the_lead_over_the_better_parent(page: Page) -> None:
    records = page.study.records
    for better, worse in [(4, 0)] * 9 + [(1, 0)] * 3 + [(4, 1)] * 9:
        cast_vote(records, show_pair(records, "bob", 0, better, worse).token, "left")
    preferred = load_preferred_trials(records)
    assert [row.number for row in preferred.rows] == [4, 1, 0]
    assert (preferred.votes, preferred.people) == (21, ("bob",))
    best, parent, other = preferred.rows
    assert best.over == "parent B"
    assert best.lead is not None
    assert best.lead.low > 0
    assert best.tally is not None
    assert (best.tally.preferred, best.tally.other) == (9, 0)
    assert parent.lead is None
    assert other.lead is not None
    assert other.lead.value < 0


def test_renders_are_rated_one_at_a_time_each_once_before_any_twice(rating_page: Page) -> None:
    records, seen = rating_page.study.records, set()
    for index in range(12):  # three trials with four items
        question = rating_page.post("/next", person="ann")
        assert question["progress"].startswith(f"{index} rating")
        shown = load_shown_render(records, question["token"])
        assert shown is not None
        seen.add((shown.number, shown.item))
        item = records.study.spec.suite.items()[shown.item]
        image = rating_page.image(question["token"], "left")
        assert image.info == {}
        np.testing.assert_array_equal(np.array(image).transpose(2, 0, 1), draw(item, shown.number, (96, 64)))
        assert rating_page.post("/answer", token=question["token"], answer=str(index % 11)) == {"stored": True}
    assert seen == {(number, item) for number in (0, 1, 4) for item in range(4)}
    assert rating_page.post("/undo", person="ann")["token"] == question["token"]
    assert len(load_ratings(records)) == 11


@pytest.mark.parametrize("answer", first_fast(2, ["11", None, "-1", "left", "07", 7]))
def test_only_whole_numbers_from_0_to_10_are_ratings(rating_page: Page, answer: Any) -> None:
    token = rating_page.post("/next", person="ann")["token"]
    code, _ = refusal(rating_page.request("/answer", token=token, answer=answer))
    assert code == 400
    assert load_ratings(rating_page.study.records) == []


def test_preferred_trials_have_the_mean_rating_with_students_interval(reported: ReportedStudy) -> None:
    records = reported.records
    for number, given in ((4, (7, 9, 8, 10)), (1, (5, 5)), (0, (3,))):
        for rating in given:
            store_rating(records, show_render(records, "bob", 0, number).token, rating)
    cast_vote(records, show_pair(records, "ann", 0, 1, 0).token, "left")
    preferred = load_preferred_trials(records)
    assert [row.number for row in preferred.rows] == [4, 1, 0]
    assert (preferred.votes, preferred.ratings, preferred.people) == (1, 7, ("ann", "bob"))
    best = preferred.rows[0].rating
    assert best is not None
    low, high = stats.t.interval(0.95, 3, 8.5, stats.sem([7, 9, 8, 10]))
    assert (best.value, best.count) == (8.5, 4)
    assert best.interval == pytest.approx((low, min(high, 10)))
    same = preferred.rows[1].rating
    assert same is not None
    assert same.interval is None


def test_votes_on_a_trial_that_was_deleted_count_for_nobody(page: Page) -> None:
    records = page.study.records
    cast_vote(records, show_pair(records, "ann", 0, 1, 0).token, "left")
    cast_vote(records, show_pair(records, "ann", 0, 4, 1).token, "left")
    open_pair = show_pair(records, "ann", 1, 4, 0)
    trial = next(trial for trial in page.study.trials() if trial.number == 4)
    with records.database.write() as connection:
        connection.execute(tables.renders.delete().where(tables.renders.c.trial_id == trial.id))
        connection.execute(tables.scores.delete().where(tables.scores.c.trial_id == trial.id))
        connection.execute(tables.trials.delete().where(tables.trials.c.id == trial.id))
    assert page.post("/answer", token=open_pair.token, answer="left") == {"stored": True}
    preferred = load_preferred_trials(records)
    assert [row.number for row in preferred.rows] == [1, 0]
    assert preferred.rows[1].tally is not None
    assert preferred.rows[1].tally.count == 1
    ballots = Ballots(records, page.study.artifacts, np.random.default_rng(0))  # as after a restart of the page
    assert ballots.image(open_pair.token, "left") is None
    pair = ballots.ask("ann")
    assert pair is not None
    following = load_pair(records, pair.token)
    assert following is not None
    assert {following.left, following.right} == {0, 1}


def test_two_people_at_one_page_each_have_their_own_votes(page: Page) -> None:
    answers: dict[str, list[dict[str, Any]]] = {"ann": [], "bob": []}

    def votes_of(person: str) -> None:
        for _ in range(5):
            pair = page.post("/next", person=person)
            answers[person].append(page.post("/answer", token=pair["token"], answer="left"))

    threads = [threading.Thread(target=votes_of, args=(person,)) for person in answers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {person: [{"stored": True}] * 5 for person in answers}
    assert Counter(vote.person for vote in load_votes(page.study.records)) == {"ann": 5, "bob": 5}
    page.post("/undo", person="bob")
    assert Counter(vote.person for vote in load_votes(page.study.records)) == {"ann": 5, "bob": 4}


def test_a_vote_while_the_database_is_away_is_refused_and_counts_once_when_it_is_back(page: Page) -> None:
    pair = page.post("/next", person="ann")
    request = page.request("/answer", token=pair["token"], answer="left")
    file = database_file(page.study.records.database.url)
    assert file is not None
    away = file.with_name("away")
    page.study.records.database.engine.dispose()  # as after a restart: no connection is open
    file.rename(away)
    code, content = refusal(request)
    assert code == 503
    assert "\n" not in json.loads(content)["reason"]
    page.study.records.database.engine.dispose()
    file.unlink(missing_ok=True)
    away.rename(file)
    assert page.post("/answer", token=pair["token"], answer="left") == {"stored": True}
    assert page.post("/answer", token=pair["token"], answer="left") == {"stored": True}
    assert len(load_votes(page.study.records)) == 1
