"""What a file says it predicts, what parents and suite agree on, and the scheduler that follows."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from hypothesis import given, settings
from hypothesis import strategies as st
from marked_files import COSXL, PLAYGROUND, V_PRED, ZERO_SNR, write_header
from optimizer.rendering.schedulers import EDM_SCHEDULERS, NO_ZERO_SNR, SCHEDULERS, make_scheduler, require_steps
from torch import Tensor

from optimizer.errors import CheckpointError, OptimizerError, ParentsDifferError, RenderError
from optimizer.rendering.latents import latent_config, to_unet, to_vae
from optimizer.rendering.prediction import (
    EPSILON,
    EdmRange,
    LatentStatistics,
    Prediction,
    agreed_prediction,
    prediction_of,
)
from studies.spec.suite import SchedulerName, SuiteSettings

V = Prediction(kind="v")
V_ZERO = Prediction(kind="v", zero_snr=True)
NAMES: tuple[SchedulerName, ...] = get_args(SchedulerName)


def suite(**changes: Any) -> SuiteSettings:
    return SuiteSettings.model_validate({"prompts": ["a cat"], "sizes": [64]} | changes)


class TestMarkers:
    @pytest.mark.parametrize(
        ("markers", "metadata", "expected"),
        [
            ({}, {}, EPSILON),
            (V_PRED, {}, V),
            (ZERO_SNR, {}, V_ZERO),
            ({}, {"modelspec.prediction_type": "v"}, V),
            ({}, {"modelspec.predict_key": "v"}, V),
            ({}, {"modelspec.prediction_type": "epsilon"}, EPSILON),
            ({"ztsnr": torch.zeros(0)}, {"modelspec.prediction_type": "v"}, V_ZERO),
            (V_PRED, {"modelspec.prediction_type": "epsilon"}, V),  # tensors outweigh what a tool wrote
        ],
    )
    def test_say_what_a_model_predicts(
        self, markers: Mapping[str, Tensor], metadata: Mapping[str, str], expected: Prediction, tmp_path: Path
    ) -> None:
        assert prediction_of(write_header(tmp_path / "a.safetensors", markers, metadata=metadata)) == expected

    @pytest.mark.parametrize("prediction", [EPSILON, V])
    def test_are_read_from_the_metadata_that_an_export_writes(self, prediction: Prediction, tmp_path: Path) -> None:
        metadata = {"modelspec.prediction_type": prediction.kind}
        assert prediction_of(write_header(tmp_path / "a.safetensors", metadata=metadata)) == prediction

    @pytest.mark.parametrize(
        ("markers", "words"),
        [
            ({}, "epsilon"),
            (V_PRED, "v_prediction"),
            (ZERO_SNR, "v_prediction, zero terminal SNR"),
            (COSXL, "EDM v_prediction, sigma 0.002 to 120"),
            (PLAYGROUND, "EDM, sigma 0.002 to 80"),
        ],
    )
    def test_are_told_in_words(self, markers: Mapping[str, Tensor], words: str, tmp_path: Path) -> None:
        assert prediction_of(write_header(tmp_path / "a.safetensors", markers)).description == words

    @pytest.mark.parametrize("sigma_min", [None, 0.01])
    def test_cosxl_tells_its_noise_levels(self, sigma_min: float | None, tmp_path: Path) -> None:
        markers = {"edm_vpred.sigma_max": torch.tensor(80.0)}
        if sigma_min is not None:
            markers["edm_vpred.sigma_min"] = torch.tensor([sigma_min])
        found = prediction_of(write_header(tmp_path / "a.safetensors", markers))
        assert (found.kind, found.zero_snr, found.latents) == ("v", False, None)
        assert found.edm is not None
        assert found.edm.sigma_max == 80
        assert found.edm.sigma_min == pytest.approx(sigma_min or 0.002)
        assert found.edm.sigma_data == 1

    def test_playground_tells_its_latents(self, tmp_path: Path) -> None:
        found = prediction_of(write_header(tmp_path / "a.safetensors", PLAYGROUND))
        assert found.edm == EdmRange(sigma_min=0.002, sigma_max=80, sigma_data=0.5)
        assert found.latents is not None
        assert found.latents.mean == pytest.approx((-1.6574, 1.886, -1.383, 2.5155))
        assert found.latents.std == pytest.approx((8.4927, 5.9022, 6.5498, 5.2299))

    @pytest.mark.parametrize(
        ("markers", "metadata", "message"),
        [
            ({"ztsnr": torch.zeros(0)}, {}, "marked ztsnr, but nothing marks it as predicting v"),
            ({}, {"modelspec.prediction_type": "flow"}, "prediction_type 'flow', which cannot be rendered"),
            ({"edm_vpred.sigma_max": torch.zeros(0)}, {}, r"sigma_max with \[\], expected 1 finite"),
            ({"edm_vpred.sigma_max": torch.tensor(math.inf)}, {}, r"with \[inf\], expected 1 finite"),
            ({"edm_vpred.sigma_max": torch.tensor(0.001)}, {}, "levels from 0.002 to 0.001"),
            ({"edm_vpred.sigma_min": torch.tensor(0.001)}, {}, "lacks edm_vpred.sigma_max"),
            ({"edm_mean": torch.zeros(4)}, {}, "lacks edm_std"),
            ({"edm_std": torch.ones(4)}, {}, "lacks edm_mean"),
            ({"edm_mean": torch.zeros(4), "edm_std": torch.ones(3)}, {}, "expected 4 finite"),
            ({"edm_mean": torch.zeros(4), "edm_std": torch.zeros(4)}, {}, "not positive"),
            ({"edm_mean": torch.zeros(0), "edm_std": torch.zeros(0)}, {}, "not positive"),
        ],
    )
    def test_that_make_no_sense_are_refused(
        self, markers: Mapping[str, Tensor], metadata: Mapping[str, str], message: str, tmp_path: Path
    ) -> None:
        with pytest.raises(CheckpointError, match=message):
            prediction_of(write_header(tmp_path / "a.safetensors", markers, metadata=metadata))


class TestAgreement:
    """Of two parents A and B, and the suite."""

    @pytest.mark.parametrize(
        ("first", "second", "said", "expected"),
        [
            ({}, {}, {}, EPSILON),
            (ZERO_SNR, ZERO_SNR, {}, V_ZERO),
            (ZERO_SNR, ZERO_SNR, {"zero_snr": False}, V),
            (V_PRED, V_PRED, {"zero_snr": True}, V_ZERO),
            (V_PRED, ZERO_SNR, {"zero_snr": True}, V_ZERO),
            (V_PRED, {}, {"prediction": "v_prediction"}, V),
            ({}, {}, {"prediction": "v_prediction"}, V),
            ({}, {}, {"prediction": "v_prediction", "zero_snr": True}, V_ZERO),
            (ZERO_SNR, ZERO_SNR, {"prediction": "epsilon"}, EPSILON),
            ({"ztsnr": torch.zeros(0)}, {"ztsnr": torch.zeros(0)}, {"prediction": "v_prediction"}, V_ZERO),
        ],
    )
    def test_the_suite_comes_before_the_markers(
        self,
        first: Mapping[str, Tensor],
        second: Mapping[str, Tensor],
        said: Mapping[str, Any],
        expected: Prediction,
        tmp_path: Path,
    ) -> None:
        parents = (write_header(tmp_path / "a.safetensors", first), write_header(tmp_path / "b.safetensors", second))
        assert agreed_prediction(parents, suite(**said)) == expected

    def test_edm_parents_take_the_first_ones_noise_levels(self, tmp_path: Path) -> None:
        wide = write_header(tmp_path / "a.safetensors", COSXL)
        narrow = write_header(tmp_path / "b.safetensors", {"edm_vpred.sigma_max": torch.tensor(80.0)})
        assert agreed_prediction((wide, narrow), suite()) == prediction_of(wide)

    @pytest.mark.parametrize(
        ("first", "second", "said", "error", "message"),
        [
            ({}, V_PRED, {}, ParentsDifferError, r"A \(a.safetensors\) predicts epsilon, B \(b.safetensors\) v_pred"),
            (V_PRED, {}, {}, ParentsDifferError, "say it with `suite: {prediction: v_prediction}`"),
            (COSXL, PLAYGROUND, {}, ParentsDifferError, "A .* EDM v_prediction, B .* EDM, by their markers"),
            (V_PRED, COSXL, {}, ParentsDifferError, "must predict the same"),
            (V_PRED, ZERO_SNR, {}, ParentsDifferError, "b.safetensors is marked ztsnr .* a.safetensors is not"),
            ({}, ZERO_SNR, {"prediction": "v_prediction"}, ParentsDifferError, r"`suite: {zero_snr: true}` \(or"),
            (COSXL, COSXL, {"prediction": "v_prediction"}, RenderError, "marked as an EDM v_prediction model"),
            (COSXL, COSXL, {"zero_snr": True}, RenderError, "needs v_prediction, a.safetensors predicts EDM v"),
            ({}, {}, {"zero_snr": True}, RenderError, "needs v_prediction, a.safetensors predicts epsilon"),
            (
                {},
                {"ztsnr": torch.zeros(0)},
                {},
                CheckpointError,
                "must; say what it predicts with `suite: {prediction:",
            ),
            ({}, {"edm_std": torch.ones(4)}, {}, CheckpointError, "lacks edm_mean, .* fetch it again$"),
        ],
    )
    def test_what_does_not_fit_is_refused(
        self,
        first: Mapping[str, Tensor],
        second: Mapping[str, Tensor],
        said: Mapping[str, Any],
        error: type[OptimizerError],
        message: str,
        tmp_path: Path,
    ) -> None:
        parents = (write_header(tmp_path / "a.safetensors", first), write_header(tmp_path / "b.safetensors", second))
        with pytest.raises(error, match=message):
            agreed_prediction(parents, suite(**said))


# -------------------------------------------------------------------------------------- schedulers


def rescaled_alphas() -> Tensor:
    """Products of alphas with a zero terminal SNR, algorithm 1 of arXiv:2305.08891 in float64: [1000]."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    root = torch.cumprod(1 - betas, dim=0).sqrt()
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2


