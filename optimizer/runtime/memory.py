"""What rendering a merge needs of memory, estimated from headers alone, so that too much is refused before it is tried.

    live         the live model and, on a device with memory of its own, the factors of LoRAs: held all at once, or one
                 component after the other (residence.py)
    sources      parents and a baked VAE; they stay in their files where they do not fit (engine/placement.py)
    working      what the U-Net or the autoencoder holds in between while a batch goes through it, whichever is more
    images       the suite's images, on the host

Factors of `working` are measured (float32 on a CPU, U-Nets of 32 to 320 and autoencoders of 32 to 128 first channels,
batches of 1 to 16): attention is computed in pieces, so all of it is proportional to the cells of the latents.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from basics.messages import first_line
from optimizer.errors import NoMemoryError
from optimizer.merging.engine.flat import CPU_CHUNK, GPU_CHUNK
from optimizer.merging.engine.ingredients import Ingredients
from optimizer.merging.engine.placement import device_free
from optimizer.merging.engine.staging import STAGING_BYTES
from optimizer.merging.files.layout import Component, live_views
from optimizer.rendering.configs import unet_config, vae_config
from optimizer.rendering.render import decoded_at_once
from optimizer.rendering.suite import LATENT_FACTOR, usual_batch
from optimizer.system.host_memory import available_host_bytes
from scorers.memory import lacks_memory
from studies.recipe.recipe import DtypeName
from studies.spec.suite import SuiteSettings

UNET_HELD = 48  # tensors of the first level's width
VAE_HELD = 4  # tensors of the last level but one's width, at the image's size
GUIDED = 2  # the U-Net sees each image with and without its prompt
SCRATCH_TENSORS = 2  # float32, of a merge's work space
IMAGE_BYTES = 3 * (4 + 1)  # a pixel of three channels, as float32 and as uint8
ALLOWANCE = 256 << 20  # libraries' work space and what scorers hold in between; their weights are loaded by then


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Bytes that a study takes beyond what its scorers hold already."""

    live: int
    in_turns: int  # with one image at once, where components take turns
    sources: int
    working: tuple[int, ...]  # with batches of at most 1, 2, 3 ... images, up to what was asked for
    images: int
    on_host: bool  # whether the host's memory is the device's

    @property
    def batch_size(self) -> int:
        return len(self.working)

    @property
    def host_bytes(self) -> int:
        """Of the host, at least: with the sources in their files."""
        return self.images + ALLOWANCE + (self.live + self.working[-1] if self.on_host else 0)

    @property
    def device_bytes(self) -> int:
        """Of a device with memory of its own, at least: one image at once, components in turns; 0 on the host."""
        return 0 if self.on_host else self.in_turns

    def fitting_batch(self, available: int) -> int:
        """Images at once for which so many bytes of the host are enough; 0 if one is too many."""
        left = available - (self.host_bytes - self.working[-1])
        return sum(working <= left for working in self.working)


def needed(
    ingredients: Ingredients,
    suite: SuiteSettings,
    device: torch.device,
    dtypes: Mapping[Component, torch.dtype],
    *,
    export_dtype: DtypeName | None = None,
    batch_size: int | None = None,
) -> Need:
    """An estimate; nothing is loaded.

    Args:
        dtypes: what each component computes in.
        batch_size: images at once, as the spec says; None for the usual.

    Raises:
        CheckpointError: a component is missing.
    """
    on_host = device.type == "cpu"
    items = Counter((item.width, item.height) for item in suite.items())
    batches = {size: min(count, batch_size or usual_batch(*size)) for size, count in items.items()}
    working = _Working.of(ingredients, suite, device, dtypes)
    live = _live_bytes(ingredients, dtypes, export_dtype)
    always = live.pop(None, 0) + _merge_bytes(ingredients, on_host=on_host)
    return Need(
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
        images=sum(IMAGE_BYTES * item.width * item.height for item in suite.items()),
        on_host=on_host,
    )


