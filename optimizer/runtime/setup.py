"""Load a plan's parents and scorers, and build the pipeline on the live model: from a plan to a runtime."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from optimizer.merging.engine.ingredients import Ingredients
from optimizer.merging.engine.placement import device_free
from optimizer.merging.engine.resident import ResidentModel
from optimizer.rendering.largest_batches import LargestBatches
from optimizer.rendering.loras import NO_LORAS, SuiteLoras
from optimizer.rendering.models import build_models
from optimizer.rendering.prediction import agreed_prediction
from optimizer.rendering.render import Renderer
from optimizer.rendering.variation import render_variation
from optimizer.runtime.device_choice import choose_device, component_dtypes
from optimizer.runtime.fitting import Estimate, require_memory
from optimizer.runtime.memory import MemoryEstimate, estimate_memory, explain_out_of_memory
from optimizer.runtime.parent_files import equal_places
from optimizer.runtime.plan import Plan
from optimizer.runtime.reference_renders import reference_renders
from optimizer.runtime.residence import Residence, choose_residence
from optimizer.search.probes import Probe, make_probes, parent_probe
from optimizer.search.recipe_probes import with_recipes
from optimizer.trial.evaluation import Evaluator
from optimizer.trial.objective import Objective
from optimizer.trial.references import LoadRenders, References, compared_parents
from scorers.errors import of_scorer
from scorers.protocol import BuildContext, Scorer, ScorerInfo
from scorers.registry import build, parse_settings
from studies.recipe.blueprint import Blueprint
from studies.recipe.recipe import DtypeName
from studies.records.values import ParentFile
from studies.spec.rendering import RenderSettings
from studies.spec.search import RacingSettings
from studies.spec.study import StudySpec
from studies.spec.suite import SuiteSettings

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Everything a worker needs to turn trials into results."""

    plan: Plan
    parents: tuple[ParentFile, ...]
    blueprint: Blueprint
    equal_places: frozenset[str]  # where all parents hold the same bytes
    probes: tuple[Probe, ...]
    evaluator: Evaluator
    device: torch.device
    variation: float  # grey levels between two renders of one item of parent A; 0 if the machine is deterministic

    @property
    def infos(self) -> Mapping[str, ScorerInfo]:
        """What the loaded scorers measure: their units may depend on the reference images."""
        return self.plan.infos

    @property
    def spec(self) -> StudySpec:
        return self.plan.spec

    @property
    def objective(self) -> Objective:
        return Objective.of(self.spec, self.infos)


def build_runtime(plan: Plan, parents: Sequence[ParentFile], cache_dir: Path) -> Runtime:
    """Load parents, pipeline and scorers.

    Raises:
        CheckpointError, RenderError, ScorerError, RecipeError: a part cannot be loaded.
        NoMemoryError: it does not fit into memory.
    """
    device = choose_device(plan.spec.render.device)
    files = load_reference_renders(plan, device, cache_dir)  # first, while no parent is in memory
    plan, scorers = load_scorers(plan, parents, device, cache_dir)
    blueprint = plan.blueprint(parents)
    resident, renderer = build_renderer(
        plan.ingredients,
        plan.spec.suite,
        plan.spec.render,
        device,
        plan.spec.export.dtype,
        plan.spec.racing,
        loras=plan.suite_loras,
    )
    equal = equal_places(plan)
    plan.ingredients.require_unchanged()  # what was loaded must be what was hashed
    plan.suite_loras.opened.require_unchanged()
    alone = {to: parent_probe(plan.space, blueprint, to, equal).recipe for to in compared_parents(plan.spec)}
    return Runtime(
        plan=plan,
        parents=tuple(parents),
        blueprint=blueprint,
        equal_places=equal,
        probes=make_probes(plan.spec, plan.space, blueprint, equal),
        evaluator=Evaluator(
            resident,
            renderer,
            scorers,
            degenerate_limit=plan.spec.render.degenerate_limit,
            references=References(plan.spec.suite, alone, files),
        ),
        device=device,
        # A CPU is deterministic, and may take minutes for an image.
        variation=0.0 if device.type == "cpu" else render_variation(renderer),
    )


def load_reference_renders(plan: Plan, device: torch.device, cache_dir: Path) -> dict[str, LoadRenders]:
    """Return path -> how the renders of a checkpoint that scorers compare with are loaded: see `reference_renders`."""

    def render(ingredients: Ingredients) -> Renderer:
        spec = plan.spec
        _, renderer = build_renderer(
            ingredients, spec.suite, spec.render, device, spec.export.dtype, spec.racing, loras=plan.suite_loras
        )
        return renderer

    return reference_renders(plan, device, cache_dir, render)


def load_scorers(
    plan: Plan, parents: Sequence[ParentFile], device: torch.device, cache_dir: Path
) -> tuple[Plan, dict[str, Scorer]]:
    """Load a study's scorers, and complete its plan for the database: with recipe files read and units written out.

    Raises:
        ScorerError, RecipeError: weights, references or recipe files cannot be used.
    """
    plan = replace(plan, spec=with_recipes(plan.spec, plan.blueprint(parents)))
    residence = plan_residence(plan, device)
    scorers = build_scorers(plan.spec, device, cache_dir, in_turns=residence.scorers_in_turns)
    infos = {name: scorer.info for name, scorer in scorers.items()}
    return replace(plan, spec=with_units(plan.spec, infos), infos=infos), scorers


