"""Rendering: against a plain diffusers pipeline, and what must not depend on batch, order or trial."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import random_tensors
from decoded import float_pixels
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from embedded_prompts import embedded, encoder_of, item_of
from live import CPU, resident_of, weighted
from marked_files import write_marked
from safetensors.torch import save_file
from slow_cases import first_fast
from small_files import small_parents
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from optimizer.errors import CheckpointError, RenderError, UnscorableTrial
from optimizer.families.clip_tokens import clip_tokenizer, pad_with_end
from optimizer.merging.engine.flat import merge_flat
from optimizer.merging.engine.plan import PlacePlan
from optimizer.merging.files.checkpoint import Checkpoint
from optimizer.rendering.batching import batches, usual_batch
from optimizer.rendering.models import LiveModels, build_models, live_dtypes
from optimizer.rendering.prompts.check import token_count
from optimizer.rendering.render import Renderer, to_bytes
from optimizer.trial.evaluation import Evaluator
from search_spaces.blocks import Architecture
from studies.spec.samplers import SAMPLERS, Sampling
from studies.spec.suite import SuiteItem, SuiteSettings

# diffusers calls np.array on a tensor; torch's __array__ has no `copy` yet.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

BOTH = pytest.mark.parametrize("architecture", list(Architecture))


@pytest.fixture(scope="module")
def models(device: torch.device) -> dict[Architecture, LiveModels]:
    """Parent A of each architecture, live."""
    return {name: build_models(resident_of(small_parents(name)[:1], device)) for name in Architecture}


def suite(**changes: Any) -> SuiteSettings:
    settings: dict[str, Any] = {
        "prompts": ["a red apple", {"prompt": "a bird", "negative": "blurry"}],
        "seeds": (1, 2),
        "sizes": (64,),
        "steps": 2,
        "cfg": 5.0,
        "sampler": "ddim_comfyui",
        "syntax": "plain",
    }
    return SuiteSettings.model_validate(settings | changes)


def assert_close(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...], tolerance: float = 2e-4) -> None:
    """Images in 0..1, each within `tolerance`."""
    assert [row.shape for row in ours] == [row.shape for row in theirs]
    assert max(float((one - other).abs().max()) for one, other in zip(ours, theirs, strict=True)) <= tolerance


# ------------------------------------------------------------------------------------ the reference


@dataclass(frozen=True)
class Reference:
    """Modules built from what diffusers converts a file to, with configurations written down here."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    text_encoder_2: CLIPTextModelWithProjection | None


TEXT = {
    "vocab_size": 49408,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "hidden_act": "quick_gelu",
    "bos_token_id": 49406,
    "eos_token_id": 49407,
}
UNETS: Mapping[Architecture, Mapping[str, Any]] = {
    Architecture.SD15: {"block_out_channels": (32, 64, 128, 128), "cross_attention_dim": 64, "attention_head_dim": 8},
    Architecture.SDXL: {
        "block_out_channels": (32, 64, 128),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 128,
        "attention_head_dim": (1, 1, 2),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 16,
        "projection_class_embeddings_input_dim": 160,
    },
}


