"""Render the suite with the merge that is live."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from basics.messages import first_line
from optimizer.errors import RenderError, UnscorableTrial
from optimizer.rendering.batching import alike_together, batches, stages
from optimizer.rendering.enlarging import enlarged, needs_vae
from optimizer.rendering.guidance import check_perturbed, self_attentions
from optimizer.rendering.input_channels import image_channels, unet_kind
from optimizer.rendering.largest_batches import BatchTooLarge, LargestBatches
from optimizer.rendering.latents import to_vae
from optimizer.rendering.models import LiveModels
from optimizer.rendering.prediction import Prediction
from optimizer.rendering.prompts.encoder import Conditions, PromptEncoder
from optimizer.rendering.sampling.noise import Increments
from optimizer.rendering.sampling.sample import check_sampling, sample, sample_again
from optimizer.rendering.tiles import is_tiled
from scorers.degenerate import faults, measure
from scorers.memory import lacks_memory
from search_spaces.blocks import UNET, Architecture
from studies.records.batch_limits import Batched, Size
from studies.spec.suite import SuiteItem, SuiteSettings

# Pixels decoded at once. One image of 1024 x 1024, or four of 512 x 512, take 4.3 GB in float32, more than the U-Net
# needs for a batch, and already occupy a whole GPU; a CPU gains nothing from more than one image of 512 x 512.
DECODE_PIXELS, CPU_DECODE_PIXELS = 1024 * 1024, 512 * 512

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _OutOfMemory:
    """What a computation ended with for which there is too little memory."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Render:
    """An image of the suite."""

    image: Tensor  # uint8 [3, h, w] on the CPU, as it is scored and saved
    fault: str | None  # why it is degenerate; None if it is not


@dataclass(frozen=True, slots=True, kw_only=True)
class Renders:
    """The renders of the suite or of one stage, in item order."""

    renders: tuple[Render, ...]
    # By step: text, merge (of LoRAs on top), denoise, decode (and enlarging between two passes, mostly the VAE's work).
    seconds: Mapping[str, float]

    @property
    def images(self) -> tuple[Tensor, ...]:
        """The images, uint8 [3, h, w] each."""
        return tuple(render.image for render in self.renders)

    @property
    def faults(self) -> tuple[str | None, ...]:
        """The fault of each image, None where there is none."""
        return tuple(render.fault for render in self.renders)


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """The embedded prompts of a suite: index of an item -> its embeddings in a pass."""

    first: Mapping[int, Conditions]
    second: Mapping[int, Conditions]  # of items that have a second pass

    @property
    def token_counts(self) -> dict[int, tuple[int, ...]]:
        """Index of an item -> the tokens that the U-Net reads in each pass."""
        return {
            index: tuple(each[index].token_count for each in (self.first, self.second) if index in each)
            for index in self.first
        }


