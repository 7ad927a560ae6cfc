"""What a file says it predicts, and what parents and suite agree on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from hypothesis import given, settings
from hypothesis import strategies as st
from marked_files import COSXL, PLAYGROUND, V_PRED, ZERO_SNR, write_header
from torch import Tensor

from optimizer.errors import CheckpointError, OptimizerError, ParentsDifferError, RenderError
from optimizer.rendering.latents import latent_config, to_unet, to_vae
from optimizer.rendering.prediction import (
    EPSILON,
    EdmRange,
    LatentStatistics,
    Prediction,
    agreed_prediction,
    flow_hint,
    header_fields,
    prediction_of,
    unmarked_flow_note,
)
from optimizer.rendering.sampling.sample import check_sampling
from search_spaces.blocks import Architecture
from studies.spec.suite import SuiteSettings

V = Prediction(kind="v")
V_ZERO = Prediction(kind="v", zero_snr=True)
FLOW = {"modelspec.prediction_type": "flow"}


def flow(shift: float) -> Prediction:
    return Prediction(kind="flow", shift=shift)


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
            ({}, {"modelspec.prediction_type": "flow"}, flow(3)),
            ({}, {"modelspec.prediction_type": "rectified_flow"}, flow(3)),
            ({}, {"modelspec.predict_key": "flow", "mergetune.shift": "6.5"}, flow(6.5)),
            (V_PRED, {"modelspec.prediction_type": "flow"}, V),
            ({}, {"mergetune.shift": "6"}, EPSILON),  # it says how, but not that
            (V_PRED, {"modelspec.prediction_type": "epsilon"}, V),  # tensors outweigh what a tool wrote
        ],
    )
    def test_say_what_a_model_predicts(
        self, markers: Mapping[str, Tensor], metadata: Mapping[str, str], expected: Prediction, tmp_path: Path
    ) -> None:
        assert prediction_of(write_header(tmp_path / "a.safetensors", markers, metadata=metadata)) == expected

    @pytest.mark.parametrize("prediction", [EPSILON, V, flow(3), flow(1), flow(7.25)])
    def test_are_read_from_the_metadata_that_an_export_writes(self, prediction: Prediction, tmp_path: Path) -> None:
        metadata = header_fields(prediction)
        assert metadata["modelspec.prediction_type"] == prediction.kind
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
            (
                {},
                {"modelspec.prediction_type": "flows"},
                "'flows', which cannot be rendered: expected epsilon, v or f",
            ),
            ({}, {**FLOW, "mergetune.shift": "0"}, "marked with the shift '0', expected a number from 1 to 12$"),
            ({}, {**FLOW, "mergetune.shift": "nan"}, "marked with the shift 'nan', expected a number"),
            ({}, {**FLOW, "mergetune.shift": "three"}, "marked with the shift 'three', expected a number"),
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


class TestFlows:
    """Which no tensor marks, but metadata and the suite."""

    @pytest.mark.parametrize(
        ("first", "second", "said", "shift"),
        [
            (FLOW, FLOW, {}, 3),
            (FLOW, FLOW, {"shift": 6}, 6),
            ({**FLOW, "mergetune.shift": "5"}, FLOW, {}, 5),
            ({**FLOW, "mergetune.shift": "5"}, {**FLOW, "mergetune.shift": "5.0"}, {}, 5),
            ({**FLOW, "mergetune.shift": "5"}, {**FLOW, "mergetune.shift": "2"}, {"shift": 4}, 4),
            ({}, {}, {"prediction": "flow"}, 3),
            ({}, {}, {"prediction": "flow", "shift": 12}, 12),
            (FLOW, {}, {"prediction": "flow"}, 3),
            ({"modelspec.prediction_type": "v"}, FLOW, {"prediction": "flow", "shift": 1}, 1),
        ],
    )
    def test_have_the_shift_of_the_suite_before_that_of_a_parent(
        self, first: Mapping[str, str], second: Mapping[str, str], said: Mapping[str, Any], shift: float, tmp_path: Path
    ) -> None:
        parents = (
            write_header(tmp_path / "a.safetensors", metadata=first),
            write_header(tmp_path / "b.safetensors", metadata=second),
        )
        assert agreed_prediction(parents, suite(**said)) == flow(shift)

    @pytest.mark.parametrize(
        ("first", "second", "said", "error", "message"),
        [
            (FLOW, {}, {}, ParentsDifferError, r"A \(a.safetensors\) predicts flow, B \(b.safetensors\) epsilon"),
            ({"modelspec.prediction_type": "v"}, FLOW, {}, ParentsDifferError, r"v_prediction, B .* flow, by their m"),
            (
                {**FLOW, "mergetune.shift": "5"},
                {**FLOW, "mergetune.shift": "2"},
                {},
                ParentsDifferError,
                r"different shifts \(a.safetensors with 5, b.safetensors with 2\): say",
            ),
            (
                {},
                {},
                {"shift": 5},
                RenderError,
                r"needs a model that follows a flow, a.safetensors predicts epsilon",
            ),
            (FLOW, FLOW, {"zero_snr": True}, RenderError, "needs v_prediction, a.safetensors predicts flow"),
            (
                FLOW,
                {**FLOW, "mergetune.shift": "13"},
                {},
                CheckpointError,
                r"b.safetensors is marked with the shift '13', .*or `flow` and `shift`\)$",
            ),
            (
                {**FLOW, "mergetune.shift": "-1"},
                {},
                {"prediction": "flow"},
                CheckpointError,
                r"a.safetensors is marked with the shift '-1', .*; say which it is with `suite: {shift: 3}`$",
            ),
        ],
    )
    def test_that_do_not_fit_are_refused(
        self,
        first: Mapping[str, str],
        second: Mapping[str, str],
        said: Mapping[str, Any],
        error: type[OptimizerError],
        message: str,
        tmp_path: Path,
    ) -> None:
        parents = (
            write_header(tmp_path / "a.safetensors", metadata=first),
            write_header(tmp_path / "b.safetensors", metadata=second),
        )
        with pytest.raises(error, match=message):
            agreed_prediction(parents, suite(**said))

    def test_are_never_edm_models(self, tmp_path: Path) -> None:
        with pytest.raises(RenderError, match=r"EDM v_prediction model, `suite: {prediction: flow}` cannot render it"):
            agreed_prediction([write_header(tmp_path / "a.safetensors", COSXL)], suite(prediction="flow"))

    @pytest.mark.parametrize(
        ("name", "metadata", "found"),
        [
            ("bigASP_v2.5.safetensors", {}, "bigASP_v2.5"),
            ("bigasp_v25_fp16.safetensors", {}, "bigasp_v25"),
            ("bigaspv2-5.safetensors", {"modelspec.prediction_type": "epsilon"}, "bigaspv2-5"),
            ("nyaflow-xl-alpha.safetensors", {}, "nyaflow"),
            ("ChenkinNoob-XL-v0.2-Rectified-Flow.safetensors", {}, "Rectified-Flow"),
            ("mine.safetensors", {"modelspec.merged_from": "other, bigASP v2.5"}, "bigASP v2.5"),
            ("bigasp_v20.safetensors", {}, None),
            ("workflow.safetensors", {}, None),
            ("bigASP_v2.5.safetensors", FLOW, None),
            ("bigASP_v2.5.safetensors", {"modelspec.prediction_type": "v"}, None),
        ],
    )
    def test_that_nothing_marks_are_known_by_their_names(
        self, name: str, metadata: Mapping[str, str], found: str | None, tmp_path: Path
    ) -> None:
        note = unmarked_flow_note(write_header(tmp_path / name, metadata=metadata))
        if found is None:
            assert note is None
        else:
            assert note is not None
            assert f"({found})" in note
            assert "nothing in it says so, and it is taken to predict noise" in note

    def test_say_in_their_header_how_people_render_them(self) -> None:
        assert header_fields(flow(6))["modelspec.usage_hint"] == flow_hint(flow(6))
        assert "ModelSamplingSD3 with shift 6 " in flow_hint(flow(6))
        assert header_fields(V) == {"modelspec.prediction_type": "v"}

    @pytest.mark.parametrize(
        ("said", "message"),
        [
            ({"sampler": "ddim_a1111"}, "the sampler ddim_a1111 is not defined .* use euler, .*ddim_comfyui"),
            ({"sampler": "uni_pc", "program": "a1111"}, "the sampler uni_pc_a1111 is not defined .*uni_pc_comfyui"),
            ({"schedule": "align_your_steps"}, "the schedule align_your_steps is not defined .* use normal, simple"),
            ({"schedule": "turbo"}, "the schedule turbo is not defined"),
            ({"prompts": ["a", {"prompt": "b", "sampler": "lcm"}]}, "the sampler lcm_a1111 is not defined"),
            ({"sgm_noise_multiplier": True}, "`sgm_noise_multiplier` does not apply to a model that follows a flow"),
            ({"cfg_rescale": 0.7}, "`cfg_rescale` is not defined for a model that follows a flow: leave it out"),
        ],
    )
    def test_are_sampled_only_by_what_is_defined_for_them(self, said: Mapping[str, Any], message: str) -> None:
        settings = suite(**{"sampler": "euler", "schedule": "normal", **said})
        (*_, item) = settings.items()
        check_sampling(item, settings, EPSILON, Architecture.SDXL)
        with pytest.raises(RenderError, match=message):
            check_sampling(item, settings, flow(3), Architecture.SDXL)


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
