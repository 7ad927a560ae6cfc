"""DINOv2 as a feature network, as distances between sets of images take it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import timm
import torch
import torch.nn.functional as F

from basics.files import sha256_of
from scorers.errors import WrongWeightsError
from scorers.images import Preprocess, prepare_batch
from scorers.networks.digest import digest_of
from scorers.networks.inference import Runner
from scorers.networks.state_dict import first_finding
from scorers.weights.tensors import load_tensors

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

_INPUT_PIXELS = 224
_PATCH_PIXELS = 14
_OFFSET = 0.1  # Meta's, on the number of patches that position embeddings are resampled to


class Dinov2Features:
    """The normalised class token of a DINOv2 network at 224 pixels.

    Images are resized to a square, bicubic, whatever their aspect ratio, and normalised as ImageNet's. This is what
    Stein et al. 2023 (https://arxiv.org/abs/2306.04675) take: https://github.com/layer6ai-labs/dgm-eval.

    Args:
        network: a DINOv2 architecture of timm.

    Raises:
        WrongWeightsError: the file does not hold this network's weights.
    """

    def __init__(self, network: str, weights_file: Path, *, device: str = "cpu", in_turns: bool = False) -> None:
        self._network = _load(network, weights_file)
        self._network.eval().requires_grad_(requires_grad=False)
        self._runner = Runner(self._network, device, in_turns=in_turns)
        self.preprocess = Preprocess(
            size=(_INPUT_PIXELS, _INPUT_PIXELS),
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            resize_mode="squash",
        )
        self.digest = digest_of(network, "class token", sha256_of(weights_file), repr(self.preprocess))

    def embed(self, images: Sequence[Tensor]) -> Tensor:
        """Embed the images: float32 [n, d] on the CPU."""
        return self._runner.map(images, self._forward)

    def _forward(self, batch: list[Tensor]) -> Tensor:
        inputs = prepare_batch(batch, self.preprocess, self._runner.device)
        tokens: Tensor = self._network.forward_features(inputs)
        return tokens[:, 0]


def resampled_positions(positions: Tensor, patches: int) -> Tensor:
    """Resample position embeddings to another number of patches as Meta's DINOv2 does.

    Bicubic, without antialiasing, by the factor (patches + 0.1) / side. The offset was meant against rounding, and
    shifts the samples a little. https://github.com/facebookresearch/dinov2, interpolate_pos_encoding.

    Args:
        positions: [1, 1 + side^2, d], that of the class token first.
        patches: on a side of the new grid.

    Returns:
        [1, 1 + patches^2, d].
    """
    token, grid = positions[:, :1], positions[:, 1:]
    side = round(grid.shape[1] ** 0.5)
    if side == patches:
        return positions
    factor = (patches + _OFFSET) / side
    square = grid.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    square = F.interpolate(square, scale_factor=(factor, factor), mode="bicubic", align_corners=False)
    return torch.cat([token, square.permute(0, 2, 3, 1).reshape(1, patches**2, -1)], dim=1)


def _load(network: str, path: Path) -> Any:
    state = {name: tensor.float() for name, tensor in load_tensors(path).items()}
    state.pop("mask_token", None)  # of training; timm's copy has none
    positions = state.get("pos_embed")
    patches = _INPUT_PIXELS // _PATCH_PIXELS
    if positions is not None and positions.ndim == 3 and _is_square(positions.shape[1] - 1):
        state["pos_embed"] = resampled_positions(positions, patches)
    with torch.device("meta"):  # random weights of this size take seconds, and would be replaced
        model = timm.create_model(network, pretrained=False, num_classes=0, img_size=_INPUT_PIXELS)
    try:
        model.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        raise WrongWeightsError(
            f"{path} does not hold weights of {network!r} as timm or Meta publishes them ({first_finding(error)}): "
            "give another file with option 'weights'"
        ) from error
    return model


def _is_square(count: int) -> bool:
    return count > 0 and round(count**0.5) ** 2 == count