class Renderer:
    """Live models, and the suite that they render for every trial.

    Args:
        batch_size: images in a batch; None takes `usual_batch`.
        stage_size: items of a stage, after each of which a trial may be stopped; None renders everything in one stage.
        stage_order: see `stages`.
        largest_batches: limits from earlier trials; None starts without limits.

    Raises:
        RenderError: as for `check_suite`, or a prompt cannot be read.
        LoraError: a LoRA of the suite is not among those of the models.
    """

    def __init__(
        self,
        models: LiveModels,
        suite: SuiteSettings,
        *,
        batch_size: int | None = None,
        stage_size: int | None = None,
        stage_order: str | None = None,
        largest_batches: LargestBatches | None = None,
    ) -> None:
        self.models, self.suite, self.batch_size = models, suite, batch_size
        self.largest_batches = largest_batches or LargestBatches()
        self.items = suite.items()
        self.stages = stages(suite, stage_size, stage_order)
        check_suite(
            suite,
            architecture=models.architecture,
            prediction=models.prediction,
            unet_channels=models.unet.config.in_channels,
            unet_parameters=(name for name, _ in models.unet.named_parameters()),
            latent_channels=models.vae.config.latent_channels,
            text_layers=min(encoder.config.num_hidden_layers for encoder in models.text_encoders.values()),
        )
        self.encoder = PromptEncoder(models, suite)
        loras = {item.index: models.loras.on((UNET,), self.encoder.loras_of(item)) for item in self.items}
        self._loras, self._by_loras = loras, alike_together(self.stages, loras)
        self._kind = unet_kind(models.unet.config.in_channels, models.vae.config.latent_channels)
        self._channels: dict[Size, Tensor | None] = {}  # extra input channels, which follow the noise
        self._increments = Increments()  # the same for every trial
        self._decoded: set[Size] = set()  # sizes of the images decoded so far in this trial

    def text_changed(self) -> None:
        """Drop cached embeddings, which is required after a merge that changed a text encoder."""
        self.encoder.forget()

    def render(self, on_batch: Callable[[int], None] | None = None) -> Renders:
        """Render every item.

        Args:
            on_batch: called after each batch with the number of images done so far.

        Raises:
            UnscorableTrial: there is too little memory for the prompts, a component, or a single image.
        """
        while True:
            try:
                return self._render_all(on_batch)
            except BatchTooLarge:
                continue
            except (RuntimeError, MemoryError) as error:
                if not lacks_memory(error):
                    raise
                raise UnscorableTrial(f"out of memory: {first_line(error)}", "out_of_memory") from None

    def _render_all(self, on_batch: Callable[[int], None] | None) -> Renders:
        done: dict[int, Render] = {}
        seconds: Counter[str] = Counter()
        for items, renders in zip(self.stages, self.render_stages(on_batch), strict=True):
            done.update(zip((item.index for item in items), renders.renders, strict=True))
            seconds.update(renders.seconds)
        return Renders(renders=tuple(done[item.index] for item in self.items), seconds=dict(seconds))

    def render_stages(self, on_batch: Callable[[int], None] | None = None) -> Generator[Renders]:
        """Render the `stages` in order, each when the generator is advanced.

        LoRAs of the suite stay on top of the U-Net between stages. When the generator ends or is closed, the merge is
        live again.

        Args:
            on_batch: called after each batch with the number of images done so far.

        Raises:
            BatchTooLarge: a batch did not fit into the memory, and its limit was lowered: render again from the
                beginning. If only decoding failed, and no image of the size was decoded yet, decoding continues in
                smaller groups instead.
            UnscorableTrial: not even a single image fits into the memory.
        """
        try:
            yield from self._render_stages(on_batch)
        finally:
            self.models.lay_on_top((), UNET)

    def _render_stages(self, on_batch: Callable[[int], None] | None) -> Iterator[Renders]:
        start = time.perf_counter()
        self._channels.clear()  # they depend on the VAE, which a merge may have changed
        self._decoded.clear()
        texts = Texts(first=self.encoder.conditions(self.items), second=self.encoder.second_conditions(self.items))
        text_seconds, count = time.perf_counter() - start, 0
        for items, by_loras in zip(self.stages, self._by_loras, strict=True):
            done: dict[int, Render] = {}
            seconds = {"text": text_seconds, "merge": 0.0, "denoise": 0.0, "decode": 0.0}
            text_seconds = 0.0  # all prompts were embedded before the first stage
            for group in self._groups(by_loras, texts):
                for batch, images in self._render_group(group, texts, seconds):
                    done.update(zip((item.index for item in batch), images, strict=True))
                    count += len(batch)
                    if on_batch is not None:
                        on_batch(count)
            yield Renders(renders=tuple(done[item.index] for item in items), seconds=seconds)

    def _groups(self, by_loras: Sequence[Sequence[SuiteItem]], texts: Texts) -> Iterator[list[list[SuiteItem]]]:
        """Yield groups of batches, each denoised before any of it is decoded: one group if U-Net and VAE take turns.

        Args:
            by_loras: the items of a stage, those with the same LoRAs together.
        """
        tokens = texts.token_counts
        all_batches = [
            batch
            for alike in by_loras
            for batch in batches(alike, self.batch_size, self.largest_batches.of("unet"), tokens)
        ]
        if self.models.in_turns:
            yield all_batches
        else:
            yield from ([batch] for batch in all_batches)

    def _render_group(
        self, group: Sequence[list[SuiteItem]], texts: Texts, seconds: dict[str, float]
    ) -> Iterator[tuple[list[SuiteItem], list[Render]]]:
        """Yield (batch, its renders), and add to the seconds of `merge`, `denoise` and `decode`.

        Raises:
            BatchTooLarge, UnscorableTrial: as for `render_stages`.
        """
        with _timed(seconds, "denoise"):
            for size in dict.fromkeys(size for batch in group for size in (_first_size(batch), _image_size(batch))):
                self._image_channels(*size)  # for all sizes first, because they need the VAE, which may be released
        latents = [self._denoise_by_unet(batch, texts, seconds) for batch in group]
        by_vae = [place for place, batch in enumerate(group) if _enlarges_pictures(batch)]
        beginnings = {place: self._enlarge_batch(group[place], latents[place], seconds) for place in by_vae}
        for place, begin in beginnings.items():
            latents[place] = self._denoise_batch(group[place], texts.second, begin, seconds)
        for batch, final in zip(group, latents, strict=True):
            with _timed(seconds, "decode"):
                images = self._decode_batch(final, _image_size(batch))
            yield batch, images

    def _denoise_by_unet(self, batch: Sequence[SuiteItem], texts: Texts, seconds: dict[str, float]) -> Tensor:
        """Return the latents to which a batch comes without the VAE: of both passes, if the latents are enlarged.

        So LoRAs are laid on top once for both.

        Raises:
            BatchTooLarge, UnscorableTrial: as for `render_stages`.
        """
        latents = self._denoise_batch(batch, texts.first, None, seconds)
        if not batch[0].sampling.hires.is_on or _enlarges_pictures(batch):
            return latents
        return self._denoise_batch(batch, texts.second, self._enlarge_batch(batch, latents, seconds), seconds)

    def _lay_on_top(self, batch: Sequence[SuiteItem]) -> None:
        """Make the U-Net that of the merge with the LoRAs of a batch on top."""
        if self.models.lay_on_top(self._loras[batch[0].index], UNET):
            _wait_for(next(self.models.unet.parameters()))

    def _denoise_batch(
        self,
        batch: Sequence[SuiteItem],
        conditions: Mapping[int, Conditions],
        begin: Tensor | None,
        seconds: dict[str, float],
    ) -> Tensor:
        """Denoise a batch: `_denoise` within the memory, with the LoRAs of the batch on top of the U-Net.

        Raises:
            BatchTooLarge, UnscorableTrial: as for `render_stages`.
        """
        with _timed(seconds, "merge"):
            self._lay_on_top(batch)
        with _timed(seconds, "denoise"):
            channels = self._image_channels(*(_first_size(batch) if begin is None else _image_size(batch)))
            self.models.use("unet")
            compute = partial(self._denoise, batch, conditions, channels, begin)
            latents = self._within_memory("unet", _image_size(batch), len(batch), compute)
        if latents is None:
            raise BatchTooLarge
        return latents

    def _enlarge_batch(self, batch: Sequence[SuiteItem], latents: Tensor, seconds: dict[str, float]) -> Tensor:
        """Return the latents from which the second pass of a batch begins.

        Raises:
            UnscorableTrial: as for `render_stages`.
        """
        hires, size = batch[0].sampling.hires, _image_size(batch)
        with _timed(seconds, "decode"):
            if needs_vae(hires.upscaler):
                self.models.use("vae")
            compute = partial(enlarged, latents, size, hires.upscaler, self.models.vae)
            found = self._one_within_memory("vae", size, compute)  # the VAE gets one image at a time
            _wait_for(found)
        return found

    def _decode_batch(self, latents: Tensor, size: Size) -> list[Render]:
        """Decode a batch in groups that fit into the memory.

        Raises:
            BatchTooLarge, UnscorableTrial: as for `render_stages`.
        """
        self.models.use("vae")
        usual = min(decoded_at_once(*size, latents.device), len(latents))
        while True:
            at_once = min(usual, self.largest_batches.of("vae").get(size, usual))
            images = self._within_memory("vae", size, at_once, partial(self._decode, latents, at_once))
            if images is not None:
                self._decoded.add(size)
                return images
            if size in self._decoded:  # earlier images were decoded in larger groups, and may differ in the last bits
                raise BatchTooLarge

    def _within_memory(self, component: Batched, size: Size, count: int, compute: Callable[[], T]) -> T | None:
        """Call `compute`; if memory is exhausted, release recorded kernels and try again, or lower the limit.

        Args:
            count: images that are computed at once.

        Returns:
            The result of `compute`; None if memory was exhausted.

        Raises:
            UnscorableTrial: not even a single image fits into the memory.
        """
        if count == 1:
            return self._one_within_memory(component, size, compute)
        done = self._tried(compute)
        if not isinstance(done, _OutOfMemory):
            return done
        if self.models.unet.device.type == "cuda":
            torch.cuda.empty_cache()
        self.largest_batches.lower(component, size, count, done.reason)
        return None

    def _one_within_memory(self, component: Batched, size: Size, compute: Callable[[], T]) -> T:
        """Call `compute`, which handles a single image at once; if memory is exhausted, as `_tried` does.

        Raises:
            UnscorableTrial: the image does not fit into the memory.
        """
        done = self._tried(compute)
        if not isinstance(done, _OutOfMemory):
            return done
        activity = "denoising" if component == "unet" else "decoding"
        message = f"out of memory {activity} a single image of {size[0]}x{size[1]}: {done.reason}"
        if component == "vae" and is_tiled(*size) and not self.models.vae.use_tiling:
            message += "; a study with `render: {vae_tiling: true}` takes less memory for it"
        raise UnscorableTrial(message, "out_of_memory")

    def _tried(self, compute: Callable[[], T]) -> T | _OutOfMemory:
        """Call `compute`; if memory is exhausted, release recorded kernels and try again, as long as there are some."""
        try:
            return compute()
        except (RuntimeError, MemoryError) as error:
            if not lacks_memory(error):
                raise
            reason = first_line(error)
        # Outside the handler, because memory is free again only when the error and the frames that it holds are gone.
        if self.models.unet_call.release():
            torch.cuda.empty_cache()
            return self._tried(compute)
        return _OutOfMemory(reason)

    def _denoise(
        self,
        batch: Sequence[SuiteItem],
        conditions: Mapping[int, Conditions],
        channels: Tensor | None,
        begin: Tensor | None,
    ) -> Tensor:
        """Compute the latents [n, latent channels, h / 8, w / 8] of a pass, of items of one size and one sampling.

        Args:
            conditions: of the pass.
            channels: extra input channels, from `image_channels`.
            begin: the latents from which the second pass begins; None: it is the first.
        """
        texts = [conditions[item.index] for item in batch]
        if begin is None:
            latents = sample(self.models, self.suite, batch, texts, channels, self._increments)
        else:
            latents = sample_again(self.models, self.suite, batch, texts, channels, begin, self._increments)
        _wait_for(latents)
        return latents

    def _image_channels(self, width: int, height: int) -> Tensor | None:
        """Return the extra input channels for images of a size, cached for as long as the VAE is unchanged."""
        size = (width, height)
        if size not in self._channels:
            if self._kind == "inpainting":
                self.models.use("vae")
            self._channels[size] = image_channels(self._kind, self.models.vae, width, height, self.models.unet.dtype)
        return self._channels[size]

    @torch.inference_mode()
    def _decode(self, latents: Tensor, at_once: int) -> list[Render]:
        """Decode latents [n, c, h / 8, w / 8] in groups of `at_once`; check and round the images on the device."""
        vae, images, measurements = self.models.vae, list[Tensor](), list[Tensor]()
        for group in torch.split(to_vae(latents.to(vae.dtype), vae), at_once):
            pixels = (vae.decode(group).sample.float() / 2 + 0.5).clamp(0, 1)
            measurements.append(measure(pixels))
            images.append(to_bytes(pixels))
        image_faults = faults(torch.cat(measurements))
        return [
            Render(image=image, fault=fault) for image, fault in zip(torch.cat(images).cpu(), image_faults, strict=True)
        ]