def load(model: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """Every parameter of the model, whatever the version of transformers calls it."""
    names = {name for name, _ in model.named_parameters()}
    rows = {name if name in names else name.removeprefix("text_model."): row for name, row in weights.items()}
    missing, _ = model.load_state_dict({name: row.clone() for name, row in rows.items() if name in names}, strict=False)
    assert [name for name in missing if not name.endswith("position_ids")] == []
    return model.eval().requires_grad_(False)


def text_model(weights: Mapping[str, Tensor], layers: int = 2) -> Any:
    return load(CLIPTextModel(CLIPTextConfig(**TEXT | {"num_hidden_layers": layers})), weights)


def projected_text_model(weights: Mapping[str, Tensor], layers: int = 2) -> Any:
    config = CLIPTextConfig(**TEXT | {"num_hidden_layers": layers, "hidden_act": "gelu", "projection_dim": 64})
    return load(CLIPTextModelWithProjection(config), weights)


def clip_weights(architecture: Architecture) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights of both text encoders; SD1.5 has no second."""
    tensors = {key: row.float() for key, row in random_tensors(architecture.value, 0).items()}
    first = convert_ldm_clip_checkpoint(tensors)
    if architecture == Architecture.SD15:
        return first, {}
    return first, convert_open_clip_checkpoint(None, tensors, "conditioner.embedders.1.model.")


def reference(architecture: Architecture) -> Reference:
    """Parent 0 of the fixture as diffusers would load it."""
    tensors = {key: row.float() for key, row in random_tensors(architecture.value, 0).items()}
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    unet = UNet2DConditionModel(sample_size=8, layers_per_block=2, **UNETS[architecture])
    vae = AutoencoderKL(
        block_out_channels=(32, 64, 128, 128),
        layers_per_block=2,
        latent_channels=4,
        scaling_factor=0.18215 if architecture == Architecture.SD15 else 0.13025,
        **blocks,
    )
    first, second = clip_weights(architecture)
    return Reference(
        unet=load(unet, convert_ldm_unet_checkpoint(dict(tensors), unet.config)),
        vae=load(vae, convert_ldm_vae_checkpoint(dict(tensors), vae.config)),
        text_encoder=text_model(first),
        text_encoder_2=projected_text_model(second) if architecture == Architecture.SDXL else None,
    )


def token_ids(prompts: list[str], pad: int) -> Tensor:
    """[n, 77] from the vocabulary's own words: start, tokens, end, padding."""
    rows = [[49406, *clip_tokenizer().encode(prompt), 49407] for prompt in prompts]
    return torch.tensor([row + [pad] * (77 - len(row)) for row in rows])


def penultimate(whole: Any, prompts: list[str], pad: int) -> Tensor:
    """The state before the last layer, taken where that layer receives it."""
    seen: list[Tensor] = []

    def listen(_: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        seen.append(args[0] if args else kwargs["hidden_states"])

    last = getattr(whole, "text_model", whole).encoder.layers[-1]
    handle = last.register_forward_pre_hook(listen, with_kwargs=True)
    whole(input_ids=token_ids(prompts, pad))
    handle.remove()
    return seen[0]


@torch.no_grad()
def reference_images(architecture: Architecture, settings: SuiteSettings) -> tuple[Tensor, ...]:
    """The suite by a plain diffusers pipeline, all items in one call."""
    parts, items = reference(architecture), settings.items()
    prompts, negatives = [item.prompt for item in items], [item.negative for item in items]
    scheduler = EulerDiscreteScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing="linspace",
        steps_offset=1,
    )
    latents = torch.stack([torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(item.seed)) for item in items])
    wanted: dict[str, Tensor] = {}
    for name, texts in (("prompt_embeds", prompts), ("negative_prompt_embeds", negatives)):
        if parts.text_encoder_2 is None:
            wanted[name] = parts.text_encoder(input_ids=token_ids(texts, 49407)).last_hidden_state
            continue
        wanted[name] = torch.cat(
            [penultimate(parts.text_encoder, texts, 49407), penultimate(parts.text_encoder_2, texts, 0)], dim=-1
        )
        pooled = parts.text_encoder_2(input_ids=token_ids(texts, 0)).text_embeds
        wanted[name.replace("prompt_embeds", "pooled_prompt_embeds")] = pooled
    shared: dict[str, Any] = {"vae": parts.vae, "unet": parts.unet, "scheduler": scheduler}
    shared |= {"text_encoder": parts.text_encoder, "tokenizer": None}
    if parts.text_encoder_2 is None:
        rest = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        pipeline = StableDiffusionPipeline(**shared, **rest)
    else:
        rest = {"text_encoder_2": parts.text_encoder_2, "tokenizer_2": None, "add_watermarker": False}
        pipeline = StableDiffusionXLPipeline(**shared, **rest)
    pipeline.set_progress_bar_config(disable=True)
    result = pipeline(
        **wanted,
        latents=latents,
        num_inference_steps=settings.steps,
        guidance_scale=settings.cfg,
        height=64,
        width=64,
        output_type="pt",
    )
    return tuple(result.images)


@BOTH
def test_images_are_those_of_a_plain_diffusers_pipeline(device: torch.device, architecture: Architecture) -> None:
    settings = suite(sampler="euler", steps=3)
    live = build_models(resident_of(small_parents(architecture)[:1], device))
    assert_close(float_pixels(Renderer(live, settings)), reference_images(architecture, settings))