def _live_bytes(
    ingredients: Ingredients, dtypes: Mapping[Component, torch.dtype], export_dtype: DtypeName | None
) -> Counter[Component | None]:
    """Bytes by component; None is what the file has beside them."""
    found: Counter[Component | None] = Counter()
    for key, info in ingredients.tensors.items():
        views = live_views(key, ingredients.parents.architecture, len(info.shape))
        component = views[0].component if views else None
        dtype = ingredients.saved_dtype(key, export_dtype) if component is None else dtypes[component]
        found[component] += info.size * dtype.itemsize
    return found


def _merge_bytes(ingredients: Ingredients, *, on_host: bool) -> int:
    """A merge's work space, and the LoRAs on a device with memory of its own; the host holds them already."""
    if on_host:
        return SCRATCH_TENSORS * 4 * CPU_CHUNK
    factors = [row for lora in ingredients.loras for row in lora.modules.values()]
    return SCRATCH_TENSORS * 4 * GPU_CHUNK + STAGING_BYTES + sum(row.up.nbytes + row.down.nbytes for row in factors)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Working:
    """What a batch holds in between."""

    cell: int  # bytes the U-Net takes for a cell of an image's latents
    pixel: int  # bytes the autoencoder takes for a pixel
    device: torch.device

    @classmethod
    def of(
        cls,
        ingredients: Ingredients,
        suite: SuiteSettings,
        device: torch.device,
        dtypes: Mapping[Component, torch.dtype],
    ) -> _Working:
        shapes = {key: info.shape for key, info in ingredients.tensors.items()}
        architecture = ingredients.parents.architecture
        first, *_ = unet_config(shapes, architecture)["block_out_channels"]
        widths = vae_config(shapes, architecture)["block_out_channels"]
        passes = GUIDED if suite.cfg > 1 else 1
        return cls(
            cell=passes * first * UNET_HELD * dtypes["unet"].itemsize,
            pixel=widths[min(1, len(widths) - 1)] * VAE_HELD * dtypes["vae"].itemsize,
            device=device,
        )

    def denoising(self, width: int, height: int, count: int) -> int:
        """Bytes for so many images of a size in pixels."""
        return count * (width // LATENT_FACTOR) * (height // LATENT_FACTOR) * self.cell

    def decoding(self, width: int, height: int, count: int) -> int:
        """Likewise, of those that are decoded at once."""
        return min(count, decoded_at_once(width, height, self.device)) * width * height * self.pixel

    def bytes(self, width: int, height: int, count: int) -> int:
        """What is held at once."""
        return max(self.denoising(width, height, count), self.decoding(width, height, count))


def require_memory(
    need: Need, device: torch.device, *, host_free: int | None = None, free_on_device: int | None = None
) -> None:
    """Refuse what cannot fit, before it is loaded.

    Args:
        host_free, free_on_device: bytes; None asks the system.

    Raises:
        NoMemoryError: how much is needed, how much is free, and what to do.
    """
    host_free = available_host_bytes() if host_free is None else host_free
    if need.host_bytes > host_free:
        fitting = need.fitting_batch(host_free) if need.on_host else 0
        what = f" for the model and {need.batch_size} images at once" if need.on_host else ""
        advice = f"write `batch_size: {fitting}` under `render`" if fitting else "render smaller or fewer images"
        raise NoMemoryError(
            f"not enough memory: about {_gb(need.host_bytes)} are needed{what}, {_gb(host_free)} are free; "
            f"{advice}, close other programs, or use a machine with more memory"
        )
    free = device_free(device) if free_on_device is None else free_on_device
    if not need.on_host and free is not None and need.device_bytes > free:
        raise NoMemoryError(
            f"not enough memory on {device}: about {_gb(need.device_bytes)} are needed for the model and one image, "
            f"{_gb(free)} are free; end what else uses it, or name another with `device` under `render`"
        )


@contextmanager
def memory_to_load(what: str, device: torch.device) -> Iterator[None]:
    """For loading what an estimate cannot tell, or told wrongly.

    Raises:
        NoMemoryError: the memory was not enough for what is loaded inside.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not lacks_memory(error):
            raise
        told = first_line(error)
        raise NoMemoryError(
            f"not enough memory on {device} to load {what}: {told}; end what else uses it, render smaller images, or "
            "name another with `device` under `render`"
        ) from None


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
