"""A merge as the line of block weights that people type into A1111's merge extensions."""

from __future__ import annotations

from dataclasses import dataclass

from optimizer.merging.engine.plan import FOLDED
from search_spaces.block_weights import format_block_weights
from search_spaces.blocks import VAE, Architecture
from search_spaces.errors import BlockWeightsError
from studies.recipe.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockLine:
    """A line of block weights, or why there is none, in words."""

    line: str | None
    reason: str = ""


def block_line(recipe: Recipe) -> BlockLine:
    """Return the weights of B in every block, after those of the text encoders: `BASE,IN00,..,M00,OUT00,..`."""
    reason = _obstacle(recipe)
    if reason is not None:
        return BlockLine(line=None, reason=reason)
    ratios = {place: ratio for place, (ratio,) in recipe.steps[0].values}
    try:
        return BlockLine(line=format_block_weights(ratios, Architecture(recipe.architecture)))
    except BlockWeightsError as error:
        return BlockLine(line=None, reason=str(error))


def _obstacle(recipe: Recipe) -> str | None:
    """Say why no line of block weights is this merge; None where nothing but its numbers may speak against it."""
    if len(recipe.steps) != 1:
        return (
            f"the merge has {len(recipe.steps)} steps, and a line of block weights is one"
            if recipe.steps
            else ("the file is parent A alone")
        )
    (step,) = recipe.steps
    if step.operation.method not in FOLDED:
        return f"block weights are those of a weighted sum, and this merge is {step.operation.method}"
    if step.operation.inputs != ("A", "B"):
        return f"block weights are those of A and B, and this merge is of {', '.join(step.operation.inputs)}"
    if recipe.loras:
        return "the merge has LoRAs, which a line of block weights cannot say"
    if step.operation.clip:
        return "the merge is clipped, which a line of block weights cannot say"
    if recipe.vae is None and step.by_place[VAE] != (0.0,):
        return "the merge has a ratio for the VAE, which a line of block weights cannot say"
    return None
