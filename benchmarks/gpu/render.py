"""A suite's rendering beside a plain diffusers loop on the same weights, stage by stage and batch by batch.

    python benchmarks/gpu/render.py A.safetensors [--device cuda] [--size 1024] [--images 8] [--steps 25]
                                    [--batches 1 2 4 8] [--variants] [--records FILE]

"plain" is what a script without mergetune does: the family's pipeline, one call an image, pictures as PIL. `--variants`
also times memory formats and compilation, which no study uses yet: they show what these would bring.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from records import add_records_option, record

from optimizer.merging.engine.ingredients import Ingredients
from optimizer.merging.files.checkpoint import Checkpoint
from optimizer.merging.files.parents import Parents
from optimizer.rendering.latents import to_vae
from optimizer.rendering.render import Renderer
from optimizer.runtime.device_choice import choose_device
from optimizer.runtime.setup import build_renderer
from studies.spec.rendering import RenderSettings
from studies.spec.suite import SuitePrompt, SuiteSettings

GB = 1e9


def suite_of(options: argparse.Namespace) -> SuiteSettings:
    prompts = tuple(SuitePrompt(prompt=f"a photograph of {index + 1} apples") for index in range(options.images))
    return SuiteSettings(prompts=prompts, sizes=((options.size, options.size),), steps=options.steps, cfg=7.0)


def timed(work: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Seconds, and the peak of allocated memory in GB."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    taken = time.perf_counter() - start
    return taken, torch.cuda.max_memory_allocated() / GB if device.type == "cuda" else 0.0


class Comparison:
    """One model, rendered in several ways."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.suite = options, suite_of(options)
        self.device = choose_device(options.device)
        ingredients = Ingredients(Parents.of([Checkpoint.open(options.checkpoint)]))
        self.resident, self.renderer = build_renderer(
            ingredients, self.suite, RenderSettings(device=options.device), self.device, None
        )

    def say(self, what: str, seconds: float, images: int, peak: float, **more: object) -> None:
        each = seconds / images
        print(f"{what:44} {each:8.3f} s an image, peak {peak:6.2f} GB {more or ''}", flush=True)
        record(
            self.options.records,
            "render",
            what=what,
            architecture=self.resident.architecture.value,
            size=self.options.size,
            steps=self.options.steps,
            images=images,
            seconds=seconds,
            peak_gb=peak,
            **more,
        )

    def ours(self, batch: int, what: str = "ours") -> None:
        """Time the whole suite in our renderer, in its own stages."""
        renderer = Renderer(self.renderer.models, self.suite, batch_size=batch)
        seconds, peak = timed(lambda: self._keep(renderer), self.device)
        stages = {stage: round(value / len(self.suite.items()), 4) for stage, value in self.stages.items()}
        self.say(f"{what}, batch {batch}", seconds, len(self.suite.items()), peak, **stages)

    def _keep(self, renderer: Renderer) -> None:
        with torch.inference_mode():
            renders = renderer.render()
        self.stages, self.renders = renders.seconds, renders

    def finite(self) -> None:
        """Random weights, real pictures: neither NaN nor flat."""
        spread = [float((image / 255).std()) for image in self.renders.images]
        whole = not any("NaN" in fault for fault in self.renders.faults if fault is not None)
        print(f"finite: {whole}; standard deviation of the pixels {min(spread):.3f} to {max(spread):.3f}")

    def plain(self, images: int) -> None:
        """One pipeline call an image, as a plain script does."""
        pipeline, suite, vae = self.renderer.pipeline, self.suite, self.renderer.models.vae
        embeddings = self.renderer.encoder.embed([suite.items()[0].prompt, ""])

        def loop() -> None:
            for item in suite.items()[:images]:
                wanted, empty = embeddings[suite.items()[0].prompt], embeddings[""]
                pooled: dict[str, Any] = {}
                if wanted.pooled is not None and empty.pooled is not None:
                    pooled = {
                        "pooled_prompt_embeds": wanted.pooled[None],
                        "negative_pooled_prompt_embeds": empty.pooled[None],
                    }
                latents = pipeline(
                    prompt_embeds=wanted.tokens[None],
                    negative_prompt_embeds=empty.tokens[None],
                    width=item.width,
                    height=item.height,
                    num_inference_steps=suite.steps,
                    guidance_scale=suite.cfg,
                    generator=torch.Generator().manual_seed(item.seed),
                    output_type="latent",
                    **pooled,
                ).images
                # The pipeline itself would first convert the autoencoder to float32, for each image again.
                with torch.inference_mode():
                    decoded = vae.decode(to_vae(latents.to(vae.dtype), vae)).sample
                pipeline.image_processor.postprocess(decoded.float(), output_type="pil")

        loop_seconds, peak = timed(loop, self.device)
        self.say("plain diffusers loop", loop_seconds, images, peak)

    def decodes(self, batches: list[int]) -> None:
        """Time the autoencoder alone."""
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
                self.say(f"decode {dtype}, batch {batch}", seconds, batch, peak)

    def variants(self) -> None:
        """Time the variants; those that change the modules permanently come last."""
        unet = self.renderer.models.unet
        unet.to(memory_format=torch.channels_last)
        self.ours(4, "warm-up, channels_last")
        self.ours(4, "ours, channels_last")
        start = time.perf_counter()
        unet.compile_repeated_blocks(fullgraph=True)
        self.ours(4, "warm-up, channels_last and compiled")
        print(f"compiled in {time.perf_counter() - start:.1f} s, one suite included")
        self.ours(4, "ours, channels_last and compiled")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--variants", action="store_true")
    add_records_option(parser)
    options = parser.parse_args()
    comparison = Comparison(options)
    comparison.ours(options.batches[0], "warm-up")
    comparison.finite()
    for batch in options.batches:
        comparison.ours(batch)
    comparison.plain(min(4, options.images))
    if options.variants:
        comparison.decodes([1, 2, 4])
        comparison.renderer.models.vae.to(torch.float32)
        comparison.variants()


if __name__ == "__main__":
    main()