# ------------------------------------------------------------------------------------ live models


class TestLiveModels:
    @BOTH
    def test_parameters_are_the_resident_buffers_and_stay_them(
        self, device: torch.device, architecture: Architecture
    ) -> None:
        resident = resident_of(small_parents(architecture)[:2], device)
        live = build_models(resident)
        parts = [live.unet, live.vae, *live.text_encoders.values()]
        parameters = [row for part in parts for row in part.parameters()]
        buffers = {row.untyped_storage().data_ptr() for row in resident.live_tensors().values()}
        assert {row.untyped_storage().data_ptr() for row in parameters} <= buffers
        pointers = [row.data_ptr() for row in parameters]
        before = [row.clone() for row in parameters]
        resident.merge(weighted(resident, 0.5))
        assert all(not torch.equal(row, old) for row, old in zip(parameters, before, strict=True))
        assert [row.data_ptr() for part in parts if part is not None for row in part.parameters()] == pointers
        assert not any(row.requires_grad or row.is_meta for row in parameters)

    @BOTH
    def test_a_merge_shows_in_the_images_and_undoing_it_too(
        self, device: torch.device, architecture: Architecture
    ) -> None:
        resident = resident_of(small_parents(architecture)[:2], device)
        renderer = Renderer(build_models(resident), suite())
        first = renderer.render().images
        resident.merge(weighted(resident, 0.5))
        renderer.text_changed()
        other = renderer.render().images
        resident.merge(weighted(resident, 0.0))
        renderer.text_changed()
        again = renderer.render().images
        assert not any(torch.equal(one, two) for one, two in zip(first, other, strict=True))
        assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))

    def test_a_merge_that_is_broken_off_leaves_no_text_embeddings_behind(
        self, device: torch.device, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        resident = resident_of(small_parents(Architecture.SD15)[:2], device)
        renderer = Renderer(build_models(resident), suite(seeds=(1,), steps=1))
        evaluator = Evaluator(resident, renderer, {}, degenerate_limit=len(renderer.items))
        text = {row.data_ptr() for _, row in resident.parameters("text_encoder")}

        def merge_text_alone(plan: PlacePlan, held: Mapping[str, Tensor], live: Tensor, *rest: Any) -> None:
            if live.data_ptr() not in text:
                raise torch.OutOfMemoryError("CUDA out of memory")
            merge_flat(plan, held, live, *rest)

        evaluator.evaluate(weighted(resident, 0.0))
        with monkeypatch.context() as patch:
            patch.setattr("optimizer.merging.engine.resident.merge_flat", merge_text_alone)
            with pytest.raises(UnscorableTrial, match="out of memory"):
                evaluator.evaluate(weighted(resident, 0.5))
        found = evaluator.evaluate(weighted(resident, 0.5)).images
        renderer.text_changed()
        assert all(torch.equal(*pair) for pair in zip(found, renderer.render().images, strict=True))

    def test_a_cpu_computes_in_float32_and_images_are_decoded_in_float32_everywhere(self) -> None:
        assert set(live_dtypes(CPU, torch.float16).values()) == {torch.float32}
        on_gpu = dict(live_dtypes(torch.device("cuda"), torch.float16))
        assert on_gpu.pop("vae") == torch.float32
        assert set(on_gpu.values()) == {torch.float16}

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                lambda key, row: None if key.endswith("time_embed.0.bias") else row,
                "incomplete U-Net, without .*time_embed.0.bias",
            ),
            (lambda key, row: None if "decoder.conv_in.bias" in key else row, "vae lacks decoder.conv_in.bias"),
            (lambda key, row: None if key.startswith("first_stage_model.encoder") else row, "full checkpoint"),
            (lambda key, row: row[:16] if key.endswith("input_blocks.0.0.bias") else row, "the unet is not a plain"),
        ],
    )
    def test_an_incomplete_or_odd_checkpoint_is_refused(
        self, change: Callable[[str, Tensor], Tensor | None], message: str, tmp_path: Path
    ) -> None:
        changed = {key: change(key, row) for key, row in random_tensors("sd15", 0).items()}
        kept = {key: row.contiguous() for key, row in changed.items() if row is not None}
        save_file(kept, tmp_path / "odd.safetensors")
        with pytest.raises(CheckpointError, match=message):
            build_models(resident_of((Checkpoint.open(tmp_path / "odd.safetensors"),)))

    def test_what_stands_beside_the_text_model_is_no_parameter(self, tmp_path: Path) -> None:
        """Files saved from a CLIPModel or CLIPTextModelWithProjection carry it; the merge keeps it."""
        key = "cond_stage_model.transformer.text_projection.weight"
        save_file(random_tensors("sd15", 0) | {key: torch.eye(64)}, tmp_path / "more.safetensors")
        resident = resident_of((Checkpoint.open(tmp_path / "more.safetensors"),))
        build_models(resident)
        assert torch.equal(resident.live_tensors()[key], torch.eye(64))

    def test_a_model_that_needs_a_depth_map_cannot_render_a_suite(self, tmp_path: Path) -> None:
        live = build_models(resident_of((write_marked(tmp_path / "depth.safetensors", channels=5),)))
        with pytest.raises(RenderError, match=r"takes 5 input channels, a suite can be rendered with 4 \(text\), 9"):
            Renderer(live, suite())


