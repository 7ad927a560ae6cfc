"""CMMD and FD-DINOv2 with small random networks in the published files, against the formulas of their authors."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from scipy.linalg import sqrtm
from scorer_helpers import picture, tiny_dinov2
from transformers import Dinov2Config, Dinov2Model

from scorers import registry
from scorers.config import ClipModelSettings
from scorers.distances import cmmd, dinov2
from scorers.distances.distance import gaussian_distance, gaussian_reference
from scorers.distances.embedding_kinds import CmmdSettings, Dinov2Settings
from scorers.errors import MissingWeightsError, SuiteImagesError, WrongWeightsError
from scorers.networks.clip.embedder import load_embedder, shared_embedder
from scorers.networks.dinov2 import Dinov2Features, resampled_positions
from scorers.prompt_fit import clip_score
from scorers.prompt_fit.kinds import ClipScoreSettings
from scorers.protocol import SetScorer, SuiteImages

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from scorers.protocol import BuildContext


def original_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """The definition: means of a Gaussian kernel over all pairs, times 1000, with plain loops."""

    def mean(one: np.ndarray, other: np.ndarray) -> float:
        return float(np.mean([[np.exp(-((a - b) ** 2).sum() / 200) for b in other] for a in one]))

    return 1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y))


@given(seed=st.integers(0, 1000), n=st.integers(1, 6), m=st.integers(1, 6))
def test_gaussian_distance_is_the_biased_definition(seed: int, n: int, m: int) -> None:
    random = np.random.default_rng(seed)
    x, y = random.normal(size=(n, 5)), random.normal(size=(m, 5)) + 0.3
    found = gaussian_distance(torch.from_numpy(x), gaussian_reference(torch.from_numpy(y)))
    assert found == pytest.approx(original_mmd(x, y), rel=1e-9, abs=1e-9)


def test_for_unit_vectors_it_is_about_ten_squared_distances_of_the_means() -> None:
    random = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 16, generator=random).double(), torch.randn(50, 16, generator=random).double() + 0.5
    x, y = x / x.norm(dim=1, keepdim=True), y / y.norm(dim=1, keepdim=True)
    expected = 10 * (x.mean(0) - y.mean(0)).square().sum()
    assert gaussian_distance(x, gaussian_reference(y)) == pytest.approx(float(expected), rel=0.02)


# CMMD


@pytest.fixture
def cmmd_scorer(
    clip_settings: ClipModelSettings, make_folder: Callable[..., Path], context: BuildContext
) -> cmmd.CmmdScorer:
    settings = CmmdSettings(reference=make_folder("ref", range(100, 112)), clip=clip_settings)
    return cast("cmmd.CmmdScorer", registry.build("cmmd", settings, context))


def test_cmmd_is_the_distance_of_clip_embeddings(
    cmmd_scorer: cmmd.CmmdScorer, clip_settings: ClipModelSettings, context: BuildContext, suite: SuiteImages
) -> None:
    embedder = shared_embedder(clip_settings, context)
    features = cmmd_scorer.features(suite)
    assert torch.equal(features, embedder.embed_images(suite))
    references = embedder.embed([picture(seed) for seed in range(100, 112)])
    expected = original_mmd(features.double().numpy(), references.double().numpy())
    assert cmmd_scorer.score(features) == pytest.approx(expected, rel=1e-9)


def test_only_the_papers_clip_gives_a_cmmd(cmmd_scorer: cmmd.CmmdScorer, tmp_path: Path) -> None:
    assert cmmd_scorer.info.report_name(9) == "MMD(tiny)@9"
    its = ClipModelSettings(model="ViT-L-14-336", pretrained=str(tmp_path / "w.pt"), trained_as="openai")
    assert cmmd._named(its).report_name(9) == "CMMD@9"
    assert cmmd._named(CmmdSettings(reference=tmp_path).clip).label == "CMMD"
    assert cmmd._named(ClipModelSettings()).label == "MMD(ViT-L-14-quickgelu)"


def test_cmmd_shares_the_forward_of_other_scorers_of_its_clip(
    cmmd_scorer: cmmd.CmmdScorer, clip_settings: ClipModelSettings, context: BuildContext, suite: SuiteImages
) -> None:
    other = clip_score.build(ClipScoreSettings(clip=clip_settings), context)
    model = shared_embedder(clip_settings, context)._model
    forwards: list[int] = []
    hook = model.visual.register_forward_hook(lambda _m, inputs, _o: forwards.append(len(inputs[0])))
    try:
        cmmd_scorer.features(suite)
        other.score(suite)
    finally:
        hook.remove()
    assert sum(forwards) == len(suite)


def test_references_are_cached_by_the_clips_content(clip_settings: ClipModelSettings, clip_dir: Path) -> None:
    digest = load_embedder(clip_settings).digest
    assert digest == load_embedder(clip_settings).digest
    state = load_file(clip_dir / "tiny.safetensors")
    save_file(state | {"ln_final.bias": state["ln_final.bias"] + 1}, clip_dir / "other.safetensors")
    other = clip_settings.model_copy(update={"pretrained": str(clip_dir / "other.safetensors")})
    assert digest != load_embedder(other).digest


def test_cmmd_of_fewer_than_eight_images_is_refused(cmmd_scorer: cmmd.CmmdScorer) -> None:
    few = SuiteImages(images=tuple(picture(seed) for seed in range(7)), prompts=("",) * 7)
    with pytest.raises(SuiteImagesError, match="at least 8 images, got 7"):
        cmmd_scorer.features(few)
    with pytest.raises(SuiteImagesError, match="at least 2 images, got 1"):
        cmmd_scorer.score(torch.zeros(1, 24))


# DINOv2


@pytest.fixture(scope="module")
def dinov2_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights under Meta's names, with position embeddings for 37 x 37 patches."""
    torch.manual_seed(9)
    state = {
        name: value + 0.2 * torch.randn_like(value) for name, value in tiny_dinov2(num_classes=0).state_dict().items()
    }
    path = tmp_path_factory.mktemp("dinov2") / "dinov2_vitl14_pretrain.pth"
    torch.save(state | {"mask_token": torch.zeros(1, 32)}, path)
    return path


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dinov2, "NETWORK", "tiny_dinov2")


