"""How far apart two renders of one item are on this machine: not at all on one that repeats itself.

A GPU may not: kernels that add in the order in which threads arrive, or that are chosen anew by timing, give other last
bits, and sampling makes more of them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from optimizer.errors import NoMemoryError, TrialFailed
from optimizer.rendering.render import Renderer
from studies.spec.suite import SuitePrompt, SuiteSettings


@torch.inference_mode()
def render_variation(renderer: Renderer) -> float:
    """Render the suite's first item twice with what is live, and measure how far apart the two are.

    Returns:
        `grey_levels` of the two; 0 if they are equal.

    Raises:
        NoMemoryError: there is no memory for a single image.
    """
    again = Renderer(renderer.models, first_item(renderer.suite), batch_size=1)
    try:
        (one,) = again.render().images
        again.text_changed()  # the prompt is embedded twice, too
        (other,) = again.render().images
    except TrialFailed as error:
        raise NoMemoryError(str(error)) from error
    return grey_levels(one, other)


def first_item(suite: SuiteSettings) -> SuiteSettings:
    """The suite with its first item alone."""
    item = suite.items()[0]
    prompt = SuitePrompt(
        prompt=item.prompt, negative=item.negative, seeds=(item.seed,), sizes=((item.width, item.height),)
    )
    return suite.model_copy(update={"prompts": (prompt,)})


def grey_levels(one: Tensor, other: Tensor) -> float:
    """Mean absolute difference of two uint8 [3, h, w] images, in grey levels: 0 to 255."""
    return float((one.to(torch.int16) - other.to(torch.int16)).abs().float().mean())
