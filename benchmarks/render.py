"""Compare a suite's rendering with a plain diffusers loop on the same weights, by stage and batch size.

    python benchmarks/render.py [A.safetensors] [--device cuda] [--size 1024] [--images 8] [--steps 25]
                                [--batches 1 2 4 8] [--samplers NAME ...] [--launched] [--memory] [--variants]
                                [--records FILE]

Without a checkpoint it renders the demo's parent A at 64 px, and SD1.5 of full width with random weights at 128 px.

"plain" is what a script without mergetune does: the family's pipeline, one call for each image, PIL images.
`--launched` also times the suite without CUDA graphs, and compares the images. `--variants` times sums in fp16
and how far they move images; memory formats and compilation, which no study uses, to show what they would gain.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from records import add_records_option, record
from synthetic import write_synthetic

import studies
from optimizer.merging.engine.ingredients import Ingredients
from optimizer.merging.files.checkpoint import Checkpoint
from optimizer.merging.files.parents import Parents
from optimizer.rendering.latents import to_vae
from optimizer.rendering.models import LiveModels
from optimizer.rendering.render import Renderer
from optimizer.rendering.sampling.sample import sample
from optimizer.rendering.unet import GraphedUnet, LaunchedUnet, UnetCall
from optimizer.rendering.variation import grey_levels
from optimizer.runtime.device_choice import choose_device
from optimizer.runtime.setup import build_renderer
from studies.spec.rendering import RenderSettings
from studies.spec.suite import SuitePrompt, SuiteSettings

GB = 1e9
DEMO = Path(studies.__file__).parent / "demo" / "animals.safetensors"


def suite_of(options: argparse.Namespace) -> SuiteSettings:
    prompts = tuple(SuitePrompt(prompt=f"a photograph of {index + 1} apples") for index in range(options.images))
    return SuiteSettings(prompts=prompts, sizes=((options.size, options.size),), steps=options.steps, cfg=7.0)


def timed(work: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Measure wall time in seconds, and the peak of allocated memory in GB (0 on a CPU)."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    return seconds, torch.cuda.max_memory_allocated() / GB if device.type == "cuda" else 0.0


def plain_pipeline(models: LiveModels) -> Any:
    """Return diffusers' pipeline of these models, with DPM-Solver++ as a plain script has it."""
    texts = dict(models.text_encoders)
    scheduler = DPMSolverMultistepScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    parts: dict[str, Any] = {"vae": models.vae, "unet": models.unet, "scheduler": scheduler, "tokenizer": None, **texts}
    if "text_encoder_2" in texts:
        pipeline = StableDiffusionXLPipeline(**parts, tokenizer_2=None, add_watermarker=False)
    else:
        pipeline = StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


