"""The files that a new spec names, looked for before torch is imported: a slip in a path is told at once."""

from __future__ import annotations

from pathlib import Path

from optimizer.errors import LoraError
from optimizer.merging.files.presence import require_checkpoint_at, require_lora_at
from optimizer.rendering.folders import require_folders_of
from scorers.errors import of_scorer
from scorers.registry import parse_settings, require_named_files
from studies.recipe.file import load_recipe_file
from studies.spec.study import StudySpec


def require_files_of(spec: StudySpec) -> None:
    """Refuse a spec that names a file or folder which is not there; only the recipe files of probes are read.

    Raises:
        CheckpointError: a parent or the VAE is not there.
        LoraError: a LoRA, of the merge or of the suite.
        PromptError: the folder of the suite's embeddings or LoRAs.
        ScorerError: weights or reference images of a built-in scorer.
        RecipeError: the file of a probe, which also may not be a recipe.
    """
    for checkpoint in (*spec.parents, *([] if spec.vae is None else [spec.vae])):
        require_checkpoint_at(checkpoint)
    for lora in spec.loras.values():
        require_lora_at(lora.path)
    for of_suite in spec.suite.loras:
        try:
            require_lora_at(of_suite.path)
        except LoraError as error:
            raise LoraError(f"a LoRA of the suite: {error}") from error
    require_folders_of(spec.suite)
    for name, entry in spec.scorers.items():
        settings = parse_settings(entry.kind, entry.options, Path("/"))
        with of_scorer(name):
            require_named_files(entry.kind, settings)
    for probe in spec.probes.recipes:
        if probe.recipe is None:
            load_recipe_file(probe.path)
