"""Small merges, for tests of what follows the merge."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from diffusers import UNet2DConditionModel

from optimizer.merging.engine.ingredients import Ingredients
from optimizer.merging.engine.resident import ResidentModel
from optimizer.merging.files.checkpoint import Checkpoint
from optimizer.merging.files.parents import Parents
from optimizer.rendering.models import LiveModels, live_dtypes
from optimizer.rendering.unet import LaunchedUnet
from search_spaces.blocks import places
from studies.recipe.recipe import Operation, Parent, Recipe, Step, canonical_values

CPU = torch.device("cpu")


def resident_of(
    parents: Sequence[Checkpoint], device: torch.device = CPU, dtype: torch.dtype = torch.float32
) -> ResidentModel:
    """Load the parents into the device's memory, with parent A live, computing in `dtype` if the device can."""
    dtypes = live_dtypes(device, dtype)
    return ResidentModel(Ingredients(Parents.of(parents)), device=device, live_dtypes=dtypes)


def weighted(resident: ResidentModel, ratios: Mapping[str, float] | float) -> Recipe:
    """Return a weighted sum of parents A and B; places that are not named keep A's values."""
    every = places(resident.architecture)
    named = ratios if isinstance(ratios, Mapping) else dict.fromkeys(every, ratios)
    return Recipe(
        architecture=resident.architecture.value,
        parents=tuple(Parent(letter=letter, name=letter, sha256="0" * 64) for letter in "AB"),
        steps=(
            Step(
                operation=Operation(method="weighted_sum", inputs=("A", "B")),
                values=canonical_values({place: (named.get(place, 0.0),) for place in every}),
            ),
        ),
    )


def with_small_unet(models: LiveModels) -> LiveModels:
    """Return the models with a U-Net of three blocks, for tests of what calls it: a tenth of the time.

    It reads the text in the middle. Its weights are random and not part of the merge; its channels, its conditions and
    its dtype are the model's.
    """
    few = {
        "down_block_types": ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"],
        "block_out_channels": [32],
        "layers_per_block": 1,
        "transformer_layers_per_block": 1,
        "attention_head_dim": 1,  # heads
    }
    unet = UNet2DConditionModel.from_config({**models.unet.config, **few})
    unet = unet.to(models.unet.device, models.unet.dtype).eval().requires_grad_(False)
    return replace(models, unet=unet, unet_call=LaunchedUnet(unet))


def lively(models: LiveModels) -> LiveModels:
    """Give a small model's U-Net weights with which latents, time and text matter; those of small files hardly do."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weights in models.unet.named_parameters():
            if weights.dim() > 1:
                weights.copy_(torch.randn(weights.shape, generator=generator) / math.sqrt(weights[0].numel()))
            else:
                weights.fill_(float("norm" in name and name.endswith("weight")))
    return models
