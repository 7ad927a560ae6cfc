"""How much memory rendering a merge takes, estimated from headers alone, so that too much is refused before loading.

    live         the live model and, on a device with its own memory, the factors of LoRAs, in the merge and on top of
                 it: held all at once, or one component at a time (residence.py)
    sources      parents and a baked VAE; they stay in their files if they do not fit (engine/placement.py)
    working      intermediate tensors while a batch goes through the U-Net or the autoencoder, whichever is more
    recorded     the U-Net's intermediate tensors, which CUDA graphs keep between batches (rendering/unet.py)
    images       the suite's images, and noise that every trial needs, on the host

The factors of `working` are measured (float32 on a CPU, U-Nets of 32 to 320 and autoencoders of 32 to 128 first
channels, batches of 1 to 16). Attention is computed in pieces, so `working` is proportional to the number of cells in
the latents.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from basics.messages import first_line
from optimizer.errors import NoMemoryError
from optimizer.merging.engine.flat import CPU_CHUNK, GPU_CHUNK
from optimizer.merging.engine.ingredients import Ingredients
from optimizer.merging.engine.philox import TEMPORARY_BYTES
from optimizer.merging.engine.staging import STAGING_BYTES
from optimizer.merging.files.layout import Component, live_views
from optimizer.merging.lora.file import Lora
from optimizer.rendering.configs import unet_config, vae_config
from optimizer.rendering.render import decoded_at_once
from optimizer.rendering.sampling.noise import increments_bytes
from optimizer.rendering.suite import LATENT_FACTOR, usual_batch
from optimizer.rendering.tiles import TILE, TILED_IMAGES, is_tiled
from scorers.memory import lacks_memory
from studies.recipe.recipe import DtypeName
from studies.spec.suite import SuiteSettings

UNET_TENSORS = 48  # held at once, of the first level's width
VAE_TENSORS = 4  # held at once, of the second-to-last level's width, at the image's size
GUIDED_PASSES = 2  # the U-Net sees each image with and without its prompt
SCRATCH_TENSORS = 2  # float32, a merge's work space
LORA_TENSORS = 4  # float32, of the largest tensor: the merge, what a LoRA adds, and their sum
TILED_PIXEL_BYTES = 3 * 4  # of a decoded image, in float32
IMAGE_BYTES = 3 * (4 + 1)  # a pixel of three channels, as float32 and as uint8
ALLOWANCE_BYTES = 256 << 20  # work space of libraries and scorers; the scorers' weights are loaded by then


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """Bytes that a study takes in addition to its loaded scorers."""

    live: int
    in_turns: int  # rendering one image at a time, with components that take turns
    sources: int
    working: tuple[int, ...]  # with batches of at most 1, 2, 3 ... images, up to the batch size asked for
    recorded: int  # what CUDA graphs of the U-Net keep
    images: int  # and noise that is the same in every trial
    on_host: bool  # whether the device uses the host's memory

    @property
    def batch_size(self) -> int:
        return len(self.working)

    @property
    def host_bytes(self) -> int:
        """The least that the host needs: the sources stay in their files."""
        return self.images + ALLOWANCE_BYTES + (self.live + self.working[-1] if self.on_host else 0)

    @property
    def device_bytes(self) -> int:
        """The least that a device with its own memory needs: one image at once, components in turns; 0 on the host."""
        return 0 if self.on_host else self.in_turns

    def fitting_batch(self, available: int) -> int:
        """Return the largest batch that fits into `available` bytes of the host; 0 if one image is too many."""
        left = available - (self.host_bytes - self.working[-1])
        return sum(working <= left for working in self.working)


def estimate_memory(
    ingredients: Ingredients,
    suite: SuiteSettings,
    device: torch.device,
    dtypes: Mapping[Component, torch.dtype],
    *,
    export_dtype: DtypeName | None = None,
    batch_size: int | None = None,
    vae_tiling: bool = False,
    on_top: Sequence[Lora] = (),
) -> MemoryEstimate:
    """Estimate how much memory rendering a merge takes; nothing is loaded.

    Args:
        dtypes: what each component computes in.
        batch_size: the spec's; None for the usual one.
        vae_tiling: whether large images are decoded in tiles.
        on_top: LoRAs of the suite.

    Raises:
        CheckpointError: a component is missing.
    """
    on_host = device.type == "cpu"
    items = Counter(item.image_size for item in suite.items())
    batches = {size: min(count, batch_size or usual_batch(*size)) for size, count in items.items()}
    working = _WorkingMemory.of(ingredients, suite, device, dtypes, vae_tiling=vae_tiling)
    live = _live_bytes(ingredients, dtypes, export_dtype)
    always = live.pop(None, 0) + _merge_bytes(ingredients, on_top, on_host=on_host)
    return MemoryEstimate(
        live=always + live.total(),
        in_turns=always
        + max(
            live["text_encoder"] + live["text_encoder_2"],
            live["unet"] + max(working.denoising(*size, 1) for size in batches),
            live["vae"] + max(working.decoding(*size, 1) for size in batches),
        ),
        sources=sum(info.nbytes for key in ingredients.tensors for info in ingredients.sources(key).values()),
        working=tuple(
            max(working.bytes(*size, min(most, count)) for size, count in batches.items())
            for most in range(1, max(batches.values()) + 1)
        ),
        recorded=max(working.denoising(*size, count) for size, count in batches.items()),
        images=sum(IMAGE_BYTES * width * height * count for (width, height), count in items.items())
        + increments_bytes(suite, working.latent_channels),
        on_host=on_host,
    )


def _live_bytes(
    ingredients: Ingredients, dtypes: Mapping[Component, torch.dtype], export_dtype: DtypeName | None
) -> Counter[Component | None]:
    """Return the bytes of each component; under None, those of tensors that belong to no component."""
    by_component: Counter[Component | None] = Counter()
    for key, info in ingredients.tensors.items():
        views = live_views(key, ingredients.parents.architecture, len(info.shape))
        component = views[0].component if views else None
        dtype = ingredients.saved_dtype(key, export_dtype) if component is None else dtypes[component]
        by_component[component] += info.size * dtype.itemsize
    return by_component


def _merge_bytes(ingredients: Ingredients, on_top: Sequence[Lora], *, on_host: bool) -> int:
    """Return the bytes of a merge's work space and, on a device with its own memory, of the LoRAs.

    On the host the LoRAs are loaded already.
    """
    tensor = LORA_TENSORS * 4 * max(info.size for info in ingredients.tensors.values()) if on_top else 0
    if on_host:
        return SCRATCH_TENSORS * 4 * CPU_CHUNK + tensor
    modules = [module for lora in (*ingredients.loras, *on_top) for module in lora.modules.values()]
    lora_bytes = sum(module.up.nbytes + module.down.nbytes for module in modules)
    # A study may draw whatever its own method is: probes may be recipes with another.
    return SCRATCH_TENSORS * 4 * GPU_CHUNK + STAGING_BYTES + TEMPORARY_BYTES + lora_bytes + tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class _WorkingMemory:
    """Memory of the intermediate tensors of a batch."""

    cell: int  # bytes that the U-Net takes for a cell of an image's latents
    pixel: int  # bytes that the autoencoder takes for a pixel
    latent_channels: int
    vae_tiling: bool
    device: torch.device

    @classmethod
    def of(
        cls,
        ingredients: Ingredients,
        suite: SuiteSettings,
        device: torch.device,
        dtypes: Mapping[Component, torch.dtype],
        *,
        vae_tiling: bool,
    ) -> _WorkingMemory:
        shapes = {key: info.shape for key, info in ingredients.tensors.items()}
        architecture = ingredients.parents.architecture
        first, *_ = unet_config(shapes, architecture)["block_out_channels"]
        vae = vae_config(shapes, architecture)
        widths = vae["block_out_channels"]
        passes = GUIDED_PASSES if any(item.sampling.is_guided for item in suite.items()) else 1
        return cls(
            cell=passes * first * UNET_TENSORS * dtypes["unet"].itemsize,
            pixel=widths[min(1, len(widths) - 1)] * VAE_TENSORS * dtypes["vae"].itemsize,
            latent_channels=vae["latent_channels"],
            vae_tiling=vae_tiling,
            device=device,
        )

    def denoising(self, width: int, height: int, count: int) -> int:
        """Return the bytes for denoising `count` images of a size in pixels."""
        return count * (width // LATENT_FACTOR) * (height // LATENT_FACTOR) * self.cell

    def decoding(self, width: int, height: int, count: int) -> int:
        """Return the bytes for decoding them, as many at a time as the device decodes."""
        at_once = min(count, decoded_at_once(width, height, self.device))
        if not self.vae_tiling or not is_tiled(width, height):
            return at_once * width * height * self.pixel
        tile = min(TILE, width) * min(TILE, height) * self.pixel
        return at_once * (tile + TILED_IMAGES * TILED_PIXEL_BYTES * width * height)

    def bytes(self, width: int, height: int, count: int) -> int:
        """Return the larger of the two, which are not held at the same time."""
        return max(self.denoising(width, height, count), self.decoding(width, height, count))


@contextmanager
def explain_out_of_memory(what: str, device: torch.device) -> Iterator[None]:
    """Report a lack of memory in the block in our own words: estimates may be missing or too low.

    Args:
        what: the block loads, for the message.

    Raises:
        NoMemoryError: memory ran out in the block.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not lacks_memory(error):
            raise
        raise NoMemoryError(
            f"not enough memory on {device} to load {what}: {first_line(error)}; stop other programs that use it, "
            "render smaller images, or name another device with `device` under `render`"
        ) from None