def cubic(distance: np.ndarray) -> np.ndarray:
    """Keys' kernel with a = -0.75."""
    t, a = np.abs(distance), -0.75
    near = (a + 2) * t**3 - (a + 3) * t**2 + 1
    return np.where(t <= 1, near, np.where(t < 2, a * (t**3 - 5 * t**2 + 8 * t - 4), 0))


def bicubic(side: int, patches: int) -> np.ndarray:
    """Weights [patches, side] of one axis: samples at (i + 0.5) / factor - 0.5, the border repeated."""
    weights = np.zeros((patches, side))
    for row in range(patches):
        centre = (row + 0.5) * side / (patches + 0.1) - 0.5
        for tap in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            weights[row, min(max(tap, 0), side - 1)] += cubic(np.array(centre - tap))
    return weights


def test_positions_are_resampled_as_by_metas_code() -> None:
    positions = torch.randn(1, 1 + 37 * 37, 3, generator=torch.Generator().manual_seed(1)).double()
    found = resampled_positions(positions, 16)
    axis = bicubic(37, 16)
    grid = np.einsum("is,jt,std->ijd", axis, axis, positions[0, 1:].reshape(37, 37, 3).numpy())
    np.testing.assert_allclose(found[0, 1:].numpy(), grid.reshape(256, 3), atol=1e-12)
    assert torch.equal(found[:, 0], positions[:, 0])
    assert resampled_positions(found, 16) is found


def as_transformers(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Meta's weights under the names of facebook/dinov2-large."""
    theirs = {
        "embeddings.cls_token": state["cls_token"],
        "embeddings.mask_token": state["mask_token"],
        "embeddings.position_embeddings": resampled_positions(state["pos_embed"].double(), 16),
    }
    for part in ("weight", "bias"):
        theirs[f"embeddings.patch_embeddings.projection.{part}"] = state[f"patch_embed.proj.{part}"]
        theirs[f"layernorm.{part}"] = state[f"norm.{part}"]
        for layer in range(2):
            ours, other = f"blocks.{layer}.", f"encoder.layer.{layer}."
            rows = state[f"{ours}attn.qkv.{part}"].chunk(3)
            for name, value in zip(("query", "key", "value"), rows, strict=True):
                theirs[f"{other}attention.attention.{name}.{part}"] = value
            theirs[f"{other}attention.output.dense.{part}"] = state[f"{ours}attn.proj.{part}"]
            for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                theirs[f"{other}{name}.{part}"] = state[f"{ours}{name}.{part}"]
    for layer in range(2):
        for number in "12":
            name = f"encoder.layer.{layer}.layer_scale{number}.lambda1"
            theirs[name] = state[f"blocks.{layer}.ls{number}.gamma"]
    return {name: value.double() for name, value in theirs.items()}


def original_features(path: Path, images: list[torch.Tensor]) -> torch.Tensor:
    """The class token of DINOv2 by transformers in float64, of images of 224 pixels."""
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=4, image_size=224, patch_size=14
    )
    state = as_transformers(torch.load(path, weights_only=True))
    network, found = Dinov2Model.from_pretrained(
        None, config=config, state_dict=state, output_loading_info=True, dtype=torch.float64
    )
    assert not found["missing_keys"] | found["unexpected_keys"]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        inputs = (torch.stack(images).double() / 255 - mean.double()) / std.double()
        return cast("torch.Tensor", network.eval()(inputs).last_hidden_state[:, 0])


