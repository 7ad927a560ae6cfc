"""`mergetune study vote` and `mergetune study votes`: people compare renders, and what they said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from basics.names import plain
from optimizer.cli.commands.serving import LOOPBACK, VOTE_PORT, Host, PasswordFile, Port, own_name, password_for, serve
from optimizer.cli.common import (
    ArtifactFolder,
    AsJson,
    Storage,
    StudyName,
    database_to_change,
    database_to_read,
    fail,
    loading_libraries,
    stored_url,
)
from studies.system.advice import DEFAULT_STORAGE

if TYPE_CHECKING:
    from optimizer.voting.mean_ratings import MeanRating
    from optimizer.voting.preferred_trials import PreferredTrial
    from optimizer.voting.questions import Questions
    from studies.files.artifacts import Artifacts
    from studies.records.study_records import StudyRecords


def vote(
    study: StudyName,
    storage: Storage = DEFAULT_STORAGE,
    artifacts: ArtifactFolder = None,
    person: Annotated[
        str | None, typer.Option(parser=plain, metavar="NAME", help="Your name, which the page begins with.")
    ] = None,
    host: Host = LOOPBACK,
    port: Port = VOTE_PORT,
    password_file: PasswordFile = None,
    rate: Annotated[bool, typer.Option("--rate", help="Show one render at a time, to be rated 0 to 10.")] = False,
    show: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Serve a page on which people say which of two renders is better, without knowing which trials they are of."""
    url = stored_url(storage)
    database = database_to_change(url)
    from studies.records.stored_studies import open_study

    records = open_study(database, study)
    password = password_for(host, password_file, danger="the page can vote")
    with loading_libraries():
        from optimizer.observe.guarded_server import guarded_server
        from optimizer.voting.application import LIMITS, VotePage
        from studies.files.artifacts import Artifacts, is_bucket

        store = Artifacts.existing(url, artifacts)
        if not is_bucket(store.location) and not Path(store.location).is_dir():
            fail(f"there is no folder {store.location}, where the study's renders should be: name it with --artifacts")
        questions = _questions(records, store, rate=rate)
    server = guarded_server(VotePage(questions, person or own_name()), host, port, password, LIMITS)
    serve(server, host, "/", "vote", show=show)


def _questions(records: StudyRecords, artifacts: Artifacts, *, rate: bool) -> Questions:
    """Return what the page asks; questions that were left open long ago are forgotten."""
    from optimizer.voting.ballots import Ballots
    from optimizer.voting.rated_renders import RatedRenders
    from studies.records.ratings import forget_unrated
    from studies.records.votes import forget_unanswered

    if rate:
        forget_unrated(records)
        return RatedRenders(records, artifacts)
    forget_unanswered(records)
    return Ballots(records, artifacts)


def votes(
    study: StudyName,
    storage: Storage = DEFAULT_STORAGE,
    as_json: AsJson = False,
) -> None:
    """Show which trials people prefer, and how sure that is."""
    database = database_to_read(storage)
    from studies.records.stored_studies import open_study

    records = open_study(database, study)
    with loading_libraries():
        from optimizer.voting.preferred_trials import load_preferred_in_final, load_preferred_trials

        searched, in_final = load_preferred_trials(records), load_preferred_in_final(records)
    if as_json:
        rows = [_as_json(each, held_out=False) for each in searched.rows]
        rows += [_as_json(each, held_out=True) for each in in_final.rows]
        typer.echo(json.dumps(rows, indent=2, allow_nan=False))
        return
    from optimizer.cli.views.votes import print_preferred_trials

    print_preferred_trials(records.study, records.database.url, searched, in_final)


def _as_json(preferred: PreferredTrial, *, held_out: bool) -> dict[str, object]:
    lead, tally = preferred.lead, preferred.tally
    return {
        "held_out": held_out,
        "trial": preferred.number,
        "name": preferred.name,
        "votes": preferred.votes,
        "lead": None if lead is None else {"value": lead.value, "low": lead.low, "high": lead.high},
        "over": preferred.over,
        "rating": None if preferred.rating is None else _rating_as_json(preferred.rating),
        "preferred": None if tally is None else [tally.preferred, tally.other, tally.undecided],
    }


def _rating_as_json(rating: MeanRating) -> dict[str, object]:
    low, high = rating.interval or (None, None)
    return {"value": rating.value, "low": low, "high": high, "count": rating.count}