class Comparison:
    """One model and one suite, rendered in several ways."""

    def __init__(self, options: argparse.Namespace, checkpoint: Path) -> None:
        self.options, self.suite = options, suite_of(options)
        self.device = choose_device(options.device)
        ingredients = Ingredients(Parents.of([Checkpoint.open(checkpoint)]))
        self.resident, self.renderer = build_renderer(
            ingredients, self.suite, RenderSettings(device=options.device), self.device, None
        )

    def report(self, name: str, seconds: float, images: int, peak: float, **more: object) -> None:
        """Print and record one measurement.

        Args:
            name: of what was measured.
            seconds: for all images.
            peak: of allocated memory, in GB.
            more: further figures.
        """
        print(f"{name:44} {seconds / images:8.3f} s an image, peak {peak:6.2f} GB {more or ''}", flush=True)
        record(
            self.options.records,
            "render",
            what=name,
            architecture=self.resident.architecture.value,
            size=self.options.size,
            steps=self.options.steps,
            images=images,
            seconds=seconds,
            peak_gb=peak,
            **more,
        )

    def ours(self, batch: int, name: str = "ours") -> None:
        """Time the whole suite with our renderer, and its stages."""
        self.timed_suite(Renderer(self.renderer.models, self.suite, batch_size=batch), f"{name}, batch {batch}")

    def timed_suite(self, renderer: Renderer, name: str) -> None:
        """Time a renderer's suite, and its stages."""
        seconds, peak = timed(partial(self._render, renderer), self.device)
        count = len(renderer.items)
        stages = {stage: round(value / count, 4) for stage, value in self.renders.seconds.items()}
        self.report(name, seconds, count, peak, **stages)

    def _render(self, renderer: Renderer) -> None:
        with torch.inference_mode():
            self.renders = renderer.render()

    def check_images(self) -> None:
        """Print whether the images of random weights are as costly as real ones: neither NaN nor flat."""
        deviations = [float((image / 255).std()) for image in self.renders.images]
        finite = not any("NaN" in fault for fault in self.renders.faults if fault is not None)
        print(f"finite: {finite}; standard deviation of the pixels {min(deviations):.3f} to {max(deviations):.3f}")

    def plain(self, images: int) -> None:
        """Time one pipeline call for each image, as a plain script makes them."""
        suite, vae = self.suite, self.renderer.models.vae
        pipeline = plain_pipeline(self.renderer.models)
        first = suite.items()[0]
        conditions = self.renderer.encoder.conditions([replace(first, negative="")])[first.index]
        prompt, empty = conditions.positive[0].embedding, conditions.negative[0].embedding

        def loop() -> None:
            for item in suite.items()[:images]:
                pooled: dict[str, Any] = {}
                if prompt.pooled is not None and empty.pooled is not None:
                    pooled = {
                        "pooled_prompt_embeds": prompt.pooled[None],
                        "negative_pooled_prompt_embeds": empty.pooled[None],
                    }
                latents = pipeline(
                    prompt_embeds=prompt.tokens[None],
                    negative_prompt_embeds=empty.tokens[None],
                    width=item.width,
                    height=item.height,
                    num_inference_steps=suite.steps,
                    guidance_scale=suite.cfg,
                    generator=torch.Generator().manual_seed(item.seed),
                    output_type="latent",
                    **pooled,
                ).images
                # The pipeline itself would convert the VAE to float32 for every image.
                with torch.inference_mode():
                    decoded = vae.decode(to_vae(latents.to(vae.dtype), vae)).sample
                pipeline.image_processor.postprocess(decoded.float(), output_type="pil")

        loop_seconds, peak = timed(loop, self.device)
        self.report("plain diffusers loop", loop_seconds, images, peak)

    def decodes(self, batches: list[int]) -> None:
        """Time the VAE alone."""
        vae = self.renderer.models.vae
        cells = self.options.size // 8
        for dtype in dict.fromkeys((vae.dtype, torch.bfloat16)):
            vae.to(dtype)
            for batch in batches:
                latents = torch.randn(batch, vae.config.latent_channels, cells, cells, device=self.device, dtype=dtype)
                scaled = to_vae(latents, vae)
                with torch.inference_mode():
                    timed(lambda scaled=scaled: vae.decode(scaled), self.device)  # type: ignore[misc]
                    seconds, peak = timed(lambda scaled=scaled: vae.decode(scaled), self.device)  # type: ignore[misc]
                self.report(f"decode {dtype}, batch {batch}", seconds, batch, peak)

    def memory(self, batches: list[int]) -> None:
        """Measure the memory that a step of the U-Net takes beside weights, with guidance, and a decode."""
        models = replace(self.renderer.models, unet_call=LaunchedUnet(self.renderer.models.unet))
        self.renderer.models.unet_call.release()
        weights = torch.cuda.memory_allocated()
        for size in sorted({512, self.options.size}):
            for batch in batches:
                suite = self.suite.model_copy(update={"sizes": ((size, size),), "steps": 2})
                renderer = Renderer(models, suite, batch_size=batch)
                items = renderer.items[:batch]
                conditions = renderer.encoder.conditions(items)
                texts = [conditions[item.index] for item in items]
                _, peak = timed(partial(sample, models, suite, items, texts, None), self.device)
                self.report(f"memory of a step at {size} px, batch {batch}", 0, 1, peak - weights / GB)

    def samplers(self, names: list[str]) -> None:
        """Time the suite with each sampler, in its first and in its second trial."""
        for name in names:
            suite = SuiteSettings.model_validate({**self.suite.model_dump(mode="json"), "sampler": name})
            renderer = Renderer(self.renderer.models, suite, batch_size=4)
            for trial in ("first trial", "later ones"):
                self.timed_suite(renderer, f"ours, {name}, {trial}, batch 4")

    def launched(self, batch: int) -> None:
        """Time the suite with kernels that are launched one by one; the images must be those rendered before."""
        graphed, models = self.renders.images, self.renderer.models
        self._call_by(LaunchedUnet(models.unet))
        self.ours(batch, "ours, without CUDA graphs")
        equal = all(torch.equal(*pair) for pair in zip(graphed, self.renders.images, strict=True))
        print(f"images equal: {equal}", flush=True)
        record(self.options.records, "graphs", size=self.options.size, batch=batch, equal=equal)
        self._call_by(models.unet_call)

    def _call_by(self, call: UnetCall) -> None:
        self.renderer.models = replace(self.renderer.models, unet_call=call)

    def variants(self) -> None:
        """Time sums in fp16, memory formats and compilation; comes last, because it changes the modules for good."""
        unet = self.renderer.models.unet
        recorded = GraphedUnet if self.device.type == "cuda" else LaunchedUnet
        self.ours(4)
        exact = self.renders.images
        self._warm_and_timed(recorded(unet, accumulates_in_fp16=True), "ours, summed in fp16")
        apart = [grey_levels(*pair) for pair in zip(exact, self.renders.images, strict=True)]
        print(f"grey levels that sums in fp16 move an image: {min(apart):.3f} to {max(apart):.3f}")
        unet.to(memory_format=torch.channels_last)
        self._warm_and_timed(recorded(unet), "ours, channels_last")
        start = time.perf_counter()
        unet.compile_repeated_blocks(fullgraph=True)
        self._warm_and_timed(LaunchedUnet(unet), "ours, channels_last, compiled, without CUDA graphs")
        print(f"compiled in {time.perf_counter() - start:.1f} s, two suites included")
        self._warm_and_timed(recorded(unet), "ours, channels_last, compiled")

    def _warm_and_timed(self, call: UnetCall, name: str) -> None:
        self._call_by(call)
        self.ours(4, f"warm-up, {name}")
        self.ours(4, name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, nargs="?", default=None)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--size", type=int, default=None, help="default: 1024; without a checkpoint 64 and 128")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--samplers", nargs="+", default=[])
    parser.add_argument("--launched", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--variants", action="store_true")
    add_records_option(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = {options.checkpoint: options.size or 1024}
        if options.checkpoint is None:
            models = {DEMO: 64, write_synthetic(Path(folder) / "sd15.safetensors", "sd15", 0): 128}
        for checkpoint, size in models.items():
            options.size = size
            compare(Comparison(options, checkpoint), options)


def compare(comparison: Comparison, options: argparse.Namespace) -> None:
    """Measure all that the options ask for."""
    for batch in options.batches:
        comparison.ours(batch, "warm-up")
    comparison.check_images()
    for batch in options.batches:
        comparison.ours(batch)
        if options.launched:
            comparison.launched(batch)
    comparison.plain(min(4, options.images))
    if options.samplers:
        comparison.samplers(options.samplers)
    if options.memory:
        comparison.memory(options.batches)
    if options.variants:
        comparison.decodes([1, 2, 4])
        comparison.renderer.models.vae.to(torch.float32)
        comparison.variants()


if __name__ == "__main__":
    main()
