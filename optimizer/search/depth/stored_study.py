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


def space_of(study: StoredStudy, trial: StoredTrial) -> SearchSpace:
    """Build the search space of a stored study without opening its files; any of its trials has the architecture."""
    return study.spec.search_space(Architecture(trial.recipe.architecture))


def fitted_model(
    records: StudyRecords, trials: Sequence[StoredTrial], objective: int
) -> tuple[DepthModel, list[FrozenTrial]] | None:
    """Fit the depth-aware model to one objective; None if it cannot be fitted.

    Args:
        trials: of the study, at least one.
        objective: index of the objective.

    Returns:
        The model, and the complete trials that it was fitted to.
    """
    from optimizer.search.depth.gaussian_process import NUMERICAL_ERRORS  # BoTorch takes seconds to import

    space = space_of(records.study, trials[0])
    in_optuna = optuna_study(records)
    try:
        model = DepthModel.of(space, in_optuna.get_trials(deepcopy=False), in_optuna.directions, objective)
    except (StudyError, *NUMERICAL_ERRORS):
        return None
    names = {parameter.name for parameter in space.parameters}
    complete = in_optuna.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return model, [trial for trial in complete if names <= trial.params.keys()]
