"""From a spec to a machine that is ready to work, with everything checked on the way."""

from __future__ import annotations

import logging
import os
import platform
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import psutil
import torch

from optimizer.errors import RenderError
from optimizer.families.clip_tokens import CONTEXT
from optimizer.merging.engine.ingredients import EXPORT_DTYPES, Ingredients
from optimizer.merging.engine.placement import device_free
from optimizer.merging.engine.resident import ResidentModel
from optimizer.merging.files.checkpoint import Checkpoint, letters, model_name
from optimizer.merging.files.layout import Component, live_views
from optimizer.merging.files.parents import Parents
from optimizer.merging.files.vae import VaeFile
from optimizer.merging.lora.file import Lora
from optimizer.rendering.batch_limits import BatchLimits
from optimizer.rendering.configs import text_configs, unet_config, vae_config
from optimizer.rendering.models import build_models, live_dtypes
from optimizer.rendering.prediction import Prediction, agreed_prediction
from optimizer.rendering.prompts import token_count
from optimizer.rendering.render import Renderer, check_suite
from optimizer.rendering.variation import render_variation
from optimizer.runtime.memory import Need, memory_to_load, needed, require_memory
from optimizer.runtime.residence import Residence, choose_residence
from optimizer.search.probes import Probe, make_probes
from optimizer.search.recipe_probes import check_recipe_files, with_recipes
from optimizer.search.sampler import check_options
from optimizer.system.devices import fault_of, usual_device
from optimizer.system.nvidia_driver import driver_version
from optimizer.trial.evaluation import Evaluator
from optimizer.trial.objective import Objective
from scorers.errors import SuiteImagesError
from scorers.protocol import BuildContext, Scorer, ScorerInfo
from scorers.registry import build, parse_settings
from search_spaces.blocks import VAE, place_of, places
from search_spaces.space import SearchSpace
from studies.errors import StudyChangedError
from studies.recipe.blueprint import Blueprint, LoraFile
from studies.recipe.recipe import BakedVae, DtypeName, Parent
from studies.records.values import ParentFile
from studies.spec.rendering import RenderSettings
from studies.spec.search import RacingSettings
from studies.spec.study import StudySpec
from studies.spec.suite import SuiteSettings

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A spec understood: what would be merged, searched and rendered. Nothing is loaded yet."""

    spec: StudySpec
    ingredients: Ingredients
    space: SearchSpace
    prediction: Prediction  # what the merge predicts
    infos: Mapping[str, ScorerInfo]
    notes: tuple[str, ...]  # what the user should know, one line each

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """The parents, as they were opened."""
        return self.ingredients.parents.checkpoints

    @property
    def objective(self) -> Objective:
        return Objective.of(self.spec, self.infos)

    def blueprint(self, parents: Sequence[ParentFile]) -> Blueprint:
        """What every trial's recipe has in common."""
        spec, files = self.spec, self.ingredients
        return Blueprint(
            architecture=files.parents.architecture,
            parents=recipe_parents(parents),
            operations=spec.operations,
            loras=tuple(
                LoraFile(slot=slot, name=lora.name, sha256=lora.sha256)
                for slot, lora in zip(spec.loras, files.loras, strict=True)
            ),
            vae=None if files.vae is None else BakedVae(name=files.vae.name, sha256=files.vae.sha256),
            only_vae=VAE not in {files.place(key) for key in files.parents.tensors},
            dtype=spec.export.dtype,
        )


def make_plan(spec: StudySpec) -> Plan:
    """Open the parents' headers and check that everything fits together.

    Raises:
        SpecError, CheckpointError, SpaceError, ScorerError, RecipeError: what does not.
    """
    checkpoints = tuple(Checkpoint.open(path) for path in spec.parents)
    architecture = checkpoints[0].architecture
    ingredients = Ingredients(
        Parents.of(checkpoints),
        tuple(Lora.open(lora.path) for lora in spec.loras.values()),
        None if spec.vae is None else VaeFile.open(spec.vae),
    )
    prediction = agreed_prediction(checkpoints, spec.suite)
    check_models(ingredients, spec.suite, prediction)
    space = spec.search_space(architecture)
    infos = spec.infos
    items = len(spec.suite.items())
    for info in infos.values():
        info.check_count(items)
    if spec.final.top:
        _check_final(spec, infos)
    if spec.racing is not None:
        _check_racing(spec.racing, infos)
    check_options(spec.sampler, space, len(spec.objectives or ("one",)))
    check_recipe_files(spec, architecture)
    notes = [*ingredients.notes, *_prompt_notes(spec.suite, spec.held_out)]
    notes += [note for info in infos.values() for note in info.notes(items)]
    return Plan(
        # The space as it was understood, so that a preset may change later without changing this study.
        spec=spec.model_copy(update={"space": space.settings}),
        ingredients=ingredients,
        space=space,
        prediction=prediction,
        infos=infos,
        notes=tuple(notes),
    )


