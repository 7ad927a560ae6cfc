"""A worker of many studies: where it goes, what it leaves alone, and what it keeps loaded."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from demo_study import SMALL, Recorder, short_spec
from rich.console import Console
from slow_cases import first_fast

from optimizer.cli.views.results import studies_table
from optimizer.errors import CheckpointError, FinalError, OptimizerError
from optimizer.observe.events import Event, ImagesRendered, StudyRefused, TrialEnded, VotesAwaited, WaitingForWork
from optimizer.runtime.digest_cache import DigestCache
from optimizer.runtime.model_files import ModelFolders
from optimizer.runtime.parent_files import hash_parents
from optimizer.runtime.plan import Plan, make_plan
from optimizer.runtime.pool import RuntimePool
from optimizer.runtime.setup import Runtime, build_runtime
from optimizer.trial.missing_final import votes_missing
from optimizer.upkeep.doctor import diagnose
from optimizer.work.heartbeat import RERUNS
from optimizer.work.worker import Worker, WorkerSettings
from studies.files.artifacts import Artifacts
from studies.records import stored_studies, stored_trials, tables, workers
from studies.records.control import set_priority, set_status
from studies.records.database import Database, open_database
from studies.records.origins import Origin
from studies.records.study_records import StudyRecords
from studies.records.values import StoredStudy
from studies.records.votes import cast_vote, show_pair
from studies.spec.study import StudySpec

CHANGES = {**SMALL, "budget": {"trials": 3}}
BY_VOTES: dict[str, Any] = {
    "scorers": {"preference": None},
    "objective": None,
    "probes": {"uniform": [], "profiles": 0},
    "render": {"degenerate_limit": 8, "keep": "all"},
}


@dataclass
class Log(Recorder):
    """A host that remembers, and a reporter of each study that does."""

    visits: list[str] = field(default_factory=list)
    finals: list[str] = field(default_factory=list)
    runtimes: dict[str, weakref.ref[Runtime]] = field(default_factory=dict)
    on_wait: Callable[[], None] = lambda: None
    on_trial: Callable[[str], None] = lambda _name: None
    on_images: Callable[[str, int], None] = lambda _name, _trial: None

    @contextmanager
    def at(self, records: StudyRecords, runtime: Runtime) -> Iterator[Recorder]:
        assert runtime.spec.study == records.study.name
        self.visits.append(records.study.name)
        self.runtimes[records.study.name] = weakref.ref(runtime)
        yield Visit(log=self, name=records.study.name)

    def hold_final(self, records: StudyRecords, runtime: Runtime) -> None:
        assert runtime.spec.study == records.study.name
        self.finals.append(records.study.name)
        raise FinalError("nothing to compare")

    def report(self, event: Event) -> None:
        super().report(event)
        if isinstance(event, WaitingForWork):
            self.on_wait()

    @property
    def reasons(self) -> list[tuple[str, str]]:
        return [(event.name, event.reason) for event in self.of(StudyRefused)]


@dataclass
class Visit(Recorder):
    """The reporter of one turn."""

    log: Log = field(default_factory=Log)
    name: str = ""

    def report(self, event: Event) -> None:
        super().report(event)
        if isinstance(event, TrialEnded):
            self.log.on_trial(self.name)
        if isinstance(event, ImagesRendered):
            self.log.on_images(self.name, self.started[-1][0])


@dataclass
class Place:
    """A database, its files, and what loads runtimes for it."""

    folder: Path
    database: Database
    loaded: list[str] = field(default_factory=list)
    free: int | None = None  # bytes
    narrow: bool = False  # one runtime is all that fits
    broken: BaseException | None = None  # what loading the study `bad` raises

    def add(self, name: str, **changes: object) -> StudyRecords:
        spec = StudySpec.model_validate(short_spec(**CHANGES, study=name) | changes, context={"base_dir": self.folder})
        plan = make_plan(spec)
        objective = plan.objective
        return stored_studies.create_study(
            self.database, plan.spec, hash_parents(plan), objective.directions, objective.names
        )

    def runtimes(self) -> RuntimePool:
        def plan(study: StoredStudy) -> Plan:
            found = make_plan(study.spec)
            hash_parents(found, study.parents)
            return found

        def build(found: Plan, study: StoredStudy) -> Runtime:
            if self.narrow and runtimes.loaded:
                raise torch.OutOfMemoryError("out of memory")
            self.loaded.append(study.name)
            if self.broken is not None and study.name == "bad":
                raise self.broken
            return build_runtime(found, study.parents, self.folder / "cache")

        runtimes = RuntimePool(plan, build, lambda _device: self.free)
        return runtimes

    def worker(self, log: Log, stop: threading.Event | None = None, **settings: object) -> Worker:
        chosen = WorkerSettings(**({"until_done": True, "poll_seconds": 0.05} | settings))  # type: ignore[arg-type]
        artifacts = Artifacts.beside(self.database.url, self.folder / "artifacts")
        return Worker(self.database, self.runtimes(), artifacts, log, stop or threading.Event(), chosen)

    def states(self, records: StudyRecords) -> list[str]:
        return [trial.state for trial in stored_trials.load_trials(records)]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    database = open_database(f"sqlite:///{tmp_path}/studies.db")
    yield Place(tmp_path, database)
    database.close()


def test_every_active_study_is_worked_on_the_most_urgent_first_and_each_is_loaded_once(place: Place) -> None:
    first, urgent, paused, stopped = (place.add(name) for name in ("first", "urgent", "paused", "stopped"))
    set_priority(urgent, 5)
    set_status(paused, "paused")
    set_status(stopped, "stopped")
    log, stop = Log(), threading.Event()

    def on_wait() -> None:
        """Only now the paused one may go on; then what was asked of it is done too."""
        if len(log.of(WaitingForWork)) == 1:
            assert (place.states(paused), place.states(stopped)) == ([], [])
            set_status(paused, "active")
        else:
            stop.set()

    log.on_wait = on_wait
    assert place.worker(log, stop, until_done=False).run() == 9
    assert log.visits == ["urgent", "first", "paused"]
    assert place.loaded == log.visits
    assert {records.study.name: place.states(records) for records in (first, urgent, paused, stopped)} == {
        "first": ["complete"] * 3, "urgent": ["complete"] * 3, "paused": ["complete"] * 3, "stopped": [],
    }  # fmt: skip
    with place.database.engine.connect() as connection:
        assert connection.execute(tables.workers.select()).all() == []


@pytest.mark.slow
def test_more_urgent_work_comes_between_two_trials(place: Place) -> None:
    place.add("first")
    urgent = place.add("urgent", budget={"trials": 1})
    set_status(urgent, "paused")
    log = Log()

    def on_trial(name: str) -> None:
        if name == "first":
            set_priority(urgent, 1)
            set_status(urgent, "active")

    log.on_trial = on_trial
    place.worker(log).run()
    assert log.visits == ["first", "urgent", "first"]
    assert place.loaded == ["first", "urgent"]


@pytest.mark.slow
def test_short_of_memory_the_models_that_were_not_used_for_longest_are_dropped(place: Place) -> None:
    studies = [place.add(name).study for name in ("one", "two")]
    place.free = 10**12
    roomy = place.runtimes()
    for study in (*studies, *studies):
        roomy.of(study)
    assert (place.loaded, roomy.loaded) == (["one", "two"], (studies[0].id, studies[1].id))
    place.free = 0
    narrow = place.runtimes()
    for study in (*studies, studies[1], studies[0]):
        narrow.of(study)
        assert narrow.loaded == (study.id,)
    assert place.loaded[2:] == ["one", "two", "one"]


@pytest.mark.slow
def test_what_does_not_fit_beside_others_is_loaded_alone(place: Place) -> None:
    """Where nobody can tell how much is free, running out tells."""
    studies = [place.add(name).study for name in ("one", "two")]
    place.narrow = True
    runtimes = place.runtimes()
    for study in studies:
        runtimes.of(study)
    assert runtimes.loaded == (studies[1].id,)


@pytest.mark.slow
def test_a_study_that_cannot_be_worked_on_here_is_left_alone_and_the_others_go_on(place: Place) -> None:
    lost, fine = place.add("lost"), place.add("fine")
    text = lost.study.spec.to_json().replace(lost.study.spec.parents[0].name, "gone.safetensors")
    with place.database.write() as connection:
        connection.execute(tables.studies.update().where(tables.studies.c.id == lost.study.id).values(spec=text))
    log = Log()
    assert place.worker(log).run() == 3
    assert (place.states(lost), place.states(fine)) == ([], ["complete"] * 3)
    assert [name for name, _ in log.reasons] == ["lost"]
    assert "no checkpoint at" in log.reasons[0][1]
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        place.worker(alone := Log(), names=frozenset({"lost"})).run()
    assert alone.reasons == []  # the error says it


@pytest.mark.slow
def test_a_study_that_fails_under_way_is_not_kept_in_memory(place: Place) -> None:
    failing, fine = place.add("failing"), place.add("fine")
    log = Log()

    def on_trial(name: str) -> None:
        if name == "failing":
            raise CheckpointError("a file went away")

    log.on_trial = on_trial
    worker = place.worker(log)
    assert worker.run() == 3
    assert log.reasons == [("failing", "a file went away")]
    assert {name: runtime() is None for name, runtime in log.runtimes.items()} == {"failing": True, "fine": False}
    assert (place.states(failing), place.states(fine)) == (["complete"], ["complete"] * 3)


class OwnEnd(BaseException):
    """What a plug-in has made up to end a program."""


RAISED = [
    OwnEnd("enough"),
    SystemExit("no licence"),
    MemoryError(),
    SystemExit(0),
    KeyError("a"),
    RecursionError(),
]


@pytest.mark.parametrize("error", first_fast(1, RAISED), ids=repr)
def test_whatever_a_study_raises_while_it_is_loaded_is_that_studys(error: BaseException, place: Place) -> None:
    bad, fine = place.add("bad"), place.add("fine")
    place.broken = error
    log = Log()
    assert place.worker(log).run() == 3
    assert (place.states(bad), place.states(fine)) == ([], ["complete"] * 3)
    ((name, reason),) = log.reasons
    assert name == "bad"
    assert reason.startswith(type(error).__name__)
    place.broken = None  # it is tried again later
    assert place.worker(Log()).run() == 3


@pytest.mark.slow
@pytest.mark.parametrize("error", [SystemExit(0), OwnEnd("enough"), RuntimeError("a bug")], ids=repr)
def test_a_trial_that_ends_its_worker_again_and_again_fails_and_the_study_goes_on(
    error: BaseException, place: Place
) -> None:
    bad, fine = place.add("bad", budget={"trials": 4}), place.add("fine")
    log, attempts = Log(), []

    def on_images(name: str, trial: int) -> None:
        if (name, trial) == ("bad", 2):
            attempts.append(trial)
            raise error

    log.on_images = on_images
    place.worker(log, retry_seconds=0.0).run()
    assert len(attempts) == 1 + RERUNS
    assert place.states(fine) == ["complete"] * 3
    assert place.states(bad) == ["complete", "complete", "failed", "complete"]
    failed = stored_trials.load_trials(bad)[2]
    assert failed.failure == "other"
    assert "4 attempts were ended by an error" in (failed.reason or "")
    assert {reason.split(":")[0] for _, reason in log.reasons} == {type(error).__name__}


def test_only_what_ends_a_single_named_study_ends_its_worker_and_never_in_silence(place: Place) -> None:
    place.add("bad")
    place.broken = SystemExit(0)
    with pytest.raises(OptimizerError, match="study bad ended its worker: SystemExit: 0"):
        place.worker(Log(), names=frozenset({"bad"})).run()


@pytest.mark.slow
def test_a_device_on_which_nothing_is_computed_keeps_one_study_back(place: Place) -> None:
    strange, fine = place.add("strange"), place.add("fine")
    for device in ("meta", "hpu", "xla:7"):
        text = strange.study.spec.model_copy(
            update={"render": strange.study.spec.render.model_copy(update={"device": device})}
        ).to_json()
        with place.database.write() as connection:
            connection.execute(tables.studies.update().where(tables.studies.c.id == strange.study.id).values(spec=text))
        log = Log()
        place.worker(log).run()
        ((name, reason),) = log.reasons
        assert name == "strange"
        assert f"device {device!r} cannot be used" in reason
    assert place.states(fine) == ["complete"] * 3


@pytest.mark.slow
def test_rows_that_hold_no_json_keep_one_study_back(place: Place) -> None:
    broken, fine, _ = (place.add(name) for name in ("broken", "fine", "odd"))
    place.worker(Log(), names=frozenset({"odd"})).run()
    with place.database.write() as connection:
        connection.exec_driver_sql("UPDATE mergetune_studies SET software = '{' WHERE id = ?", (broken.study.id,))
        connection.exec_driver_sql("UPDATE mergetune_trials SET gains = '[]', objectives = '[7]', state = 'complete'")
    log = Log()
    assert place.worker(log).run() == 3
    assert place.states(fine) == ["complete"] * 3
    reasons = dict(log.reasons)
    assert reasons.keys() == {"broken", "odd"}
    assert "where JSON was expected" in reasons["broken"]
    assert "trial 0 is malformed" in reasons["odd"]
    assert place.states(fine) == ["complete"] * 3


@pytest.mark.slow
def test_until_done_waits_while_others_are_at_a_trial_that_may_be_left(place: Place) -> None:
    held = place.add("held")
    peer = workers.register_worker(place.database)  # of this process, so it is alive
    log, waited = Log(), threading.Event()
    log.on_wait = waited.set
    queue = optuna.load_study(study_name="held", storage=place.database.storage)
    runtime = place.runtimes().of(held.study)
    number = queue.ask().number
    probe = runtime.probes[number]
    stored_trials.start_trial(held, number, probe.origin, probe.recipe, peer)
    worker = place.worker(log)
    thread = threading.Thread(target=worker.run)
    thread.start()
    assert waited.wait(120)
    assert place.states(held).count("running") == 1
    thread.join(0.5)
    assert thread.is_alive()
    workers.remove_worker(place.database, peer)
    thread.join(120)
    assert place.states(held) == ["complete"] * 3


def test_a_trial_that_was_left_is_taken_over_where_the_study_waits_for_votes(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optimizer.preference.search.AHEAD", 1)
    voted = place.add("voted", **BY_VOTES, budget={"trials": 5})
    log, stop, left = Log(), threading.Event(), list[int]()

    def on_wait() -> None:
        if left:
            stop.set()
        else:
            left.append(begun_by_the_departed(place, voted))

    log.on_wait = on_wait
    assert place.worker(log, stop).run() == 4
    assert log.visits == ["voted", "voted"]
    assert place.states(voted) == ["complete"] * 4
    assert [event.name for event in log.of(VotesAwaited)] == ["voted"] * 2


def begun_by_the_departed(place: Place, records: StudyRecords) -> int:
    """Begin a trial that nobody works on any more, beside those that are there, and return its number."""
    queue = optuna.load_study(study_name=records.study.name, storage=place.database.storage)
    before = queue.trials[-1]
    number = queue.ask(dict(before.distributions)).number
    recipe = stored_trials.load_trials(records)[before.number].recipe
    stored_trials.start_trial(records, number, Origin("sampler", "random"), recipe, "departed", 1)
    return number


@pytest.mark.parametrize("when", first_fast(1, ["meanwhile", "before"]))
def test_a_study_that_is_deleted_in_the_dashboard_takes_no_other_with_it(when: str, place: Place) -> None:
    place.add("gone")
    fine = place.add("fine")
    log = Log()

    def on_trial(name: str) -> None:
        if name == "gone":
            optuna.delete_study(study_name="gone", storage=place.database.storage)

    if when == "before":
        on_trial("gone")
    log.on_trial = on_trial
    place.worker(log).run()
    assert place.states(fine) == ["complete"] * 3
    assert [name for name, _ in log.reasons] == ["gone"]
    assert "were deleted in the dashboard" in log.reasons[0][1]
    assert "gone" in listed(place)


def test_a_study_that_cannot_be_read_here_hides_no_other(place: Place) -> None:
    strange = place.add("strange")
    place.add("fine")
    text = strange.study.spec.to_json().replace('"sharpness"', '"of_a_plug_in"')
    with place.database.write() as connection:
        connection.execute(tables.studies.update().where(tables.studies.c.id == strange.study.id).values(spec=text))
    log = Log()
    assert place.worker(log).run() == 3
    assert [name for name, _ in log.reasons] == ["strange"]
    assert "does not fit this installation" in listed(place)
    assert [records.study.name for records in stored_studies.list_studies(place.database)] == ["fine"]
    found = diagnose(place.database, [], Artifacts.beside(place.database.url, place.folder / "artifacts"), mend=False)
    assert [(row.kind, row.study) for row in found.left] == [("unreadable study", "strange")]


def listed(place: Place) -> str:
    """As `study list` shows it."""
    with StringIO() as text:
        Console(file=text, width=400).print(studies_table(place.database))
        return text.getvalue()


@pytest.mark.slow
def test_who_finds_a_final_held_by_another_turns_to_less_urgent_work(place: Place) -> None:
    judged, other = place.add("judged", final={"top": 2}), place.add("other")
    set_priority(judged, 5)
    place.worker(Log(), names=frozenset({"judged"}), finals=False).run()
    holder = workers.register_worker(place.database)
    workers.turn_to(place.database, holder, judged.study, "final")
    log, waited = Log(), threading.Event()
    log.on_wait = waited.set
    with ThreadPoolExecutor(1) as threads:
        work = threads.submit(place.worker(log).run)
        assert waited.wait(120)
        assert (log.finals, place.states(other)) == ([], ["complete"] * 3)
        assert not work.done(), "the holder may die, so its final is waited for"
        workers.remove_worker(place.database, holder)
        assert work.result(timeout=120) == 3
    assert log.finals == ["judged"]


@pytest.mark.slow
def test_a_final_is_held_once_and_not_again_where_there_is_nothing_to_compare(place: Place) -> None:
    place.add("judged", final={"top": 2})
    log = Log()
    place.worker(log).run()
    assert log.finals == ["judged"]
    other = Log()
    place.worker(other, finals=False).run()
    assert other.finals == []


def test_a_final_that_had_nothing_to_compare_is_tried_again_once_people_have_voted(place: Place) -> None:
    voted = place.add("voted", **BY_VOTES, final={"top": 1})
    log, stop = Log(), threading.Event()
    log.on_wait = lambda: stop.set() if len(log.finals) == 2 else vote(voted)
    place.worker(log, stop, until_done=False).run()
    assert log.finals == ["voted", "voted"]
    assert stop.is_set()


def test_who_holds_no_finals_does_not_wait_for_the_votes_that_one_needs(place: Place) -> None:
    voted = place.add("voted", **BY_VOTES, final={"top": 1})
    log, stop = Log(), threading.Event()
    log.on_wait = stop.set
    assert place.worker(log, stop, finals=False).run() == 3
    assert not stop.is_set()
    assert place.worker(log, stop).run() == 0
    assert stop.is_set(), "who holds finals waits"
    assert votes_missing(voted, stored_trials.load_trials(voted)) == 1


def vote(records: StudyRecords) -> None:
    """Vote for the merge of a study of two parents and one merge."""
    cast_vote(records, show_pair(records, "ann", 0, 2, 0).token, "left")


def test_parents_are_found_by_their_content_wherever_they_lie(place: Place) -> None:
    study = place.add("anywhere").study
    models = place.folder / "models" / "deep"
    models.mkdir(parents=True)
    for index, parent in enumerate(study.parents):
        (models / f"renamed-{index}.safetensors").write_bytes(parent.path.read_bytes())
    folders = ModelFolders(
        folders=(place.folder / "models",), digests=DigestCache(place.folder / "cache" / "sha256.json")
    )
    stored = replace(study, spec=study.spec.model_copy(update={"scorers": {}}))
    read: list[int] = []
    found = folders.locate(stored, read.append)
    assert [path.name for path in found.spec.parents] == ["renamed-0.safetensors", "renamed-1.safetensors"]
    again: list[int] = []
    hash_parents(make_plan(found.spec), found.parents, again.append, digests=folders.digests)
    assert again == []  # known by the stamps they have here
    assert sum(read) > 0
    read.clear()
    assert folders.locate(stored, read.append) == found
    assert read == []
    copied = tuple(
        replace(parent, path=models / f"renamed-{index}.safetensors") for index, parent in enumerate(study.parents)
    )
    fresh = replace(folders, digests=DigestCache(place.folder / "cache" / "other.json"))
    for expected in (sum(parent.bytes for parent in copied), 0):  # at their own paths, and unknown at first
        found = fresh.locate(replace(stored, parents=copied), read.append)
        hash_parents(make_plan(found.spec), found.parents, read.append, digests=fresh.digests)
        assert sum(read) == expected
        read.clear()
    (models / "renamed-1.safetensors").write_bytes(bytes(study.parents[1].bytes))
    with pytest.raises(CheckpointError, match=r"parent B .* is not in the model folders"):
        folders.locate(stored)