class TestSchedulers:
    @pytest.mark.parametrize("name", NAMES)
    def test_every_one_can_predict_v(self, name: SchedulerName) -> None:
        assert make_scheduler(name, V).config.prediction_type == "v_prediction"
        assert make_scheduler(name).config.prediction_type == "epsilon"

    @pytest.mark.parametrize("name", NAMES)
    def test_zero_snr_is_for_those_that_rescale_their_schedule(self, name: SchedulerName) -> None:
        if "rescale_betas_zero_snr" not in inspect.signature(type(make_scheduler(name))).parameters:
            with pytest.raises(RenderError, match=f"scheduler {name} cannot render .* use one of ddim, dpmpp_2m,"):
                make_scheduler(name, V_ZERO)
            return
        scheduler = make_scheduler(name, V_ZERO)
        torch.testing.assert_close(scheduler.alphas_cumprod.double(), rescaled_alphas(), rtol=1e-3, atol=1e-7)
        for steps in (1, 7, 20):
            scheduler.set_timesteps(steps)
            assert int(scheduler.timesteps[0]) == 999  # the step that holds nothing but noise

    @pytest.mark.parametrize("name", NAMES)
    def test_edm_is_for_those_with_a_form_of_their_own(self, name: SchedulerName) -> None:
        edm = Prediction(kind="v", edm=EdmRange(sigma_min=0.01, sigma_max=100, sigma_data=1))
        if name not in {"euler", "dpmpp_2m", "dpmpp_2m_karras", "dpmpp_2m_sde_karras"}:
            with pytest.raises(RenderError, match=f"scheduler {name} cannot render an EDM model: use one of dpmpp_2m"):
                make_scheduler(name, edm)
            return
        scheduler = make_scheduler(name, edm)
        scheduler.set_timesteps(5)
        levels = scheduler.sigmas[:-1].double()
        assert scheduler.sigmas[-1] == 0
        even = levels ** (1 / 7) if name.endswith("karras") else levels.log()
        expected = torch.linspace(even[0], even[-1], 5, dtype=torch.float64)
        torch.testing.assert_close(even, expected, rtol=1e-4, atol=1e-6)
        assert (float(levels[0]), float(levels[-1])) == pytest.approx((100, 0.01), rel=1e-4)
        torch.testing.assert_close(scheduler.timesteps.double(), levels.log() / 4, rtol=1e-4, atol=1e-6)


