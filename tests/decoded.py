"""A renderer's images before they are rounded to bytes, for tests that compare more precisely than grey levels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from optimizer.rendering.batching import batches
from optimizer.rendering.render import Renderer, to_bytes


def float_pixels(renderer: Renderer) -> tuple[Tensor, ...]:
    """Render the suite in item order: float32 [3, h, w] in 0..1 on the CPU. Every batch must fit into memory."""
    decoded: list[Tensor] = []

    def listen(_: nn.Module, _arguments: tuple[Tensor, ...], output: Tensor) -> None:
        decoded.extend((output.float() / 2 + 0.5).clamp(0, 1).cpu())

    handle = renderer.models.vae.decoder.register_forward_hook(listen)
    try:
        images = renderer.render().images
    finally:
        handle.remove()
    tokens = {index: each.token_count for index, each in renderer.encoder.conditions(renderer.items).items()}
    order = [
        item.index
        for stage in renderer.stages
        for batch in batches(stage, renderer.batch_size, renderer.largest_batches.of("unet"), tokens)
        for item in batch
    ]
    pixels = tuple(image for _, image in sorted(zip(order, decoded, strict=True), key=lambda pair: pair[0]))
    assert all(torch.equal(to_bytes(exact), image) for exact, image in zip(pixels, images, strict=True))
    return pixels
