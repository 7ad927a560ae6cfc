"""The depth-aware model fitted to the trials of a stored study, whichever sampler proposed them."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState

from optimizer.search.depth.posterior import DepthModel
from search_spaces.blocks import Architecture
from search_spaces.space import SearchSpace
from studies.errors import StudyError
from studies.records.optuna_studies import optuna_study
from studies.records.study_records import StudyRecords
from studies.records.values import StoredStudy, StoredTrial


def space_of(study: StoredStudy, row: StoredTrial) -> SearchSpace:
    """The search space of a stored study, without opening its files; any of its trials tells the architecture."""
    return study.spec.search_space(Architecture(row.recipe.architecture))


def fitted_model(
    records: StudyRecords, rows: Sequence[StoredTrial], objective: int
) -> tuple[DepthModel, list[FrozenTrial]] | None:
    """The depth-aware model of one objective and the complete trials it has seen; None where it cannot be fitted.

    Args:
        rows: the study's trials, at least one.
    """
    from optimizer.search.depth.gaussian_process import NUMERICAL_ERRORS  # BoTorch takes seconds to import

    space = space_of(records.study, rows[0])
    stored = optuna_study(records)
    try:
        model = DepthModel.of(space, stored.get_trials(deepcopy=False), stored.directions, objective)
    except (StudyError, *NUMERICAL_ERRORS):
        return None
    names = {row.name for row in space.parameters}
    complete = stored.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return model, [trial for trial in complete if names <= trial.params.keys()]