def denoised(noisy: Tensor, level: Tensor) -> Tensor:
    """The best guess of clean values that are normal with mean 0.3 and standard deviation 0.5."""
    return 0.3 + (noisy - 0.3) * 0.25 / (0.25 + level**2)


def karras_levels(steps: int) -> tuple[Tensor, Tensor]:
    """Karras et al.'s noise levels (arXiv:2206.00364, equation 5) on the rescaled schedule, and their timesteps."""
    alphas = rescaled_alphas()
    alphas[-1] = 2.0**-24  # what diffusers puts for 0, so that the highest level is finite
    table = ((1 - alphas) / alphas).sqrt()
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    levels = (table[-1] ** (1 / 7) + ramp * (table[0] ** (1 / 7) - table[-1] ** (1 / 7))) ** 7
    times = np.interp(levels.log().numpy(), table.log().numpy(), np.arange(1000))
    return levels, torch.from_numpy(times)


@pytest.mark.parametrize("steps", [12, 20, 21, 25, 30, 80])
def test_karras_levels_of_zero_snr_are_walked_from_the_first_to_the_last(steps: int) -> None:
    """The solver in the form of its paper (arXiv:2211.01095, algorithm 2), in noise levels and float64."""
    scheduler = make_scheduler("dpmpp_2m_karras", V_ZERO)
    scheduler.set_timesteps(steps)
    levels, times = karras_levels(steps)
    assert ((scheduler.timesteps - times).abs() < 0.6).all()  # to whole steps
    torch.testing.assert_close(scheduler.sigmas[:-1].double(), levels, rtol=2e-3, atol=1e-6)

    noise = torch.linspace(-2, 2, 5, dtype=torch.float64)
    levels = scheduler.sigmas.double()
    by_hand, by_scheduler = noise * (1 + levels[0] ** 2).sqrt(), noise.clone()
    before, span_before = noise, levels[0]
    for index, timestep in enumerate(scheduler.timesteps):
        level, following = levels[index], levels[index + 1]
        clean, span = denoised(by_hand, level), (level / following).log()
        extrapolated = clean + (clean - before) * span / span_before / 2 if 0 < index < steps - 1 else clean
        by_hand = by_hand * following / level + (1 - following / level) * extrapolated
        before, span_before = clean, span

        scale = 1 / (1 + level**2).sqrt()
        output = (scale * by_scheduler - denoised(by_scheduler / scale, level)) / (level * scale)
        by_scheduler = scheduler.step(output, timestep, by_scheduler, return_dict=False)[0]
    torch.testing.assert_close(by_scheduler, by_hand, rtol=1e-4, atol=1e-4)


