"""The difference between two renders of one item on this machine, which is 0 where rendering is deterministic.

On a GPU it may not be: kernels that add in the order in which threads finish, or that are chosen by timing, change the
last bits, and sampling amplifies the change.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

import torch
from torch import Tensor

from optimizer.errors import NoMemoryError, UnscorableTrial
from optimizer.rendering.render import Renderer
from studies.spec.suite import SuiteItem, SuitePrompt, SuiteSettings


@torch.inference_mode()
def render_variation(renderer: Renderer) -> float:
    """Render the suite's first item twice with the live models, and measure the difference.

    Returns:
        `grey_levels` of the two images; 0 if they are equal.

    Raises:
        NoMemoryError: there is too little memory for a single image.
    """
    one_item = Renderer(renderer.models, first_item(renderer.suite), batch_size=1)
    try:
        (first,) = one_item.render().images
        one_item.text_changed()  # so that the prompt is embedded twice, too
        (second,) = one_item.render().images
    except UnscorableTrial as error:
        raise NoMemoryError(str(error)) from error
    return grey_levels(first, second)


def first_item(suite: SuiteSettings) -> SuiteSettings:
    """Return the suite reduced to its first item."""
    return only(suite, suite.items()[:1])


def only(suite: SuiteSettings, items: Iterable[SuiteItem]) -> SuiteSettings:
    """Return the suite reduced to some of its items."""
    return suite.model_copy(update={"prompts": tuple(map(_prompt_of, items))})


def _prompt_of(item: SuiteItem) -> SuitePrompt:
    """Return a prompt from which one item comes, which is rendered as the given one."""
    return SuitePrompt(
        prompt=item.prompt,
        negative=item.negative,
        seeds=(item.seed,),
        sizes=((item.width, item.height),),
        **asdict(item.sampling),
        clip_skip=item.clip_skip,
        weight=item.weight,
        without=item.without,
        group=item.group,
    )


def grey_levels(one: Tensor, other: Tensor) -> float:
    """Compute the mean absolute difference of two uint8 [3, h, w] images, in grey levels: 0 to 255."""
    return float((one.to(torch.int16) - other.to(torch.int16)).abs().float().mean())