# ---------------------------------------------------------------------------------------- the suite


def item(seed: int, width: int = 64, height: int = 64, index: int = 0, prompt: str = "x") -> SuiteItem:
    return SuiteItem(
        index=index,
        prompt=prompt,
        negative="",
        seed=seed,
        width=width,
        height=height,
        sampling=Sampling(sampler="euler", schedule="normal", steps=2, cfg=5.0),
        clip_skip=1,
    )


class TestBatches:
    @pytest.mark.parametrize("size", [None, 1, 2, 3, 100])
    def test_every_item_once_and_one_size_in_a_batch(self, size: int | None) -> None:
        items = [item(index, width=64 * (1 + index % 3), index=index) for index in range(11)]
        found = list(batches(items, size))
        assert sorted(row.index for batch in found for row in batch) == list(range(11))
        assert all(len({(row.width, row.height) for row in batch}) == 1 for batch in found)
        assert all(1 <= len(batch) <= (size or 64) for batch in found)
        assert all([row.index for row in batch] == sorted(row.index for row in batch) for batch in found)

    def test_large_images_go_one_by_one(self) -> None:
        assert usual_batch(512, 512) == 8
        assert usual_batch(1024, 1024) == 2
        assert usual_batch(4096, 4096) == 1
        assert usual_batch(64, 64) == 64


class TestBatchSize:
    @pytest.mark.parametrize(
        ("architecture", "sampler"),
        first_fast(
            2,
            [
                (Architecture.SD15, "euler_ancestral"),
                (Architecture.SDXL, "dpmpp_2m_sde"),
                (Architecture.SD15, "ddim_comfyui"),
                (Architecture.SD15, "dpmpp_2m_sde"),
                (Architecture.SDXL, "ddim_comfyui"),
                (Architecture.SDXL, "euler_ancestral"),
            ],
        ),
    )
    def test_images_do_not_depend_on_it(
        self, architecture: Architecture, sampler: str, models: Mapping[Architecture, LiveModels]
    ) -> None:
        settings = suite(sampler=sampler, sizes=(64, (128, 64)))
        one, two, every = (
            float_pixels(Renderer(models[architecture], settings, batch_size=size)) for size in (1, 2, None)
        )
        assert [tuple(row.shape) for row in one] == [(3, 64, 64), (3, 64, 128)] * 4
        assert_close(two, one)
        assert_close(every, one)
        assert len({row.numpy().tobytes() for row in one}) == len(one)  # and they are different images

    def test_images_do_not_depend_on_the_order_of_the_prompts(self, models: Mapping[Architecture, LiveModels]) -> None:
        forth = Renderer(
            models[Architecture.SD15], suite(sampler="euler_ancestral", prompts=["cat", "dog"], seeds=(5,))
        )
        back = Renderer(models[Architecture.SD15], suite(sampler="euler_ancestral", prompts=["dog", "cat"], seeds=(5,)))
        assert_close(float_pixels(forth), float_pixels(back)[::-1])

    def test_progress_counts_images(self, models: Mapping[Architecture, LiveModels]) -> None:
        done: list[int] = []
        renders = Renderer(models[Architecture.SD15], suite(), batch_size=3).render(done.append)
        assert done == [3, 4]
        assert renders.seconds.keys() == {"merge", "text", "denoise", "decode"}
        assert all(value > 0 for step, value in renders.seconds.items() if step != "merge")


