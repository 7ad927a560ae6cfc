"""Merging and rendering on a card that only pretends: no tensor on the wrong device, and no host that waits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_card import CARD, FakeCard, registered_worker
from live import weighted, with_small_unet
from marked_files import COSXL, PLAYGROUND, V_PRED, ZERO_SNR, write_header, write_marked
from merge_cases import Case
from slow_cases import first_fast
from small_files import small_parents
from stochastic_samplers import STOCHASTIC
from torch import Tensor, nn

from optimizer.errors import UnscorableTrial
from optimizer.merging.engine.ingredients import Ingredients
from optimizer.merging.engine.placement import Placement
from optimizer.merging.engine.resident import ResidentModel
from optimizer.merging.files.checkpoint import Checkpoint
from optimizer.merging.files.parents import Parents
from optimizer.rendering.models import LiveModels, build_models, live_dtypes
from optimizer.rendering.prediction import agreed_prediction
from optimizer.rendering.prompts.encoder import PromptEncoder
from optimizer.rendering.render import Renderer
from optimizer.rendering.sampling.sample import sample
from search_spaces.blocks import Architecture
from studies.recipe.recipe import Operation
from studies.spec.samplers import SAMPLERS, SamplerName
from studies.spec.suite import SuiteSettings

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

HALF = torch.float16
STEPS = 3
SD15_FAST = pytest.mark.parametrize("architecture", first_fast(1, Architecture))

# How often the host waits for the card in one step, at most: noise of a step is drawn on the CPU.
WAITS: Mapping[SamplerName, int] = dict.fromkeys(SAMPLERS, 0) | dict.fromkeys(STOCHASTIC, 1)


def suite(**changes: Any) -> SuiteSettings:
    settings: dict[str, Any] = {
        "prompts": [{"prompt": "a bird", "negative": "blurry"}],
        "seeds": (1,),
        "sizes": (64,),
        "steps": STEPS,
        "cfg": 5.0,
        "sampler": "euler",
    }
    return SuiteSettings.model_validate(settings | changes)


def resident_of(
    parents: tuple[Checkpoint, ...], placement: Placement = Placement.DEVICE, dtype: torch.dtype = HALF
) -> ResidentModel:
    dtypes = live_dtypes(CARD, dtype)
    return ResidentModel(Ingredients(Parents.of(parents)), device=CARD, live_dtypes=dtypes, placement=placement)


def models_of(parents: tuple[Checkpoint, ...], dtype: torch.dtype = HALF) -> LiveModels:
    return build_models(resident_of(parents, dtype=dtype), agreed_prediction(parents, suite()))


@contextmanager
def waits_at_steps(models: LiveModels, card: FakeCard) -> Iterator[list[Counter[str]]]:
    """What the host has waited for at each call of the U-Net."""
    seen: list[Counter[str]] = []
    handle = models.unet.register_forward_pre_hook(lambda *_: seen.append(card.waits.copy()))
    try:
        yield seen
    finally:
        handle.remove()


def assert_renders(models: LiveModels, settings: SuiteSettings) -> None:
    """Images come to the CPU as bytes, whatever was computed on the way."""
    images = Renderer(models, settings).render().images
    assert [(row.shape, row.dtype, row.device.type) for row in images] == [((3, 64, 64), torch.uint8, "cpu")]


@pytest.fixture(scope="module")
def card() -> FakeCard:
    return FakeCard()


@pytest.fixture(scope="module")
def residents(card: FakeCard) -> Mapping[Architecture, ResidentModel]:
    """Parents of each architecture in half precision, for SD1.5 two; A is live."""
    with registered_worker(card):
        return {name: resident_of(small_parents(name)[: 1 + (name is Architecture.SD15)]) for name in Architecture}


@pytest.fixture(scope="module")
def models(residents: Mapping[Architecture, ResidentModel], card: FakeCard) -> Mapping[Architecture, LiveModels]:
    with registered_worker(card):
        return {name: build_models(resident) for name, resident in residents.items()}


@pytest.fixture(scope="module")
def small(models: Mapping[Architecture, LiveModels], card: FakeCard) -> Mapping[Architecture, LiveModels]:
    """The same, for tests of what surrounds the U-Net."""
    with registered_worker(card):
        return {name: with_small_unet(live) for name, live in models.items()}


@SD15_FAST
def test_no_step_waits_for_the_card(
    architecture: Architecture, models: Mapping[Architecture, LiveModels], card: FakeCard
) -> None:
    """With the whole U-Net."""
    with registered_worker(card), waits_at_steps(models[architecture], card) as seen:
        assert_renders(models[architecture], suite())
    assert len(seen) == STEPS
    assert seen[-1] == seen[-2]


FAST_WITH_SDXL = ("euler", "dpmpp_2m_sde", "uni_pc")  # the others differ as little as these between architectures


@pytest.mark.parametrize(
    ("architecture", "sampler"),
    [
        *((Architecture.SD15, name) for name in WAITS),
        *((Architecture.SDXL, name) for name in FAST_WITH_SDXL),
        *(
            pytest.param(Architecture.SDXL, name, marks=pytest.mark.slow)
            for name in WAITS
            if name not in FAST_WITH_SDXL
        ),
    ],
)
def test_a_step_waits_no_more_often_than_its_sampler_must_and_latents_are_float32(
    architecture: Architecture, sampler: SamplerName, small: Mapping[Architecture, LiveModels], card: FakeCard
) -> None:
    live, settings = small[architecture], suite(sampler=sampler)
    with registered_worker(card), waits_at_steps(live, card) as seen:
        conditions = PromptEncoder(live, settings).conditions(settings.items())
        latents = sample(live, settings, settings.items(), [conditions[0]], None)
    assert live.unet.dtype == HALF
    assert latents.dtype == torch.float32
    assert len(seen) >= STEPS - 1  # DDIM of A1111 does not call the model at its last level
    assert (seen[-1] - seen[-2]).total() <= WAITS[sampler], seen[-1] - seen[-2]


@pytest.mark.slow  # the calls of perturbed attention are those of the test before
@pytest.mark.parametrize("architecture", list(Architecture))
def test_nothing_waits_for_perturbed_attention_and_rescaled_guidance(
    architecture: Architecture, models: Mapping[Architecture, LiveModels], card: FakeCard
) -> None:
    with registered_worker(card), waits_at_steps(models[architecture], card) as seen:
        assert_renders(models[architecture], suite(pag=3, cfg_rescale=0.7))
    assert len(seen) == 2 * STEPS  # a guided call and a perturbed one
    assert seen[-1] == seen[-2] == seen[-3]


@pytest.mark.parametrize(
    ("upscaler", "architecture"),
    first_fast(
        2,
        [
            ("latent", Architecture.SD15),
            ("latent_bicubic_antialiased", Architecture.SDXL),
            ("latent", Architecture.SDXL),
            ("latent_bicubic_antialiased", Architecture.SD15),
        ],
    ),
)
def test_a_second_pass_renders_on_the_card(
    small: Mapping[Architecture, LiveModels], card: FakeCard, upscaler: str, architecture: Architecture
) -> None:
    settings = suite(hires={"scale": 2, "upscaler": upscaler}, sampler="dpmpp_2m_sde", schedule="karras")
    with registered_worker(card):
        (image,) = Renderer(small[architecture], settings).render().images
    assert (image.shape, image.device.type) == ((3, 128, 128), "cpu")


@pytest.mark.parametrize(
    ("markers", "sampler"),
    [(V_PRED, "dpmpp_2m"), (ZERO_SNR, "euler"), (COSXL, "uni_pc")],
    ids=["v", "zero snr", "cosxl"],
)
def test_every_prediction_renders_on_the_card(
    markers: Mapping[str, Tensor],
    sampler: str,
    small: Mapping[Architecture, LiveModels],
    card: FakeCard,
    tmp_path: Path,
) -> None:
    settings = suite(sampler=sampler)
    prediction = agreed_prediction([write_header(tmp_path / "a.safetensors", markers)], settings)
    changed = replace(small[Architecture.SD15], prediction=prediction)
    with registered_worker(card), waits_at_steps(changed, card) as seen:
        assert_renders(changed, settings)
    assert seen[-1] == seen[-2]


@pytest.mark.parametrize(
    ("architecture", "channels", "markers"),
    first_fast(1, [("sd15", 9, {}), ("sdxl", 8, COSXL), ("sdxl", 4, PLAYGROUND)]),
)
def test_models_of_other_channels_and_latents_render_on_the_card(
    architecture: str, channels: int, markers: Mapping[str, Tensor], card: FakeCard, tmp_path: Path
) -> None:
    """Inpainting, instructions, and latents with a mean and a deviation."""
    parents = (write_marked(tmp_path / "a.safetensors", markers, architecture=architecture, channels=channels),)
    with registered_worker(card):
        models = with_small_unet(models_of(parents))
        with waits_at_steps(models, card) as seen:
            assert_renders(models, suite())
    assert seen[-1] == seen[-2]


@pytest.mark.slow
def test_bfloat16_renders_on_the_card(card: FakeCard) -> None:
    with registered_worker(card):
        models = models_of(small_parents(Architecture.SDXL)[:1], dtype=torch.bfloat16)
        assert_renders(models, suite(steps=1))


@pytest.mark.parametrize("changes", [{"clip_skip": 2}, {"cfg": 1.0}], ids=str)
@SD15_FAST
def test_with_clip_skip_and_without_guidance(
    architecture: Architecture,
    changes: Mapping[str, Any],
    models: Mapping[Architecture, LiveModels],
    card: FakeCard,
) -> None:
    with registered_worker(card):
        assert_renders(models[architecture], suite(steps=1, **changes))


CHAINS = {
    "weighted sum": (Operation(method="weighted_sum", inputs=("A", "B")),),
    "add difference": (Operation(method="add_difference", inputs=("A", "B", "C")),),
    "tensor by tensor": (
        Operation(method="dare_ties", inputs=("A", "B", "C")),
        Operation(method="slerp", inputs=("result-1", "A")),
    ),
}
FAST_MERGES = [
    *(("weighted sum", placement) for placement in Placement),
    ("add difference", Placement.DEVICE),
    ("tensor by tensor", Placement.HOST),
]
MERGES = [*FAST_MERGES, *first_fast(0, (each for each in product(CHAINS, Placement) if each not in FAST_MERGES))]


@pytest.mark.parametrize(("chain", "placement"), MERGES)
@SD15_FAST
def test_sources_of_every_placement_are_merged_on_the_card_empty_markers_too(
    architecture: Architecture, chain: str, placement: Placement, card: FakeCard, tmp_path: Path
) -> None:
    dtypes = ((torch.float16,), (torch.float32,), (torch.bfloat16,))
    case = Case(architecture=architecture, operations=CHAINS[chain], dtypes=dtypes, loras=1, vae=True, added=(0, 4))
    files = case.open(tmp_path)
    with registered_worker(card):
        model = case.resident(files, placement, HALF, CARD)
        for seed in range(2):
            model.merge(case.recipe(files, seed))
        live = model.live_tensors()
        assert {row.device for row in live.values()} == {CARD}
        assert live["v_pred"].numel() == 0


def test_a_merge_in_one_pass_lets_the_host_run_ahead(
    residents: Mapping[Architecture, ResidentModel], card: FakeCard
) -> None:
    model = residents[Architecture.SD15]
    with registered_worker(card):
        before = card.waits.copy()
        model.merge(weighted(model, 0.5))
    assert card.waits == before


class TestFaultsAreFound:
    @pytest.fixture
    def layer(self, models: Mapping[Architecture, LiveModels]) -> Iterator[nn.Linear]:
        """One of the U-Net's layers, which a test may break."""
        layer = models[Architecture.SD15].unet.time_embedding.linear_1
        weight, bias = layer.weight, layer.bias
        yield layer
        layer.weight, layer.bias = weight, bias

    def test_a_weight_that_was_left_on_the_cpu(
        self, layer: nn.Linear, models: Mapping[Architecture, LiveModels], card: FakeCard
    ) -> None:
        layer.bias = nn.Parameter(torch.zeros(layer.bias.shape, dtype=HALF), requires_grad=False)
        with registered_worker(card), pytest.raises(RuntimeError, match=r"two (different )?devices"):
            Renderer(models[Architecture.SD15], suite()).render()

    def test_a_weight_of_another_dtype(
        self, layer: nn.Linear, models: Mapping[Architecture, LiveModels], card: FakeCard
    ) -> None:
        with registered_worker(card):
            layer.weight = nn.Parameter(layer.weight.float(), requires_grad=False)
            with pytest.raises(RuntimeError, match="should be the same"):
                Renderer(models[Architecture.SD15], suite()).render()

    def test_a_step_that_looks_at_the_latents(self, small: Mapping[Architecture, LiveModels], card: FakeCard) -> None:
        def look(_module: nn.Module, _inputs: object, out: Tensor) -> None:
            assert not out.sum().item()
            assert len(out.nonzero()) == 1
            out.copy_(torch.randn(out.shape).to(out))
            out.cpu()

        unet = small[Architecture.SD15].unet
        handle = unet.conv_in.register_forward_hook(look)
        try:
            with registered_worker(card), waits_at_steps(small[Architecture.SD15], card) as seen:
                Renderer(small[Architecture.SD15], suite()).render()
        finally:
            handle.remove()
        assert seen[-1] - seen[-2] == {"number": 1, "nonzero": 1, "to the card": 1, "from the card": 1}


@pytest.mark.slow
@pytest.mark.parametrize("asked", [False, True])
def test_the_unet_alone_sums_in_fp16_and_only_where_it_is_asked_to(
    residents: Mapping[Architecture, ResidentModel], card: FakeCard, asked: bool
) -> None:
    def sums_in_fp16() -> bool:
        return bool(torch.backends.cuda.matmul.allow_fp16_accumulation)

    with registered_worker(card):
        models = build_models(residents[Architecture.SD15], fp16_accumulation=asked)
        seen: dict[str, set[bool]] = {name: set() for name in ("unet", "vae", "text")}
        modules = {"unet": models.unet, "vae": models.vae.decoder, "text": models.text_encoders["text_encoder"]}
        for name, module in modules.items():
            module.register_forward_pre_hook(lambda *_, name=name: seen[name].add(sums_in_fp16()))
        assert_renders(models, suite(steps=1))
        assert seen == {"unet": {asked}, "vae": {False}, "text": {False}}

        def fails(*_: object) -> None:
            raise RuntimeError("CUDA out of memory")

        models.unet.register_forward_pre_hook(fails)
        with pytest.raises(UnscorableTrial):
            Renderer(models, suite()).render()
    assert not sums_in_fp16()
