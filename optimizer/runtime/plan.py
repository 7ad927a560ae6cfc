"""A spec with its files opened by their headers, and every check that needs no loaded model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from basics.messages import first_of
from optimizer.errors import CheckpointError
from optimizer.families.registry import model_family
from optimizer.merging.engine.ingredients import Ingredients
from optimizer.merging.files.checkpoint import Checkpoint, model_name
from optimizer.merging.files.layout import live_views
from optimizer.merging.files.parents import Parents
from optimizer.merging.files.vae import VaeFile
from optimizer.merging.lora.file import Lora
from optimizer.rendering.guidance import check_perturbed, self_attentions
from optimizer.rendering.loras import SuiteLoras
from optimizer.rendering.prediction import Prediction, agreed_prediction, unmarked_flow_note
from optimizer.rendering.prompts.check import SuitePrompts, read_suites
from optimizer.rendering.render import check_suite
from optimizer.rendering.sameness import repeated_renders
from optimizer.search.recipe_probes import check_recipe_files
from optimizer.search.sampler import check_options, constraint_notes
from optimizer.trial.image_counts import check_image_counts
from optimizer.trial.image_shapes import shape_notes
from optimizer.trial.objective import Objective
from optimizer.trial.references import compared_files
from scorers.protocol import ScorerInfo
from search_spaces.blocks import UNET, VAE, Architecture
from search_spaces.space import SearchSpace
from studies.errors import SpecError
from studies.recipe.blueprint import Blueprint, LoraFile
from studies.recipe.recipe import BakedVae, Parent
from studies.records.values import ParentFile
from studies.spec.preference import preference_notes
from studies.spec.study import StudySpec
from studies.spec.suite import SuiteSettings


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A checked spec with its opened files: what would be merged, searched and rendered; nothing is loaded yet."""

    spec: StudySpec
    ingredients: Ingredients
    space: SearchSpace
    prediction: Prediction  # of the merged U-Net
    infos: Mapping[str, ScorerInfo]
    prompts: SuitePrompts  # of the suite and of the final's, as they are read
    suite_loras: SuiteLoras  # on top of every merge while it is rendered
    notes: tuple[str, ...]  # for the user, one line each

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """The parents, as they were opened."""
        return self.ingredients.parents.checkpoints

    @property
    def objective(self) -> Objective:
        return Objective.of(self.spec, self.infos)

    def blueprint(self, parents: Sequence[ParentFile]) -> Blueprint:
        """Return what the recipes of all trials have in common."""
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


def recipe_parents(files: Sequence[ParentFile]) -> tuple[Parent, ...]:
    """Return the parents as a recipe names them."""
    return tuple(Parent(letter=file.letter, name=model_name(file.path), sha256=file.sha256) for file in files)


