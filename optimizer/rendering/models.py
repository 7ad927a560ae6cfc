"""The live models: diffusers and transformers modules whose parameters are views of a resident merge."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn

from optimizer.errors import CheckpointError
from optimizer.families.registry import model_family
from optimizer.merging.engine.resident import ResidentModel
from optimizer.merging.files.layout import Component
from optimizer.rendering.latents import latent_config
from optimizer.rendering.loras import NO_LORAS, SuiteLoras
from optimizer.rendering.prediction import EPSILON, Prediction
from optimizer.rendering.tiles import use_tiles
from optimizer.rendering.unet import GraphedUnet, LaunchedUnet, UnetCall
from search_spaces.blocks import UNET, VAE, Architecture, text_encoders
from search_spaces.families.registry import titles


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveModels:
    """The modules that render. Every merge changes their parameters in place; the modules stay the same objects."""

    architecture: Architecture
    unet: UNet2DConditionModel
    unet_call: UnetCall  # computes the same as `unet`
    vae: AutoencoderKL
    text_encoders: Mapping[Component, Any]  # transformers' models, in the order in which the family reads them
    prediction: Prediction  # what the U-Net's output means
    in_turns: bool = False  # whether only components in `use` have values
    use: Callable[..., None] = lambda *_: None  # ResidentModel.use: called with the components that compute next
    loras: SuiteLoras = NO_LORAS  # that may lie on top of the merge
    lay_on_top: Callable[..., bool] = lambda *_: False  # ResidentModel.lay_on_top


def live_dtypes(device: torch.device, dtype: torch.dtype) -> Mapping[Component, torch.dtype]:
    """Return the dtype in which each component computes.

    A CPU computes in float32. So does the VAE on every device: SDXL's overflows in float16 (a known fault of its
    weights), and so do some VAEs of SD1.5 models, whose images would all be NaN. Compared with float16, that costs
    SD1.5 0.17 GB for the weights (84 million), and 1.07 GB instead of 0.54 while an image of 512 x 512 is decoded.

    Args:
        dtype: of U-Net and text encoders on devices other than a CPU.
    """
    texts = {name for architecture in Architecture for name in text_encoders(architecture)}
    compute_dtype = torch.float32 if device.type == "cpu" else dtype
    return {**dict.fromkeys((UNET, *sorted(texts)), compute_dtype), VAE: torch.float32}


def build_models(
    resident: ResidentModel,
    prediction: Prediction = EPSILON,
    *,
    fp16_accumulation: bool = False,
    vae_tiling: bool = False,
    cuda_graphs: bool = False,
    loras: SuiteLoras = NO_LORAS,
) -> LiveModels:
    """Build modules over a resident merge's live tensors, without copying a weight.

    Args:
        prediction: what the merge predicts, from `agreed_prediction`; it cannot be read off the tensors' shapes.
        fp16_accumulation: whether the U-Net's fp16 matrix products are summed in fp16, with other pixels.
        vae_tiling: whether large images are decoded in tiles, with other pixels.
        cuda_graphs: whether the U-Net's kernels are recorded; it must stay on its GPU.
        loras: those that the resident model has `on_top`.

    Raises:
        CheckpointError: a component or a tensor of one is missing, or the shapes fit no known model.
    """
    shapes = {key: tuple(tensor.shape) for key, tensor in resident.live_tensors().items()}
    modules: dict[Component, Any] = model_family(resident.architecture).build(shapes, latent_config(prediction))
    for component, module in modules.items():
        _attach(module, resident, component)
    unet, vae = modules.pop(UNET), modules.pop(VAE)
    if vae_tiling:
        use_tiles(vae)
    return LiveModels(
        architecture=resident.architecture,
        unet=unet,
        unet_call=(GraphedUnet if cuda_graphs else LaunchedUnet)(unet, accumulates_in_fp16=fp16_accumulation),
        vae=vae,
        text_encoders=modules,
        prediction=prediction,
        in_turns=resident.in_turns,
        use=resident.use,
        loras=loras,
        lay_on_top=resident.lay_on_top,
    )


def _attach(module: nn.Module, resident: ResidentModel, component: Component) -> None:
    """Replace a module's meta parameters by the resident views.

    Raises:
        CheckpointError: names or shapes do not fit.
    """
    names = {name for name, _ in module.named_parameters()}
    views = dict(resident.parameters(component))
    if not any(name.startswith("text_model.") for name in names):  # transformers 5.2 dropped the level for CLIP-L
        views = {name.removeprefix("text_model."): view for name, view in views.items()}
    missing, unknown = sorted(names - views.keys()), sorted(views.keys() - names)
    if missing or unknown:
        difference = f"lacks {missing[0]}" if missing else f"has {unknown[0]}, which the model does not"
        raise CheckpointError(
            f"the {component} {difference} ({len(missing)} missing, {len(unknown)} unknown): "
            f"this is not a plain {titles('or')} checkpoint"
        )
    try:
        module.load_state_dict(views, strict=False, assign=True)
    except RuntimeError as error:  # a shape differs from the module's configuration
        reason = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"the {component} is not a plain {titles('or')} model: {reason}") from error
    for name, buffer in list(module.named_buffers()):
        if buffer.is_meta:  # position_ids, the only buffer of these models
            owner, _, leaf = name.rpartition(".")
            positions = torch.arange(buffer.shape[-1], device=resident.device).expand(buffer.shape)
            module.get_submodule(owner).register_buffer(leaf, positions, persistent=False)
    module.eval().requires_grad_(requires_grad=False)
