"""From a spec to a machine that is ready to work, with everything checked on the way."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch

from optimizer.errors import CheckpointError, RenderError
from optimizer.evaluation import Evaluator
from optimizer.merging.checkpoint import Checkpoint, KeyDifferences, compare_parents, letters, sha256_of
from optimizer.merging.resident import ResidentModel
from optimizer.objective import Objective
from optimizer.rendering.configs import clip_l_config, open_clip_config, unet_config, vae_config
from optimizer.rendering.models import build_models, live_dtypes
from optimizer.rendering.prompts import CONTEXT, token_count
from optimizer.rendering.render import Renderer, check_suite
from optimizer.search.probes import Probe, make_probes
from optimizer.search.sampler import make_sampler
from scorers.protocol import BuildContext, Scorer, ScorerInfo
from scorers.registry import build, parse_settings
from search_spaces.blocks import Architecture, place_of, places
from search_spaces.space import SearchSpace
from studies.errors import StudyChangedError
from studies.recipe import METHODS, DtypeName, Parent
from studies.results import ParentFile
from studies.spec import RenderSettings, StudySpec, SuiteSettings

PREDICTION_MARKERS = frozenset({"v_pred", "ztsnr"})
DTYPES: Mapping[str, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A spec understood: what would be merged, searched and rendered. Nothing is loaded yet."""

    spec: StudySpec
    checkpoints: tuple[Checkpoint, ...]
    differences: KeyDifferences
    space: SearchSpace
    infos: Mapping[str, ScorerInfo]
    notes: tuple[str, ...]  # what the user should know, one line each

    @property
    def objective(self) -> Objective:
        return Objective.of(self.spec, self.infos)


def make_plan(spec: StudySpec) -> Plan:
    """Open the parents' headers and check that everything fits together.

    Raises:
        SpecError, CheckpointError, SpaceError, ScorerError: what does not.
    """
    checkpoints = tuple(Checkpoint.open(path) for path in spec.parents)
    architecture = checkpoints[0].architecture
    differences = compare_parents(checkpoints)
    for checkpoint in checkpoints:
        refuse_other_predictions(checkpoint)
    check_models(checkpoints[0], spec.suite)
    slots = METHODS[spec.method].slots(letters(len(checkpoints)))
    space = SearchSpace.build(spec.space, architecture, slots)
    infos = {name: entry.info for name, entry in spec.scorers.items()}
    items = len(spec.suite.items())
    for info in infos.values():
        info.check_count(items)
    make_sampler(spec.sampler, 0, len(spec.objectives or ("one",)))
    notes = [*_key_notes(differences), *_prompt_notes(spec.suite)]
    notes += [note for info in infos.values() for note in info.notes(items)]
    return Plan(
        # The space as it was understood, so that a preset may change later without changing this study.
        spec=spec.model_copy(update={"space": space.settings}),
        checkpoints=checkpoints,
        differences=differences,
        space=space,
        infos=infos,
        notes=tuple(notes),
    )


def check_models(checkpoint: Checkpoint, suite: SuiteSettings) -> None:
    """Read the models' configurations off the header and check that they can render the suite.

    Raises:
        CheckpointError: a component is missing.
        RenderError: steps, clip skip or the kind of U-Net do not fit.
    """
    shapes = {key: info.shape for key, info in checkpoint.tensors.items()}
    texts = [clip_l_config(shapes, checkpoint.architecture)]
    if checkpoint.architecture == Architecture.SDXL:
        texts.append(open_clip_config(shapes))
    check_suite(
        suite,
        unet_channels=unet_config(shapes, checkpoint.architecture)["in_channels"],
        latent_channels=vae_config(shapes, checkpoint.architecture)["latent_channels"],
        text_layers=min(text["num_hidden_layers"] for text in texts),
    )


def refuse_other_predictions(checkpoint: Checkpoint) -> None:
    """Raises CheckpointError for a model that says it predicts something else than noise."""
    found = [key for key in checkpoint.tensors if key in PREDICTION_MARKERS or key.startswith("edm_")]
    if found:
        raise CheckpointError(
            f"{checkpoint.path.name} is marked {', '.join(found)}: models that predict v or follow EDM cannot be "
            "rendered yet; use checkpoints that predict noise (epsilon)"
        )


def _key_notes(differences: KeyDifferences) -> list[str]:
    notes = []
    for letter, keys in differences.missing.items():
        if keys:
            notes.append(f"{len(keys)} tensors are not in {letter} and stay parent A's: {_some(keys)}")
    for letter, keys in differences.extra.items():
        if keys:
            notes.append(f"{len(keys)} tensors are only in {letter} and are left out: {_some(keys)}")
    return notes


def _some(keys: Sequence[str]) -> str:
    return ", ".join(keys[:3]) + (" ..." if len(keys) > 3 else "")