def make_plan(spec: StudySpec, *, begun: bool = False) -> Plan:
    """Open the parents' headers and check that everything fits together.

    Args:
        begun: whether the study is stored already. It opens even if it renders an image twice or its numbers are far
            outside of what merges use, which in a new spec are slips.

    Raises:
        CheckpointError: a parent, LoRA or VAE cannot be used, or they do not fit together.
        RenderError: the models cannot render the suite, or a prompt cannot be read.
        SpaceError, ScorerError, RecipeError, SpecError: a part of the spec does not fit them, or the suite.
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
    check_perturbed(spec.held_out, self_attentions(_unet_parameters(ingredients)))
    suites = (spec.suite, spec.held_out)
    prompts = read_suites(suites, architecture, _text_widths(ingredients), prediction)
    suite_loras = SuiteLoras.open(suites, ingredients.tensors, architecture)
    _check_references(spec, architecture, prediction)
    space = spec.search_space(architecture)
    infos = spec.infos
    check_image_counts(spec, infos)
    check_options(spec.sampler, space, objectives=len(spec.objectives or ("objective",)))
    check_recipe_files(spec, architecture)
    repeated = tuple(repeated_renders(spec, architecture, begun=begun))
    if not begun:
        _refuse([f"space: {line}" for line in space.unusual] + [f"probes: {line}" for line in spec.probes.unusual])
        _refuse(prompts.slips)
        _refuse(repeated)
    notes = [*ingredients.notes, *ingredients.narrow_dtype_notes(spec.export.dtype), *repeated]
    if spec.suite.prediction == "auto":
        called = filter(None, map(unmarked_flow_note, checkpoints))
        notes += [f"{note}: if it follows a flow, write `suite: {{prediction: flow}}`" for note in called]
    notes += [*constraint_notes(spec), *shape_notes(spec), *preference_notes(spec)]
    notes += [*prompts.notes, *suite_loras.notes, *_counted_twice(ingredients, suite_loras)]
    notes += [note for name, info in infos.items() for note in info.notes(len(spec.suite.looked_at_by(name)))]
    return Plan(
        # The resolved space is stored, so that a preset may change later without changing this study.
        spec=spec.model_copy(update={"space": space.settings}),
        ingredients=ingredients,
        space=space,
        prediction=prediction,
        infos=infos,
        prompts=prompts,
        suite_loras=suite_loras,
        notes=tuple(notes),
    )


def _counted_twice(ingredients: Ingredients, on_top: SuiteLoras) -> Iterator[str]:
    """Yield a line for each LoRA that is part of the merge and lies on top of it as well."""
    merged = {lora.path.resolve() for lora in ingredients.loras}
    for lora in on_top.loras:
        if lora.path.resolve() in merged:
            yield (
                f"{lora.path.name} is part of the merge (`loras`) and lies on top of its renders as well (`suite`), so "
                "they show it twice"
            )


def check_models(ingredients: Ingredients, suite: SuiteSettings, prediction: Prediction) -> None:
    """Read the models' configurations off the headers and check that they can render the suite.

    Raises:
        CheckpointError: a component is missing.
        RenderError: steps, clip skip, layers or the kind of U-Net do not fit the suite.
    """
    architecture = ingredients.parents.architecture
    family = model_family(architecture)
    shapes = {key: info.shape for key, info in ingredients.tensors.items()}
    check_suite(
        suite,
        architecture=architecture,
        prediction=prediction,
        unet_channels=family.unet_config(shapes)["in_channels"],
        unet_parameters=_unet_parameters(ingredients),
        latent_channels=family.vae_config(shapes)["latent_channels"],
        text_layers=min(text["num_hidden_layers"] for text in family.text_configs(shapes).values()),
    )


def check_suites(plan: Plan, suites: Sequence[SuiteSettings]) -> SuiteLoras:
    """Check that a plan's models can render other suites in its syntax, and open the LoRAs that these use.

    Raises:
        RenderError: they cannot render one, or a prompt cannot be read.
        LoraError: a LoRA cannot be used.
    """
    ingredients = plan.ingredients
    architecture = ingredients.parents.architecture
    for suite in suites:
        check_models(ingredients, suite, plan.prediction)
    read_suites(suites, architecture, _text_widths(ingredients), plan.prediction)
    return SuiteLoras.open(suites, ingredients.tensors, architecture)


def _check_references(spec: StudySpec, architecture: Architecture, prediction: Prediction) -> None:
    """Refuse checkpoints that scorers compare with and that cannot render the study's suites.

    Raises:
        CheckpointError: one is no checkpoint, or of another architecture than the parents.
        RenderError: one cannot render a suite.
    """
    for path in compared_files(spec):
        checkpoint = Checkpoint.open(Path(path))
        if checkpoint.architecture != architecture:
            raise CheckpointError(
                f"{path}, which a scorer compares with, is {checkpoint.architecture}, and the parents are "
                f"{architecture}: name a checkpoint of the parents' kind"
            )
        for suite in (spec.suite, *([spec.held_out] if spec.final.top else [])):
            check_models(Ingredients(Parents.of([checkpoint])), suite, prediction)


def _unet_parameters(ingredients: Ingredients) -> tuple[str, ...]:
    """Return the live names of the U-Net's parameters."""
    architecture = ingredients.parents.architecture
    views = (live_views(key, architecture, len(info.shape)) for key, info in ingredients.tensors.items())
    return tuple(view.name for each in views for view in each if view.component == UNET)


def _text_widths(ingredients: Ingredients) -> dict[str, int]:
    """Return the features of a token's vector in each text encoder."""
    shapes = {key: info.shape for key, info in ingredients.tensors.items()}
    configs = model_family(ingredients.parents.architecture).text_configs(shapes)
    return {component: config["hidden_size"] for component, config in configs.items()}


def _refuse(slips: Sequence[str]) -> None:
    """Refuse a spec for its slips: the first is told in full.

    Raises:
        SpecError: there is one.
    """
    if slips:
        raise SpecError(first_of(slips))