def _check_final(spec: StudySpec, infos: Mapping[str, ScorerInfo]) -> None:
    """Raises SuiteImagesError when the held-out suite is too small for a scorer."""
    for info in infos.values():
        try:
            info.check_count(len(spec.held_out.items()))
        except SuiteImagesError as error:
            raise SuiteImagesError(f"final: {error}") from error


def _check_racing(settings: RacingSettings, infos: Mapping[str, ScorerInfo]) -> None:
    """Raises SuiteImagesError when the first stage is too small for a scorer."""
    for info in infos.values():
        if settings.batch < info.min_images:
            raise SuiteImagesError(
                f"racing: scorer {info.name!r} needs at least {info.min_images} images, and the first look is after "
                f"{settings.batch}: use a larger `batch`, or leave racing off"
            )


def check_models(ingredients: Ingredients, suite: SuiteSettings, prediction: Prediction) -> None:
    """Read the models' configurations off the header and check that they can render the suite.

    Raises:
        CheckpointError: a component is missing.
        RenderError: scheduler, steps, clip skip or the kind of U-Net do not fit.
    """
    architecture = ingredients.parents.architecture
    shapes = {key: info.shape for key, info in ingredients.tensors.items()}
    check_suite(
        suite,
        prediction=prediction,
        unet_channels=unet_config(shapes, architecture)["in_channels"],
        latent_channels=vae_config(shapes, architecture)["latent_channels"],
        text_layers=min(text["num_hidden_layers"] for text in text_configs(shapes, architecture).values()),
    )


def _prompt_notes(*suites: SuiteSettings) -> list[str]:
    items = [item for suite in suites for item in suite.items()]
    texts = dict.fromkeys(text for item in items for text in (item.prompt, item.negative))
    return [
        f"the prompt {text[:40]!r}... has {count} tokens, CLIP reads {CONTEXT} and drops the rest"
        for text in texts
        if (count := token_count(text)) > CONTEXT
    ]


# ------------------------------------------------------------------------------------------ parents


def hash_parents(
    plan: Plan,
    known: Sequence[ParentFile] = (),
    progress: Callable[[int], None] | None = None,
    *,
    trust_times: bool = True,
) -> tuple[ParentFile, ...]:
    """Each parent with its sha256; a file of the known size and time is not read again, unless times are not trusted.

    Raises:
        StudyChangedError: a known parent has another content now.
    """
    files = []
    before = {parent.letter: parent for parent in known}
    for letter, checkpoint in zip(letters(len(plan.checkpoints)), plan.checkpoints, strict=True):
        size, changed = checkpoint.size_bytes, checkpoint.mtime_ns
        old = before.get(letter)
        unchanged = trust_times and old is not None and (old.bytes, old.mtime_ns) == (size, changed)
        digest = old.sha256 if old and unchanged else checkpoint.hash(progress)
        if old is not None and digest != old.sha256:
            raise StudyChangedError(
                f"parent {letter} ({checkpoint.path}) is not the file the study began with: sha256 {digest[:10]}... "
                f"instead of {old.sha256[:10]}...; put the old file back, or start a new study"
            )
        files.append(
            ParentFile(
                letter=letter,
                path=checkpoint.path,
                sha256=digest,
                bytes=size,
                mtime_ns=changed,
            )
        )
    return tuple(files)


def recipe_parents(files: Sequence[ParentFile]) -> tuple[Parent, ...]:
    return tuple(Parent(letter=file.letter, name=model_name(file.path), sha256=file.sha256) for file in files)


def alike_places(plan: Plan) -> frozenset[str]:
    """Frozen places in which all parents hold the same bytes, so that a ratio means nothing there: often the VAE."""
    parents = plan.ingredients.parents
    fixed = {place for place, slot, _ in plan.space.fixed if slot in plan.space.ratio_slots}
    different: set[str] = set()
    for key in parents.tensors:
        place = place_of(key, parents.architecture)
        if place in fixed and place not in different and parents.is_merged(key):
            stored = parents.tensor(key, 0)
            if not all(_same(stored, parents.tensor(key, index)) for index in range(1, len(parents.checkpoints))):
                different.add(place)
    return frozenset(fixed & set(places(parents.architecture))) - different


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and bool(torch.equal(one, other))


# ------------------------------------------------------------------------------------------ machine