def _prompt_notes(suite: SuiteSettings) -> list[str]:
    texts = dict.fromkeys(text for item in suite.items() for text in (item.prompt, item.negative))
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
        stat = checkpoint.path.stat()
        old = before.get(letter)
        unchanged = trust_times and old is not None and (old.bytes, old.mtime_ns) == (stat.st_size, stat.st_mtime_ns)
        digest = old.sha256 if old and unchanged else sha256_of(checkpoint.path, progress)
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
                bytes=stat.st_size,
                mtime_ns=stat.st_mtime_ns,
            )
        )
    return tuple(files)


def recipe_parents(files: Sequence[ParentFile]) -> tuple[Parent, ...]:
    return tuple(Parent(letter=file.letter, name=file.path.stem, sha256=file.sha256) for file in files)


def alike_places(plan: Plan) -> frozenset[str]:
    """Frozen places in which all parents hold the same bytes, so that a ratio means nothing there: often the VAE."""
    first, *others = plan.checkpoints
    fixed = {place for place, _ in plan.space.fixed}
    different: set[str] = set()
    for key in first.tensors:
        place = place_of(key, first.architecture)
        if place in fixed and place not in different:
            stored = first.tensor(key)
            if not all(key in other.tensors and _same(stored, other.tensor(key)) for other in others):
                different.add(place)
    return frozenset(fixed & set(places(first.architecture))) - different


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and bool(torch.equal(one, other))


# ------------------------------------------------------------------------------------------ machine


def choose_device(name: str) -> torch.device:
    """`auto` takes a CUDA device, else Apple's, else the CPU.

    Raises:
        RenderError: the device is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise RenderError(f"device {name!r} cannot be used ({reason}): write auto, cpu or cuda") from error
    return device


def render_dtype(settings: RenderSettings, device: torch.device) -> torch.dtype:
    if settings.dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.float16
    if device.type == "cpu" and settings.dtype != "fp32":
        raise RenderError(f"a CPU renders in fp32, the spec asks for {settings.dtype}: write `dtype: auto`")
    return DTYPES[settings.dtype]


def build_renderer(
    checkpoints: Sequence[Checkpoint],
    suite: SuiteSettings,
    settings: RenderSettings,
    device: torch.device,
    export_dtype: DtypeName | None,
) -> tuple[ResidentModel, Renderer]:
    """Parents in memory and a pipeline over the live model."""
    dtypes = live_dtypes(device, checkpoints[0].architecture, render_dtype(settings, device))
    resident = ResidentModel(checkpoints, device=device, live_dtypes=dtypes, export_dtype=export_dtype)
    return resident, Renderer(build_models(resident), suite, batch_size=settings.batch_size)


def build_scorers(spec: StudySpec, device: torch.device, cache_dir: Path) -> dict[str, Scorer]:
    """Load every scorer's weights and references.

    Raises:
        ScorerError: weights are missing or wrong, or references too few.
    """
    context = BuildContext(device=str(device), cache_dir=cache_dir, base_dir=Path("/"))
    return {
        name: build(entry.kind, parse_settings(entry.kind, entry.options, Path("/")), context)
        for name, entry in spec.scorers.items()
    }


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
    probes: tuple[Probe, ...]
    evaluator: Evaluator
    device: torch.device

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


def machine_description(device: torch.device) -> dict[str, str]:
    """What the exact pixels of a render depend on beyond the recipe."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    instructions = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    libraries = {package: version(package) for package in ("torch", "diffusers", "transformers")}
    settings = {name: os.environ[name] for name in CPU_SETTINGS if name in os.environ}
    return {"device": name, "cpu": instructions, "threads": str(torch.get_num_threads()), **libraries, **settings}


def build_machine(plan: Plan, parents: Sequence[ParentFile], cache_dir: Path) -> Machine:
    """Load parents, pipeline and scorers.

    Raises:
        CheckpointError, RenderError, ScorerError: what cannot be loaded.
    """
    device = choose_device(plan.spec.render.device)
    scorers = build_scorers(plan.spec, device, cache_dir)
    infos = {name: scorer.info for name, scorer in scorers.items()}
    plan = replace(plan, spec=with_units(plan.spec, infos), infos=infos)
    resident, renderer = build_renderer(
        plan.checkpoints, plan.spec.suite, plan.spec.render, device, plan.spec.export.dtype
    )
    return Machine(
        plan=plan,
        parents=tuple(parents),
        probes=make_probes(plan.spec, plan.space, recipe_parents(parents), alike_places(plan)),
        evaluator=Evaluator(resident, renderer, scorers, degenerate_limit=plan.spec.render.degenerate_limit),
        device=device,
    )


SETTLED = ("parents", "method", "suite", "scorers", "objectives", "probes", "sampler", "export")


def check_changed(stored: StudySpec, spec: StudySpec) -> None:
    """Raises StudyChangedError when a spec file is not the one the study began with."""
    changed = [name for name in SETTLED if getattr(stored, name) != getattr(spec, name)]
    if changed:
        raise StudyChangedError(
            f"`{'`, `'.join(changed)}` of the spec changed since the study began: its scores could not be compared; "
            "undo the change, start a new study, or resume this one by its name"
        )