# ----------------------------------------------------------------------------------------- latents


@settings(max_examples=25, deadline=None)
@given(
    mean=st.lists(st.floats(-5, 5), min_size=4, max_size=4),
    std=st.lists(st.floats(0.1, 10), min_size=4, max_size=4),
    seed=st.integers(0, 1000),
)
def test_latents_survive_the_way_to_the_unet_and_back(mean: list[float], std: list[float], seed: int) -> None:
    statistics = LatentStatistics(mean=tuple(mean), std=tuple(std))
    blocks = {"block_out_channels": (32,), "norm_num_groups": 32}
    drawn = torch.randn((2, 4, 3, 3), generator=torch.Generator().manual_seed(seed)).double()
    for prediction in (EPSILON, Prediction(latents=statistics)):
        with torch.device("meta"):
            vae = AutoencoderKL(**blocks | latent_config(prediction))
        torch.testing.assert_close(to_vae(to_unet(drawn, vae), vae), drawn)
    normal = torch.tensor(mean).double().view(1, 4, 1, 1) + torch.tensor(std).double().view(1, 4, 1, 1) * drawn
    torch.testing.assert_close(to_unet(normal, vae), drawn / 2, rtol=1e-5, atol=1e-5)


class TestSteps:
    @pytest.mark.parametrize(
        ("name", "steps", "prediction", "most"),
        [
            ("ddim", 1000, EPSILON, 999),
            ("dpmpp_2m", 1000, EPSILON, 999),
            ("dpmpp_2m", 1000, V, 999),
            ("lcm", 60, V_ZERO, 50),
        ],
    )
    def test_a_number_that_ends_in_an_error_or_nan_is_refused_with_those_that_do_not(
        self, name: SchedulerName, steps: int, prediction: Prediction, most: int
    ) -> None:
        with pytest.raises(RenderError, match=f"scheduler {name} cannot take {steps} steps .*: use 1 to {most},"):
            require_steps(name, steps, prediction)
        require_steps(name, most, prediction)

    @pytest.mark.parametrize("prediction", [EPSILON, V, V_ZERO], ids=lambda prediction: prediction.description)
    @pytest.mark.parametrize("steps", [1, 2, 20])
    def test_usual_numbers_are_taken_and_leave_the_global_generator_alone(
        self, prediction: Prediction, steps: int
    ) -> None:
        before = torch.get_rng_state()
        for name in set(SCHEDULERS) - (NO_ZERO_SNR if prediction.zero_snr else set()):
            require_steps(name, steps, prediction)
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.parametrize("name", ["dpmpp_2m", "dpmpp_2m_karras", "dpmpp_2m_sde_karras"])
    def test_zero_snr_takes_all(self, name: SchedulerName) -> None:
        for steps in (21, 25, 50, 150, 1000):
            require_steps(name, steps, V_ZERO)

    @pytest.mark.parametrize("name", EDM_SCHEDULERS)
    def test_edm_models_take_all(self, name: SchedulerName) -> None:
        edm = EdmRange(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5)
        for steps in (1, 20, 200):
            require_steps(name, steps, Prediction(edm=edm))