def choose_device(name: str) -> torch.device:
    """`auto` takes a CUDA device that works, else Apple's, else the CPU.

    Raises:
        RenderError: the device is not there, or cannot compute.
    """
    if name == "auto":
        return usual_device()
    reason = fault_of(name)
    if reason is not None:
        raise RenderError(f"device {name!r} cannot be used ({reason}): write auto, cpu or cuda")
    return torch.device(name)


def render_dtype(settings: RenderSettings, device: torch.device, saved: torch.dtype = torch.float16) -> torch.dtype:
    """What the U-Net and the text encoders compute in.

    Args:
        saved: what most of the merge's U-Net is saved in. `auto` renders bfloat16 as such on a card that has it, for it
            holds what float16 cannot. An exported file tells the same of itself, and so renders alike.

    Raises:
        RenderError: a CPU is asked for something else than float32.
    """
    if settings.dtype == "auto":
        half = torch.bfloat16 if saved == torch.bfloat16 and _has_bfloat16(device) else torch.float16
        return torch.float32 if device.type == "cpu" else half
    if device.type == "cpu" and settings.dtype != "fp32":
        raise RenderError(f"a CPU renders in fp32, the spec asks for {settings.dtype}: write `dtype: auto`")
    return EXPORT_DTYPES[settings.dtype]


def _has_bfloat16(device: torch.device) -> bool:
    """Since Ampere; older cards only imitate it, slowly."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def computes_in(
    ingredients: Ingredients, settings: RenderSettings, device: torch.device, export_dtype: DtypeName | None
) -> Mapping[Component, torch.dtype]:
    """What each component of a merge computes in."""
    architecture, saved = ingredients.parents.architecture, Counter[torch.dtype]()
    for key, info in ingredients.tensors.items():
        if any(view.component == "unet" for view in live_views(key, architecture, len(info.shape))):
            saved[ingredients.saved_dtype(key, export_dtype)] += info.size
    most = max(saved, key=lambda dtype: saved[dtype], default=torch.float16)
    return live_dtypes(device, render_dtype(settings, device, most))


def build_renderer(
    ingredients: Ingredients,
    suite: SuiteSettings,
    settings: RenderSettings,
    device: torch.device,
    export_dtype: DtypeName | None,
    racing: RacingSettings | None = None,
    limits: BatchLimits | None = None,
) -> tuple[ResidentModel, Renderer]:
    """Parents in memory and a pipeline over the live model.

    Args:
        racing: the study's, whether or not anything is to be stopped: it decides which items share a batch.
        limits: of batches, known from before.

    Raises:
        NoMemoryError: it cannot fit, or did not.
    """
    parents = ingredients.parents
    dtypes = computes_in(ingredients, settings, device, export_dtype)
    need = needed(ingredients, suite, device, dtypes, export_dtype=export_dtype, batch_size=settings.batch_size)
    require_memory(need, device)
    residence = choose_residence(need, device_free(device), scorers=False)  # which are loaded by now
    if residence.components_in_turns:
        _log.warning("%s has no memory for all of the model at once: %s", device, residence)
    with memory_to_load("the models", device):
        resident = ResidentModel(
            ingredients,
            device=device,
            live_dtypes=dtypes,
            export_dtype=export_dtype,
            working=need.working[0 if residence.components_in_turns else -1],
            in_turns=residence.components_in_turns,
        )
        models = build_models(resident, agreed_prediction(parents.checkpoints, suite))
    stage_size = None if racing is None else racing.batch
    return resident, Renderer(models, suite, batch_size=settings.batch_size, stage_size=stage_size, limits=limits)


def need_of(plan: Plan, device: torch.device) -> Need:
    """What a study takes of memory, told by headers alone."""
    spec = plan.spec
    dtypes = computes_in(plan.ingredients, spec.render, device, spec.export.dtype)
    return needed(
        plan.ingredients,
        spec.suite,
        device,
        dtypes,
        export_dtype=spec.export.dtype,
        batch_size=spec.render.batch_size,
    )


def plan_residence(plan: Plan, device: torch.device) -> Residence:
    """What will stay on the device and what will take turns, with the memory that is free now."""
    return choose_residence(need_of(plan, device), device_free(device))


def build_scorers(
    spec: StudySpec, device: torch.device, cache_dir: Path, *, in_turns: bool = False
) -> dict[str, Scorer]:
    """Load every scorer's weights and references.

    Args:
        in_turns: whether their networks are on the device only while they score.

    Raises:
        ScorerError: weights are missing or wrong, or references too few.
        NoMemoryError: they did not fit.
    """
    context, scorers = BuildContext(device=str(device), cache_dir=cache_dir, in_turns=in_turns), {}
    for name, entry in spec.scorers.items():
        with memory_to_load(f"the scorer {name}", device):
            scorers[name] = build(entry.kind, parse_settings(entry.kind, entry.options, Path("/")), context)
    return scorers


def with_units(spec: StudySpec, infos: Mapping[str, ScorerInfo]) -> StudySpec:
    """The spec with every unit of its objective written out: it is stored so, and cannot drift."""
    if spec.objectives is not None:
        return spec
    terms = {name: term.model_copy(update={"unit": term.unit or infos[name].unit}) for name, term in spec.terms.items()}
    return spec.model_copy(update={"objective": terms})


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Everything a worker needs to turn trials into results."""

    plan: Plan
    parents: tuple[ParentFile, ...]
    blueprint: Blueprint
    alike: frozenset[str]  # places in which all parents are the same
    probes: tuple[Probe, ...]
    evaluator: Evaluator
    device: torch.device
    variation: float  # grey levels between two renders of one item of parent A; 0 where the machine repeats itself

    @property
    def infos(self) -> Mapping[str, ScorerInfo]:
        """Of the built scorers: units may depend on the reference images."""
        return self.plan.infos

    @property
    def spec(self) -> StudySpec:
        return self.plan.spec

    @property
    def objective(self) -> Objective:
        return Objective.of(self.spec, self.infos)


