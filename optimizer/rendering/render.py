"""Render the suite with whatever merge is live."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from basics.messages import first_line
from optimizer.errors import RenderError, TrialFailed
from optimizer.families.registry import model_family
from optimizer.rendering.batch_limits import BatchLimits, BatchReduced
from optimizer.rendering.conditioning import appended, image_channels, unet_kind
from optimizer.rendering.latents import to_vae
from optimizer.rendering.models import LiveModels
from optimizer.rendering.prediction import Prediction
from optimizer.rendering.prompts import Embedding, PromptEncoder
from optimizer.rendering.schedulers import make_scheduler
from optimizer.rendering.suite import batches, noise, stages
from scorers.degenerate import faults, measure
from scorers.memory import lacks_memory
from studies.records.batch_limits import Batched, Size
from studies.spec.suite import SuiteItem, SuiteSettings

# Decoded at once: one image of 1024 x 1024 or four of 512 x 512 take 4.3 GB in float32, more than the U-Net takes for
# a batch, and occupy a GPU wholly already; a CPU gains nothing by more than one of 512 x 512.
DECODE_PIXELS, CPU_DECODE_PIXELS = 1024 * 1024, 512 * 512

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Render:
    """One image of the suite."""

    image: Tensor  # uint8 [3, h, w] on the CPU: what is scored and saved
    fault: str | None  # why it is no picture, if it is none


@dataclass(frozen=True, slots=True, kw_only=True)
class Renders:
    """Those of the suite or of one stage, in item order."""

    renders: tuple[Render, ...]
    seconds: Mapping[str, float]  # stage -> seconds: text, denoise, decode

    @property
    def images(self) -> tuple[Tensor, ...]:
        return tuple(render.image for render in self.renders)

    @property
    def faults(self) -> tuple[str | None, ...]:
        return tuple(render.fault for render in self.renders)


class Renderer:
    """A diffusers pipeline over live models, and the suite it renders again and again.

    Args:
        stage_size: items of a stage, after each of which a trial may end; None renders everything in one.
        limits: of batches, known from before.
    """

    def __init__(
        self,
        models: LiveModels,
        suite: SuiteSettings,
        *,
        batch_size: int | None = None,
        stage_size: int | None = None,
        limits: BatchLimits | None = None,
    ) -> None:
        self.models, self.suite, self.batch_size = models, suite, batch_size
        self.limits = limits or BatchLimits()
        self.items = suite.items()
        self.stages = stages(suite, stage_size)
        self.encoder = PromptEncoder(models, suite.clip_skip)
        self.pipeline = make_pipeline(models, suite)
        self._kind = unet_kind(models.unet.config.in_channels, models.vae.config.latent_channels)
        self._channels: dict[Size, Tensor | None] = {}  # what follows the noise
        self._decoded: set[Size] = set()  # sizes of which images were decoded since the beginning

    def text_changed(self) -> None:
        """Call after a merge that changed a text encoder."""
        self.encoder.forget()

    def render(self, on_batch: Callable[[int], None] | None = None) -> Renders:
        """Render every item; `on_batch` is called with the number of images done so far.

        Raises:
            TrialFailed: the memory does not take the prompts, a component that takes turns, or a single image.
        """
        while True:
            try:
                return self._render_all(on_batch)
            except BatchReduced:
                continue
            except (RuntimeError, MemoryError) as error:
                if not lacks_memory(error):
                    raise
                raise TrialFailed(f"out of memory: {first_line(error)}", "out_of_memory") from None

    def _render_all(self, on_batch: Callable[[int], None] | None) -> Renders:
        done: dict[int, Render] = {}
        seconds: Counter[str] = Counter()
        for items, renders in zip(self.stages, self.render_stages(on_batch), strict=True):
            done.update(zip((item.index for item in items), renders.renders, strict=True))
            seconds.update(renders.seconds)
        return Renders(renders=tuple(done[item.index] for item in self.items), seconds=dict(seconds))

    def render_stages(self, on_batch: Callable[[int], None] | None = None) -> Iterator[Renders]:
        """Render the `stages` in their order, each of them when it is asked for.

        Raises:
            BatchReduced: the memory was too small for a batch, and the next ones will be smaller: begin again. Where it
                was too small for decoding only, and no image of the size was decoded yet, fewer are decoded instead.
            TrialFailed: not even a single image fits into the memory.
        """
        start = time.perf_counter()
        self._channels.clear()  # they follow the VAE, which a merge may have changed
        self._decoded.clear()
        prompts = self.encoder.embed(text for item in self.items for text in (item.prompt, item.negative))
        text, count = time.perf_counter() - start, 0
        for items in self.stages:
            done: dict[int, Render] = {}
            seconds = {"text": text, "denoise": 0.0, "decode": 0.0}
            text = 0.0  # all prompts were embedded before the first stage
            for group in self._groups(items):
                for batch, images in self._render_group(group, prompts, seconds):
                    done.update(zip((item.index for item in batch), images, strict=True))
                    count += len(batch)
                    if on_batch is not None:
                        on_batch(count)
            yield Renders(renders=tuple(done[item.index] for item in items), seconds=seconds)

    def _groups(self, items: Sequence[SuiteItem]) -> Iterator[list[list[SuiteItem]]]:
        """Batches that are denoised before the first of them is decoded: all, where U-Net and VAE take turns."""
        every = list(batches(items, self.batch_size, self.limits.of("unet")))
        if self.models.in_turns:
            yield every
        else:
            yield from ([batch] for batch in every)

    def _render_group(
        self, group: Sequence[list[SuiteItem]], prompts: Mapping[str, Embedding], seconds: dict[str, float]
    ) -> Iterator[tuple[list[SuiteItem], list[Render]]]:
        """Each batch; adds to the seconds of `denoise` and `decode`. Raises as `render_stages`."""
        with _timed(seconds, "denoise"):
            for size in dict.fromkeys(map(_size, group)):
                self._image_channels(*size)  # of all sizes first: they need the VAE, which may have to leave
            latents = [self._denoise_all(batch, prompts) for batch in group]
        for batch, some in zip(group, latents, strict=True):
            with _timed(seconds, "decode"):
                images = self._decode_all(some, _size(batch))
            yield batch, images

    def _denoise_all(self, batch: Sequence[SuiteItem], prompts: Mapping[str, Embedding]) -> Tensor:
        """`_denoise`; raises as `render_stages`."""
        channels = self._image_channels(*_size(batch))
        self.models.use("unet")
        compute = partial(self._denoise, batch, prompts, channels)
        latents = self._within_memory("unet", _size(batch), len(batch), compute)
        if latents is None:
            raise BatchReduced
        return latents

    def _decode_all(self, latents: Tensor, size: Size) -> list[Render]:
        """A batch, decoded in groups that fit; raises as `render_stages`."""
        self.models.use("vae")
        usual = min(decoded_at_once(*size, latents.device), len(latents))
        while True:
            at_once = min(usual, self.limits.of("vae").get(size, usual))
            images = self._within_memory("vae", size, at_once, partial(self._decode, latents, at_once))
            if images is not None:
                self._decoded.add(size)
                return images
            if size in self._decoded:  # in larger groups: the same images, but for their last bits
                raise BatchReduced

    def _within_memory(self, component: Batched, size: Size, count: int, compute: Callable[[], T]) -> T | None:
        """What is computed for so many images at once; None where memory lacks, and then their limit is lower.

        Raises:
            TrialFailed: a single image is too much.
        """
        try:
            return compute()
        except (RuntimeError, MemoryError) as error:
            if not lacks_memory(error):
                raise
            reason = first_line(error)
        # Only here, where the error and all that its frames hold are gone, is there memory again.
        if count == 1:
            doing = "denoising" if component == "unet" else "decoding"
            words = f"out of memory {doing} a single image of {size[0]}x{size[1]}: {reason}"
            raise TrialFailed(words, "out_of_memory")
        if self.models.unet.device.type == "cuda":
            torch.cuda.empty_cache()
        self.limits.lower(component, size, count, reason)
        return None

    def _denoise(self, batch: Sequence[SuiteItem], prompts: Mapping[str, Embedding], channels: Tensor | None) -> Tensor:
        """Final latents [n, latent channels, h / 8, w / 8] of items of one size.

        Args:
            channels: what follows the noise, as `image_channels` gives them.
        """
        unet, latent_channels = self.models.unet, self.models.vae.config.latent_channels
        first, generators = zip(*(noise(item, latent_channels) for item in batch), strict=True)
        wanted = _stack("prompt_embeds", [prompts[item.prompt] for item in batch])
        if self.suite.cfg > 1:
            wanted |= _stack("negative_prompt_embeds", [prompts[item.negative] for item in batch])
        with appended(unet, channels):
            result = self.pipeline(
                **wanted,
                width=batch[0].width,
                height=batch[0].height,
                num_inference_steps=self.suite.steps,
                guidance_scale=self.suite.cfg,
                latents=torch.stack(first).to(unet.device, unet.dtype),
                generator=list(generators),
                output_type="latent",
            )
        latents: Tensor = result.images
        _wait_for(latents)
        return latents

    def _image_channels(self, width: int, height: int) -> Tensor | None:
        size = (width, height)
        if size not in self._channels:
            if self._kind == "inpainting":
                self.models.use("vae")
            self._channels[size] = image_channels(self._kind, self.models.vae, width, height, self.models.unet.dtype)
        return self._channels[size]

    @torch.inference_mode()
    def _decode(self, latents: Tensor, at_once: int) -> list[Render]:
        """Images are checked and rounded where they are decoded: of the float pixels nothing leaves the device."""
        vae, images, measured = self.models.vae, list[Tensor](), list[Tensor]()
        for group in torch.split(to_vae(latents.to(vae.dtype), vae), at_once):
            pixels = (vae.decode(group).sample.float() / 2 + 0.5).clamp(0, 1)
            measured.append(measure(pixels))
            images.append(to_bytes(pixels))
        found = faults(torch.cat(measured))
        return [Render(image=image, fault=fault) for image, fault in zip(torch.cat(images).cpu(), found, strict=True)]


def to_bytes(pixels: Tensor) -> Tensor:
    """uint8 in 0..255, rounded, of floating point in 0..1; NaN becomes 0."""
    return (pixels.nan_to_num(0) * 255).round().clamp(0, 255).to(torch.uint8)


def decoded_at_once(width: int, height: int, device: torch.device) -> int:
    """Images of a size that go through the autoencoder together."""
    pixels = CPU_DECODE_PIXELS if device.type == "cpu" else DECODE_PIXELS
    return max(1, pixels // (width * height))


def make_pipeline(models: LiveModels, suite: SuiteSettings) -> Any:
    """The family's diffusers pipeline; it is handed embeddings and latents, so it needs no tokenizer.

    Raises:
        RenderError: the suite's scheduler, steps or clip skip do not fit, or the U-Net takes unknown channels.
    """
    scheduler = check_suite(
        suite,
        prediction=models.prediction,
        unet_channels=models.unet.config.in_channels,
        latent_channels=models.vae.config.latent_channels,
        text_layers=min(encoder.config.num_hidden_layers for encoder in models.text_encoders.values()),
    )
    pipeline = model_family(models.architecture).pipeline(models.unet, models.vae, models.text_encoders, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def check_suite(
    suite: SuiteSettings, *, prediction: Prediction, unet_channels: int, latent_channels: int, text_layers: int
) -> Any:
    """The suite's scheduler, if a model of these sizes can render the suite at all.

    Raises:
        RenderError: the U-Net takes unknown channels, or scheduler, steps or clip skip do not fit.
    """
    unet_kind(unet_channels, latent_channels)
    if prediction.latents is not None and len(prediction.latents.mean) != latent_channels:
        raise RenderError(
            f"edm_mean and edm_std are for {len(prediction.latents.mean)} latent channels, the VAE has "
            f"{latent_channels}: the markers are not this model's, use the original file"
        )
    if suite.clip_skip > text_layers:
        raise RenderError(
            f"clip_skip {suite.clip_skip} leaves no layer: the text encoder has {text_layers}; use 1 to {text_layers}"
        )
    scheduler = make_scheduler(suite.scheduler, prediction)
    try:
        scheduler.set_timesteps(suite.steps)
    except ValueError as error:  # LCM was distilled for at most 50
        raise RenderError(f"scheduler {suite.scheduler} cannot take {suite.steps} steps: {error}") from error
    return scheduler


def _stack(name: str, embeddings: Sequence[Embedding]) -> dict[str, Tensor]:
    """Pipeline arguments for a batch's embeddings: [n, 77, width], and [n, p] where the model pools text."""
    arguments = {name: torch.stack([embedding.tokens for embedding in embeddings])}
    pooled = [embedding.pooled for embedding in embeddings if embedding.pooled is not None]
    if pooled:
        arguments[name.replace("prompt_embeds", "pooled_prompt_embeds")] = torch.stack(pooled)
    return arguments


def _size(batch: Sequence[SuiteItem]) -> Size:
    return batch[0].width, batch[0].height


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Count the seconds of what is done inside."""
    start = time.perf_counter()
    yield
    seconds[stage] += time.perf_counter() - start


def _wait_for(tensor: Tensor) -> None:
    """A GPU computes behind our back; timings need it to be done."""
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
