"""Configurations of the live models, read off a checkpoint's tensor shapes by its family."""

from __future__ import annotations

from typing import Any

from optimizer.families.registry import model_family
from optimizer.families.shapes import Shapes
from optimizer.families.views import Component
from search_spaces.blocks import Architecture


def unet_config(shapes: Shapes, architecture: Architecture) -> dict[str, Any]:
    """Return the arguments of the U-Net's class.

    Raises:
        CheckpointError: a tensor is missing.
    """
    return model_family(architecture).unet_config(shapes)


def vae_config(shapes: Shapes, architecture: Architecture) -> dict[str, Any]:
    """Return the arguments of the VAE's class.

    Raises:
        CheckpointError: a tensor is missing.
    """
    return model_family(architecture).vae_config(shapes)


def text_configs(shapes: Shapes, architecture: Architecture) -> dict[Component, dict[str, Any]]:
    """Return the arguments of each text encoder's configuration.

    Raises:
        CheckpointError: a tensor is missing.
    """
    return model_family(architecture).text_configs(shapes)