CPU_SETTINGS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")


# Of a machine's description:
BATCHES_FIELD = "batches"  # where memory was too small for the usual ones
VARIATION_FIELD = "variation"  # grey levels between two renders of one item, where the machine does not repeat itself


def machine_description(
    device: torch.device, limits: BatchLimits | None = None, variation: float = 0.0
) -> dict[str, str]:
    """What the exact pixels of a render depend on beyond the recipe.

    Args:
        limits: of batches, as they are when the trial ends.
        variation: how far apart two renders of one item are here, in grey levels.
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    instructions = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    libraries = {package: version(package) for package in ("torch", "diffusers", "transformers")}
    settings = {name: os.environ[name] for name in CPU_SETTINGS if name in os.environ}
    found = {"device": name, "cpu": instructions, "threads": str(torch.get_num_threads()), **libraries, **settings}
    found |= _cuda_description(device) if device.type == "cuda" else {}
    found |= {BATCHES_FIELD: str(limits)} if limits is not None and limits.most else {}
    return found | ({VARIATION_FIELD: f"{variation:.2g}"} if variation else {})


def _cuda_description(device: torch.device) -> dict[str, str]:
    """By what kernels are chosen, and by what they are compiled."""
    major, minor = torch.cuda.get_device_capability(device)
    return {
        "capability": f"{major}.{minor}",
        "cudnn": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
        "driver": driver_version() or "unknown",
    }


def device_kind(device: torch.device) -> str:
    """Its name and memory: machines of one kind can render the same number of images at once."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name}, {properties.total_memory / 1e9:.0f} GB"
    return f"{device.type}, {psutil.virtual_memory().total / 1e9:.0f} GB"


def settled(
    plan: Plan, parents: Sequence[ParentFile], device: torch.device, cache_dir: Path
) -> tuple[Plan, dict[str, Scorer]]:
    """The plan as it is stored, with recipe files read and units written out, and the scorers that tell the units.

    Raises:
        ScorerError, RecipeError: weights, references or recipe files cannot be used.
    """
    plan = replace(plan, spec=with_recipes(plan.spec, plan.blueprint(parents)))
    residence = plan_residence(plan, device)
    scorers = build_scorers(plan.spec, device, cache_dir, in_turns=residence.scorers_in_turns)
    infos = {name: scorer.info for name, scorer in scorers.items()}
    return replace(plan, spec=with_units(plan.spec, infos), infos=infos), scorers


def build_machine(plan: Plan, parents: Sequence[ParentFile], cache_dir: Path) -> Machine:
    """Load parents, pipeline and scorers.

    Raises:
        CheckpointError, RenderError, ScorerError, RecipeError: what cannot be loaded.
    """
    device = choose_device(plan.spec.render.device)
    plan, scorers = settled(plan, parents, device, cache_dir)
    blueprint = plan.blueprint(parents)
    resident, renderer = build_renderer(
        plan.ingredients, plan.spec.suite, plan.spec.render, device, plan.spec.export.dtype, plan.spec.racing
    )
    alike = alike_places(plan)
    plan.ingredients.require_unchanged()  # or what was hashed is not what was loaded
    return Machine(
        plan=plan,
        parents=tuple(parents),
        blueprint=blueprint,
        alike=alike,
        probes=make_probes(plan.spec, plan.space, blueprint, alike),
        evaluator=Evaluator(resident, renderer, scorers, degenerate_limit=plan.spec.render.degenerate_limit),
        device=device,
        # A CPU repeats itself, and may take minutes for an image.
        variation=0.0 if device.type == "cpu" else render_variation(renderer),
    )