class TestStages:
    @pytest.mark.parametrize("architecture", first_fast(1, Architecture))
    def test_a_stage_is_rendered_alike_whether_others_follow_or_not(
        self, architecture: Architecture, models: Mapping[Architecture, LiveModels]
    ) -> None:
        renderer = Renderer(models[architecture], suite(sizes=(64, (128, 64))), batch_size=3, stage_size=3)
        first = next(renderer.render_stages())
        done: list[int] = []
        whole = renderer.render(done.append)
        places = [item.index for item in renderer.stages[0]]
        assert len(places) == 3
        assert all(torch.equal(one, whole.images[place]) for one, place in zip(first.images, places, strict=True))
        assert done == sorted(set(done))
        assert done[-1] == len(whole.images) == len(renderer.items)

    def test_stages_render_the_images_of_the_plain_order(self, models: Mapping[Architecture, LiveModels]) -> None:
        live = models[Architecture.SD15]
        assert_close(float_pixels(Renderer(live, suite(), stage_size=3)), float_pixels(Renderer(live, suite())))

    def test_only_the_stages_that_are_asked_for_are_rendered(self, models: Mapping[Architecture, LiveModels]) -> None:
        done: list[int] = []
        rendering = Renderer(models[Architecture.SD15], suite(), stage_size=3).render_stages(done.append)
        assert not done
        next(rendering)
        assert done == [3]


class TestSettings:
    @pytest.mark.parametrize("steps", first_fast(1, [2, 4]))
    @pytest.mark.parametrize("sampler", SAMPLERS)
    def test_every_sampler_renders(self, sampler: str, steps: int, models: Mapping[Architecture, LiveModels]) -> None:
        settings = suite(sampler=sampler, steps=steps, seeds=(1,))
        for pixels in float_pixels(Renderer(models[Architecture.SD15], settings)):
            assert pixels.isfinite().all()
            assert pixels.std() > 0

    @pytest.mark.parametrize("cfg", [0.0, 1.0])
    def test_without_guidance_the_negative_prompt_has_no_effect(
        self, cfg: float, models: Mapping[Architecture, LiveModels]
    ) -> None:
        one, other = (
            float_pixels(Renderer(models[Architecture.SDXL], suite(cfg=cfg, prompts=["cat"], negative=negative)))
            for negative in ("", "blurry")
        )
        assert_close(one, other, tolerance=0)

    def test_a_sampler_that_would_not_step_is_refused(self, models: Mapping[Architecture, LiveModels]) -> None:
        with pytest.raises(RenderError, match="ddim_a1111 makes no step at all of 1: use 2 steps or more"):
            Renderer(models[Architecture.SD15], suite(sampler="ddim_a1111", steps=1))

    @BOTH
    def test_a_clip_skip_beyond_the_first_layer_is_refused(
        self, architecture: Architecture, models: Mapping[Architecture, LiveModels]
    ) -> None:
        with pytest.raises(RenderError, match="clip_skip 3 leaves no layer: the text encoder has 2"):
            Renderer(models[architecture], suite(clip_skip=3))


def test_the_fault_of_an_image_stands_beside_it(device: torch.device) -> None:
    """Of the wide images, which are every second one, each batch's last is broken."""
    models = build_models(resident_of(small_parents(Architecture.SD15)[:1], device))
    renderer = Renderer(models, suite(sizes=(64, (128, 64))), batch_size=3)

    def spoil(_module: nn.Module, _arguments: tuple[Tensor, ...], output: Tensor) -> None:
        if output.shape[-1] == 128:
            output[-1, 1] = torch.nan

    with models.vae.decoder.register_forward_hook(spoil):
        renders = renderer.render()
    nan = f"{64 * 128} of {3 * 64 * 128} values are NaN or infinite"
    assert [fault == nan for fault in renders.faults] == [index in {5, 7} for index in range(8)]
    assert [bool(image[1].any()) for image in renders.images] == [index not in {5, 7} for index in range(8)]
    assert {image.device.type for image in renders.images} == {"cpu"}