@pytest.mark.usefixtures("small")
def test_fd_dinov2_is_the_distance_of_class_tokens(
    dinov2_file: Path, make_folder: Callable[..., Path], context: BuildContext
) -> None:
    make_folder("ref", range(100, 109), size=224)
    options = {"reference": "ref", "weights": str(dinov2_file)}
    settings = registry.parse_settings("fd_dinov2", options, context.cache_dir.parent)
    scorer = cast("SetScorer", registry.build("fd_dinov2", settings, context))
    images = [picture(seed, 224, 224) for seed in range(8)]
    features = scorer.features(SuiteImages(images=tuple(images), prompts=("",) * 8))
    x = original_features(dinov2_file, images)
    torch.testing.assert_close(features.double(), x, atol=1e-4, rtol=1e-4)

    y = original_features(dinov2_file, [picture(seed, 224, 224) for seed in range(100, 109)])
    covariances = [np.cov(rows.numpy(), rowvar=False) for rows in (x, y)]
    root = sqrtm(covariances[0] @ covariances[1] + 1e-12 * np.eye(32)).real
    expected = float((x.mean(0) - y.mean(0)).square().sum()) + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert scorer.score(features) == pytest.approx(expected, rel=1e-3)
    assert scorer.info.report_name(8) == "FD-DINOv2@8"
    assert scorer.info.unit == pytest.approx(0.05 * np.trace(covariances[1]), rel=1e-3)


@pytest.mark.usefixtures("small")
def test_timms_copy_of_dinov2_gives_the_same_features(dinov2_file: Path, tmp_path: Path, suite: SuiteImages) -> None:
    state = torch.load(dinov2_file, weights_only=True)
    del state["mask_token"]
    save_file(state, tmp_path / "model.safetensors")
    network = Dinov2Features("tiny_dinov2", tmp_path / "model.safetensors")
    assert torch.equal(network.embed(suite.images), Dinov2Features("tiny_dinov2", dinov2_file).embed(suite.images))


def test_weights_of_a_smaller_dinov2_are_refused(
    dinov2_file: Path, make_folder: Callable[..., Path], context: BuildContext
) -> None:
    settings = Dinov2Settings(reference=make_folder("ref", range(8)), weights=dinov2_file)
    with pytest.raises(WrongWeightsError, match="does not hold weights of 'vit_large_patch14_dinov2'") as caught:
        registry.build("fd_dinov2", settings, context)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "change", [{"pos_embed": torch.zeros(1, 8, 32)}, {"pos_embed": torch.zeros(3)}, {"more": torch.ones(1)}]
)
def test_other_weights_in_place_of_dinov2_are_refused(
    change: dict[str, torch.Tensor], dinov2_file: Path, tmp_path: Path
) -> None:
    torch.save(torch.load(dinov2_file, weights_only=True) | change, tmp_path / "other.pth")
    with pytest.raises(WrongWeightsError, match="does not hold weights of 'tiny_dinov2'"):
        Dinov2Features("tiny_dinov2", tmp_path / "other.pth")


def test_dinov2_that_is_not_here_is_told_with_the_way_out(
    make_folder: Callable[..., Path], context: BuildContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(MissingWeightsError, match=r"timm/vit_large_patch14_dinov2.lvd142m, .*option 'weights'"):
        registry.build("fd_dinov2", Dinov2Settings(reference=make_folder("ref", range(8))), context)