def plan_residence(plan: Plan, device: torch.device) -> Residence:
    """Choose what stays on the device and what takes turns there, given its free memory."""
    return choose_residence(
        estimate_plan_memory(plan, device), device_free(device), cuda_graphs=uses_graphs(plan.spec.render, device)
    )


def uses_graphs(settings: RenderSettings, device: torch.device) -> bool:
    """Return whether the U-Net's kernels are to be recorded, given the memory."""
    return settings.cuda_graphs and device.type == "cuda"


def estimate_plan_memory(plan: Plan, device: torch.device) -> MemoryEstimate:
    """Estimate from headers alone how much memory a study takes."""
    return _plan_estimate(plan, device)(plan.spec.suite, plan.spec.render)


def require_plan_memory(plan: Plan, device: torch.device) -> None:
    """Refuse a study that does not fit beside what is loaded now.

    Raises:
        NoMemoryError: it does not fit; the message says what would.
    """
    require_memory(_plan_estimate(plan, device), plan.spec.suite, plan.spec.render, device)


def _plan_estimate(plan: Plan, device: torch.device) -> Estimate:
    return _estimate_of(plan.ingredients, device, plan.spec.export.dtype, plan.suite_loras)


def _estimate_of(
    ingredients: Ingredients, device: torch.device, export_dtype: DtypeName | None, loras: SuiteLoras
) -> Estimate:
    """Return a function that estimates how much memory a merge takes with a suite and settings."""

    def estimate(suite: SuiteSettings, settings: RenderSettings) -> MemoryEstimate:
        return estimate_memory(
            ingredients,
            suite,
            device,
            component_dtypes(ingredients, settings, device, export_dtype),
            export_dtype=export_dtype,
            batch_size=settings.batch_size,
            vae_tiling=settings.vae_tiling,
            on_top=loras.loras,
        )

    return estimate


def build_scorers(
    spec: StudySpec, device: torch.device, cache_dir: Path, *, in_turns: bool = False
) -> dict[str, Scorer]:
    """Load every scorer's weights and references.

    Args:
        in_turns: whether their networks are on the device only while they score.

    Raises:
        ScorerError: weights are missing or wrong, or there are too few reference images.
        NoMemoryError: they do not fit into memory.
    """
    context, scorers = BuildContext(device=str(device), cache_dir=cache_dir, in_turns=in_turns), {}
    for name, entry in spec.scorers.items():
        settings = parse_settings(entry.kind, entry.options, Path("/"))
        with explain_out_of_memory(f"the scorer {name}", device), of_scorer(name):
            scorers[name] = build(entry.kind, settings, context)
    return scorers


def with_units(spec: StudySpec, infos: Mapping[str, ScorerInfo]) -> StudySpec:
    """Write every unit of the objective into the spec, so that the stored study keeps them."""
    if spec.objectives is not None:
        return spec
    terms = {name: term.model_copy(update={"unit": term.unit or infos[name].unit}) for name, term in spec.terms.items()}
    return spec.model_copy(update={"objective": terms})


def build_renderer(
    ingredients: Ingredients,
    suite: SuiteSettings,
    settings: RenderSettings,
    device: torch.device,
    export_dtype: DtypeName | None,
    racing: RacingSettings | None = None,
    largest_batches: LargestBatches | None = None,
    *,
    loras: SuiteLoras = NO_LORAS,
) -> tuple[ResidentModel, Renderer]:
    """Load the parents and build the pipeline on the live model.

    Args:
        racing: the study's settings, even if no trial will be stopped: they decide which items share a batch.
        largest_batches: limits that are known already.
        loras: of the suite.

    Raises:
        NoMemoryError: it does not fit into memory.
    """
    parents = ingredients.parents
    dtypes = component_dtypes(ingredients, settings, device, export_dtype)
    need = require_memory(_estimate_of(ingredients, device, export_dtype, loras), suite, settings, device)
    residence = choose_residence(
        need,
        device_free(device),
        scorers=False,  # they are loaded by now
        cuda_graphs=uses_graphs(settings, device),
    )
    if residence.components_in_turns:
        _log.warning("the whole model does not fit on %s at once: %s", device, residence)
    with explain_out_of_memory("the models", device):
        resident = ResidentModel(
            ingredients,
            device=device,
            live_dtypes=dtypes,
            export_dtype=export_dtype,
            working=need.working[0 if residence.components_in_turns else -1] + residence.cuda_graphs * need.recorded,
            in_turns=residence.components_in_turns,
            on_top=loras.loras,
        )
        prediction = agreed_prediction(parents.checkpoints, suite)
        models = build_models(
            resident,
            prediction,
            fp16_accumulation=settings.fp16_accumulation,
            vae_tiling=settings.vae_tiling,
            cuda_graphs=residence.cuda_graphs,
            loras=loras,
        )
    return resident, Renderer(
        models,
        suite,
        batch_size=settings.batch_size,
        stage_size=None if racing is None else racing.batch,
        stage_order=None if racing is None else racing.order,
        largest_batches=largest_batches,
    )