def to_bytes(pixels: Tensor) -> Tensor:
    """Convert floating-point pixels in 0..1 to uint8 in 0..255, rounded; NaN becomes 0."""
    return (pixels.nan_to_num(0) * 255).round().clamp(0, 255).to(torch.uint8)


def decoded_at_once(width: int, height: int, device: torch.device) -> int:
    """Return how many images of a size the VAE decodes at once, if the memory suffices."""
    pixels = CPU_DECODE_PIXELS if device.type == "cpu" else DECODE_PIXELS
    return max(1, pixels // (width * height))


def check_suite(
    suite: SuiteSettings,
    *,
    architecture: Architecture,
    prediction: Prediction,
    unet_channels: int,
    unet_parameters: Iterable[str],
    latent_channels: int,
    text_layers: int,
) -> None:
    """Refuse a suite that a model of these sizes cannot render.

    Args:
        unet_channels: the U-Net's input channels.
        unet_parameters: the live names of its parameters.
        latent_channels: of the VAE.
        text_layers: layers of the text encoder that has fewest.

    Raises:
        RenderError: input channels, layers, latent statistics, steps or clip skip do not fit.
    """
    unet_kind(unet_channels, latent_channels)
    check_perturbed(suite, self_attentions(unet_parameters))
    if prediction.latents is not None and len(prediction.latents.mean) != latent_channels:
        raise RenderError(
            f"edm_mean and edm_std are for {len(prediction.latents.mean)} latent channels, the VAE has "
            f"{latent_channels}: the markers belong to another model, use the original file"
        )
    for item in {(item.sampling, item.clip_skip): item for item in suite.items()}.values():
        if item.clip_skip > text_layers:
            raise RenderError(
                f"clip_skip {item.clip_skip} leaves no layer: the text encoder has {text_layers}; use 1 to "
                f"{text_layers}"
            )
        check_sampling(item, suite, prediction, architecture)


def _first_size(batch: Sequence[SuiteItem]) -> Size:
    return batch[0].width, batch[0].height


def _enlarges_pictures(batch: Sequence[SuiteItem]) -> bool:
    """Return whether the VAE takes part between the passes of a batch."""
    hires = batch[0].sampling.hires
    return hires.is_on and needs_vae(hires.upscaler)


def _image_size(batch: Sequence[SuiteItem]) -> Size:
    return batch[0].image_size


@contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    """Add the wall time of the block to `seconds[step]`."""
    start = time.perf_counter()
    yield
    seconds[step] += time.perf_counter() - start


def _wait_for(tensor: Tensor) -> None:
    """Wait until a GPU has computed a tensor, so that its time is measured; GPU work is asynchronous."""
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
