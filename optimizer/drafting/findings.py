"""What the files of a study to be are: architecture, prediction, and how far the parents are apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from optimizer.errors import CheckpointError
from optimizer.families.registry import model_family
from optimizer.merging.engine.ingredients import Ingredients
from optimizer.merging.files.checkpoint import Checkpoint
from optimizer.merging.files.distance import Comparison, Distance, combined, compare, compared_bytes
from optimizer.merging.files.parents import Parents
from optimizer.merging.lora.file import Lora
from optimizer.rendering.latents import LATENT_FACTOR
from optimizer.rendering.prediction import Prediction, agreed_prediction, unmarked_flow_note
from search_spaces.blocks import Architecture, blocks, section_of, text_encoders
from studies.recipe.recipe import LETTERS
from studies.spec.suite import SuiteSettings


@dataclass(frozen=True, kw_only=True)
class FilesFound:
    """What was found in the parents and LoRAs."""

    architecture: Architecture
    prediction: Prediction
    side: int  # pixels of the images that models of this family are trained on
    distances: tuple[Mapping[str, Distance], ...]  # of B, C ... from A: section, text encoder or vae -> distance
    notes: tuple[str, ...]

    @property
    def equal_text_encoders(self) -> tuple[str, ...]:
        """The text encoders that are the same in all parents, so that a ratio would change nothing."""
        return tuple(
            part
            for part in text_encoders(self.architecture)
            if all(part in each and each[part].relative == 0 for each in self.distances)
        )


def bytes_to_read(checkpoints: Sequence[Checkpoint]) -> int:
    """Return how many bytes `findings` reads."""
    return sum(compared_bytes(checkpoints[0], other) for other in checkpoints[1:])


def findings(
    checkpoints: Sequence[Checkpoint], loras: Sequence[Path], progress: Callable[[int], None] | None = None
) -> FilesFound:
    """Look at parents and LoRAs, which must fit together.

    Args:
        progress: called with the bytes that were read.

    Raises:
        CheckpointError: a LoRA cannot be used, they do not fit together, or a parent has A's weights.
        RenderError: the parents predict different things.
    """
    ingredients = Ingredients(Parents.of(checkpoints), tuple(Lora.open(path) for path in loras))
    architecture = ingredients.parents.architecture
    shapes = {key: info.shape for key, info in ingredients.tensors.items()}
    prediction = agreed_prediction(checkpoints, SuiteSettings.model_validate({"prompts": ["any"]}))
    flows = [note for note in map(unmarked_flow_note, checkpoints) if note is not None]
    distances = tuple(_by_part(compare(checkpoints[0], other, progress), architecture) for other in checkpoints[1:])
    _require_different(checkpoints, distances)
    return FilesFound(
        architecture=architecture,
        prediction=prediction,
        side=model_family(architecture).unet_config(shapes)["sample_size"] * LATENT_FACTOR,
        distances=distances,
        notes=(*ingredients.notes, *flows),
    )


def _require_different(checkpoints: Sequence[Checkpoint], distances: Sequence[Mapping[str, Distance]]) -> None:
    for letter, other, parts in zip(LETTERS[1:], checkpoints[1:], distances, strict=False):
        if parts and all(distance.relative == 0 for distance in parts.values()):
            raise CheckpointError(
                f"{other.path} (parent {letter}) has the weights of {checkpoints[0].path}: merging the two changes "
                "nothing; name another checkpoint"
            )


def _by_part(compared: Comparison, architecture: Architecture) -> dict[str, Distance]:
    """Return the distance of each text encoder, each section and the VAE."""
    own, parts = frozenset(blocks(architecture)), dict[str, list[Distance]]()
    for place, distance in compared.by_place().items():
        parts.setdefault(section_of(place) if place in own else place, []).append(distance)
    return {part: combined(of_places) for part, of_places in parts.items()}