def test_images_are_rounded_bytes_and_nan_is_black(device: torch.device) -> None:
    image = to_bytes(torch.tensor([0.0, 1.0, 0.5, torch.nan, 0.001, 0.002], device=device))
    assert image.dtype == torch.uint8
    assert image.tolist() == [0, 255, 128, 0, 0, 1]


# ------------------------------------------------------------------------------------------ prompts


class TestPrompts:
    def test_tokens_are_counted_with_their_marks(self) -> None:
        assert token_count("") == 2
        assert token_count("a photo of a cat") == 7
        assert token_count("cat " * 100) == 102

    def test_known_tokens(self) -> None:
        ids = clip_tokenizer()(["a photo of a cat"])
        assert ids[0, :7].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407]
        assert ids[0, 7:].eq(0).all()
        assert pad_with_end(ids)[0, :7].tolist() == ids[0, :7].tolist()
        assert pad_with_end(ids)[0, 7:].eq(49407).all()

    def test_a_long_prompt_keeps_its_end_mark(self) -> None:
        ids = pad_with_end(clip_tokenizer()(["cat " * 100]))
        assert ids.shape == (1, 77)
        assert ids[0].tolist() == [49406, *[2368] * 75, 49407]

    @torch.no_grad()
    def test_clip_skip_two_is_a_model_without_the_last_layer(self, models: Mapping[Architecture, LiveModels]) -> None:
        weights, _ = clip_weights(Architecture.SD15)
        for skip in (1, 2):
            shorter = text_model(weights, layers=3 - skip)
            expected = shorter(input_ids=token_ids(["a red apple"], 49407)).last_hidden_state[0]
            found = embedded(models[Architecture.SD15], ["a red apple"], clip_skip=skip)["a red apple"]
            assert found.pooled is None
            torch.testing.assert_close(found.tokens.cpu(), expected, rtol=1e-4, atol=1e-5)

    @torch.no_grad()
    @pytest.mark.parametrize("skip", [1, 2])
    def test_sdxl_reads_the_penultimate_layers_and_the_pooled_text(
        self, skip: int, models: Mapping[Architecture, LiveModels]
    ) -> None:
        first, second = clip_weights(Architecture.SDXL)
        one, two = text_model(first), projected_text_model(second)
        found = embedded(models[Architecture.SDXL], ["a red apple", ""], clip_skip=skip)
        for prompt, embedding in found.items():
            expected = torch.cat([penultimate(one, [prompt], 49407), penultimate(two, [prompt], 0)], dim=-1)[0]
            torch.testing.assert_close(embedding.tokens.cpu(), expected, rtol=1e-4, atol=1e-5)
            assert embedding.pooled is not None
            pooled = two(input_ids=token_ids([prompt], 0)).text_embeds[0]
            torch.testing.assert_close(embedding.pooled.cpu(), pooled, rtol=1e-4, atol=1e-5)

    @BOTH
    def test_prompts_are_embedded_once_until_the_encoder_changes(
        self, architecture: Architecture, models: Mapping[Architecture, LiveModels]
    ) -> None:
        encoder, forwards = encoder_of(models[architecture]), list[int]()

        def count(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Tensor], out: object) -> None:
            forwards.append(len(kwargs["input_ids"]))

        handle = models[architecture].text_encoders["text_encoder"].register_forward_hook(count, with_kwargs=True)
        try:
            first = encoder.conditions([item_of("cat", "dog"), item_of("cat", "cat", index=1)])
            assert forwards == [2]
            again = encoder.conditions([item_of("dog", "bird", index=2), item_of("cat", "cat", index=3)])
            assert forwards == [2, 1]
            assert again[3].positive[0].embedding.tokens is first[0].positive[0].embedding.tokens
            assert list(again) == [2, 3]
            encoder.forget()
            encoder.conditions([item_of("cat", "cat")])
            assert forwards == [2, 1, 1]
        finally:
            handle.remove()

    def test_many_prompts_are_embedded_in_parts(self, models: Mapping[Architecture, LiveModels]) -> None:
        prompts = [f"number {index}" for index in range(70)]
        together = embedded(models[Architecture.SD15], prompts)
        alone = embedded(models[Architecture.SD15], prompts[66:67])
        torch.testing.assert_close(together["number 66"].tokens, alone["number 66"].tokens, rtol=1e-4, atol=1e-5)
        assert list(together) == prompts
