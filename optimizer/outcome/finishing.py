"""Finish a study: hold its final, and store what it found with its renders and its contact sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from basics.messages import counted
from optimizer.errors import FinalError
from optimizer.observe.events import FinalHeld, FinalStarted, Reporter
from optimizer.outcome.final import FinalProgress, hold_final
from optimizer.outcome.next_commands import vote_command
from optimizer.outcome.voted_final import by_votes, refresh_final
from optimizer.rendering.contact_sheet import thumbnail
from optimizer.runtime.setup import Runtime
from optimizer.search.shortlist import Rank, by_posterior
from optimizer.search.stopping import stored_end
from optimizer.sheets.final import save_final_sheet
from optimizer.system.retry import Retry
from optimizer.trial.missing_final import misses_final, votes_missing
from optimizer.trial.objective import Objective
from studies.files.artifacts import Artifacts
from studies.records.finals import Final, load_final, store_final
from studies.records.judgements import judged_trials
from studies.records.kept_renders import documented_renders, render_names
from studies.records.stored_trials import load_trials
from studies.records.study_records import StudyRecords
from studies.records.values import StoredStudy, StoredTrial
from studies.records.votes import load_votes


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """What the end of a study left."""

    final: Final
    sheet: str  # where the contact sheet of the parents and the candidates is


def final_is_due(records: StudyRecords) -> bool:
    """Return whether the budget is spent, no worker is still at work, and the final does not cover all trials."""
    trials = load_trials(records)
    return stored_end(records, trials) is not None and misses_final(records, trials)


def _rank(records: StudyRecords, objective: Objective, trials: Sequence[StoredTrial]) -> Rank:
    """Rank by the posterior mean; where votes are all that counts, merges that nobody has voted on come last."""
    rank = by_posterior(records, objective, trials)
    if not records.study.spec.by_votes_alone:
        return rank
    voted = judged_trials(records)
    return lambda able: sorted(rank(able), key=lambda trial: trial.number not in voted)


def require_votes(records: StudyRecords, trials: Sequence[StoredTrial]) -> None:
    """Refuse a final whose candidates would be there by chance.

    Raises:
        FinalError: people have voted on too few merges.
    """
    missing = votes_missing(records, trials)
    if missing:
        raise FinalError(
            f"the final takes the merges that people prefer, and they have to vote on {counted(missing, 'more merge')} "
            f"first: `{vote_command(records)}`"
        )


def finish_study(
    records: StudyRecords,
    runtime: Runtime,
    artifacts: Artifacts,
    reporter: Reporter,
    retry: Retry,
    progress: FinalProgress,
) -> Finish:
    """Hold the final, store it with its renders, and draw its contact sheet.

    Args:
        retry: waits while the database or the artifact store cannot be reached.

    Raises:
        FinalError: there is nothing to compare, or people have voted on too few merges.
    """
    study = records.study
    trials = retry(lambda: load_trials(records))
    retry(lambda: require_votes(records, trials))
    rank = retry(lambda: _rank(records, runtime.objective, trials))
    thumbnails: dict[int, Sequence[Tensor]] = {}
    reporter.report(FinalStarted(images=len(study.spec.held_out.items())))

    def keep(trial: StoredTrial, images: Sequence[Tensor]) -> None:
        on_sheet = (study.spec.final.top + len(study.parents)) * len(images)
        thumbnails[trial.number] = [thumbnail(image, on_sheet) for image in images]
        if study.spec.render.keep != "none":
            retry(lambda: _save_renders(study, trial, images, artifacts))

    held = hold_final(runtime, trials, rank, progress, keep)
    final = retry(lambda: _stored(records, held))
    retry(lambda: _remove_former(study, final, artifacts))
    reporter.report(FinalHeld(final=final))
    return Finish(final=final, sheet=retry(lambda: save_final_sheet(study, final, trials, thumbnails, artifacts)))


def _stored(records: StudyRecords, held: Final) -> Final:
    """Store a final, and return it with what votes on its renders say: some may be there from one before."""
    store_final(records, by_votes(records.study, held, load_votes(records, held_out=True)))
    refresh_final(records)  # a vote may have come in between
    final = load_final(records)
    if final is None:
        raise FinalError(f"the final of study {records.study.name!r} was removed while it was stored: hold it again")
    return final


def _save_renders(study: StoredStudy, trial: StoredTrial, images: Sequence[Tensor], artifacts: Artifacts) -> None:
    """Store the held-out renders of a trial at full size.

    Args:
        images: uint8 [3, h, w], in item order.
    """
    suite = study.spec.held_out
    renders = zip(suite.items(), (image.numpy() for image in images), strict=True)
    artifacts.of_final(study.key).save_renders(
        documented_renders(study, suite, renders, number=trial.number, origin=trial.origin, recipe=trial.recipe)
    )


def _remove_former(study: StoredStudy, final: Final, artifacts: Artifacts) -> None:
    """Remove the renders of an earlier final that are not of this one."""
    files = artifacts.of_final(study.key)
    wanted = {name for finalist in final.finalists for name in render_names(study.spec.held_out, finalist.number)}
    for file in sorted(files.files() - wanted):
        artifacts.store.remove(files.name(file))
