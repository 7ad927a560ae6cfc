"""Aesthetic predictor v2.5 on a small random SigLIP, against its author's formula on the SigLIP of transformers."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from scorer_helpers import TINY_SIGLIP, picture
from siglip_reference import as_transformers
from transformers import SiglipVisionConfig, SiglipVisionModel

from basics.files import sha256_of
from scorers import registry
from scorers.aesthetics import kinds, siglip_v25
from scorers.aesthetics.kinds import AestheticV25Settings
from scorers.config import ClipModelSettings
from scorers.errors import MissingWeightsError, ScorerSettingsError, WrongWeightsError
from scorers.networks.clip.architecture import make_model
from scorers.networks.clip.embedder import shared_embedder
from scorers.networks.clip.plan import plan_model
from scorers.networks.clip.preprocessing import preprocess_of
from scorers.protocol import BuildContext, SuiteImages

if TYPE_CHECKING:
    from pathlib import Path

    from scorers.protocol import ImageScorer

WIDTHS = (32, 1024, 128, 64, 16, 1)


@pytest.fixture(scope="module")
def siglip_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small SigLIP as open_clip publishes it, and a head as its author does; random weights."""
    folder = tmp_path_factory.mktemp("siglip")
    (folder / "siglip.json").write_text(json.dumps(TINY_SIGLIP), encoding="utf-8")
    torch.manual_seed(5)
    model = make_model({key: value for key, value in TINY_SIGLIP.items() if key != "preprocess_cfg"})
    state = {name: tensor + 0.1 * torch.randn_like(tensor) for name, tensor in model.state_dict().items()}
    save_file(state, folder / "siglip.safetensors")
    nn = torch.nn
    head = nn.Module()
    layers: list[nn.Module] = []
    for index, (width, out) in enumerate(pairwise(WIDTHS)):
        layers += [nn.Linear(width, out), nn.Dropout(0.5)] if index < 4 else [nn.Linear(width, out)]
    head.scoring_head = nn.Sequential(*layers)
    torch.save(head.state_dict(), folder / "head.pth")
    return folder


@pytest.fixture
def options(siglip_dir: Path) -> dict[str, object]:
    siglip = {"model": "siglip", "pretrained": "siglip.safetensors", "config_dir": "."}
    return {"clip": siglip, "head": "head.pth"}


@pytest.fixture
def settings(options: dict[str, object], siglip_dir: Path) -> AestheticV25Settings:
    return cast("AestheticV25Settings", registry.parse_settings("aesthetic_v25", options, siglip_dir))


def test_a_score_is_the_authors_formula_on_the_siglip_of_transformers(
    settings: AestheticV25Settings, siglip_dir: Path, context: BuildContext
) -> None:
    images = tuple(picture(seed, 56, 56) for seed in range(5))  # the network's own size: nothing is resized
    scorer = cast("ImageScorer", registry.build("aesthetic_v25", settings, context))
    scores = scorer.score(SuiteImages(images=images, prompts=("",) * 5))

    config = SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=int(32 * 3.7362),
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=56,
        patch_size=14,
        hidden_act="gelu",
    )
    state = as_transformers(load_file(siglip_dir / "siglip.safetensors"))
    tower, found = SiglipVisionModel.from_pretrained(
        None, config=config, state_dict=state, output_loading_info=True, dtype=torch.float64
    )
    assert not found["missing_keys"] | found["unexpected_keys"]
    head = torch.load(siglip_dir / "head.pth", weights_only=True)
    with torch.no_grad():
        embeddings = tower.eval()(torch.stack(images).double() / 127.5 - 1).pooler_output
        values = embeddings / embeddings.norm(dim=-1, keepdim=True)
        for index in (0, 2, 4, 6, 8):
            layer = f"scoring_head.{index}"
            values = values @ head[f"{layer}.weight"].double().T + head[f"{layer}.bias"].double()
    assert scores.dtype == torch.float64
    torch.testing.assert_close(scores, values[:, 0], atol=1e-5, rtol=0)
    assert scores.std() > 1e-3


def test_images_are_squashed_to_the_square_and_scaled_as_siglips_tag_says(
    settings: AestheticV25Settings, context: BuildContext, suite: SuiteImages, tmp_path: Path
) -> None:
    local = ClipModelSettings(model="ViT-SO400M-14-SigLIP-384", pretrained=str(tmp_path / "w.safetensors"))
    (tmp_path / "w.safetensors").touch()
    for known in (local, local.model_copy(update={"trained_as": "webli"})):
        preprocess = preprocess_of(384, plan_model(known).normalisation)
        assert (preprocess.resize_mode, preprocess.mean, preprocess.std) == ("squash", (0.5,) * 3, (0.5,) * 3)
    assert shared_embedder(settings.clip, context).preprocess.mean == (0.5, 0.5, 0.5)
    assert siglip_v25.build(settings, context).score(suite).shape == (9,)


def test_scorers_of_one_siglip_share_its_forward_and_need_no_tokenizer(
    settings: AestheticV25Settings, context: BuildContext, suite: SuiteImages
) -> None:
    first, second = siglip_v25.build(settings, context), siglip_v25.build(settings, context)
    model = shared_embedder(settings.clip, context)._model
    forwards: list[int] = []
    hook = model.visual.register_forward_hook(lambda _m, inputs, _o: forwards.append(len(inputs[0])))
    try:
        assert torch.equal(first.score(suite), second.score(suite))
    finally:
        hook.remove()
    assert sum(forwards) == len(suite)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scoring_head.2.weight": torch.zeros(100, 1024)}, r"expected linear layers \[\(1024, 32\)"),
        ({"layers.0.weight": torch.zeros(1)}, "is not a head of aesthetic predictor v2.5: expected keys"),
    ],
)
def test_a_head_with_other_layers_is_refused(change: dict[str, torch.Tensor], message: str, siglip_dir: Path) -> None:
    state = torch.load(siglip_dir / "head.pth", weights_only=True)
    with pytest.raises(WrongWeightsError, match=message):
        siglip_v25.read_head(state | change, "head.pth")


def test_a_head_for_another_siglip_is_refused(
    settings: AestheticV25Settings, siglip_dir: Path, context: BuildContext, tmp_path: Path
) -> None:
    state = torch.load(siglip_dir / "head.pth", weights_only=True)
    torch.save(state | {"scoring_head.0.weight": torch.zeros(1024, 1152)}, tmp_path / "head.pth")
    with pytest.raises(WrongWeightsError, match="SigLIP embeddings of width 1152, this SigLIP gives 32"):
        siglip_v25.build(settings.model_copy(update={"head": tmp_path / "head.pth"}), context)


def test_the_published_head_is_not_put_on_another_model(
    siglip_dir: Path, context: BuildContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = ClipModelSettings(model="ViT-SO400M-14-SigLIP", pretrained="webli")
    with pytest.raises(ScorerSettingsError, match="was trained on ViT-SO400M-14-SigLIP-384"):
        siglip_v25.build(AestheticV25Settings(clip=other), context)
    copy = replace(kinds.AESTHETIC_V25_HEAD, sha256=sha256_of(siglip_dir / "head.pth"))
    monkeypatch.setattr(kinds, "AESTHETIC_V25_HEAD", copy)
    with pytest.raises(ScorerSettingsError, match="was trained on ViT-SO400M-14-SigLIP-384"):
        siglip_v25.build(AestheticV25Settings(clip=other, head=siglip_dir / "head.pth"), context)


def test_a_missing_head_is_told_before_siglip_is_loaded(context: BuildContext, monkeypatch: pytest.MonkeyPatch) -> None:
    unreachable = replace(kinds.AESTHETIC_V25_HEAD, url="http://127.0.0.1:9/head.pth")
    monkeypatch.setattr(kinds, "AESTHETIC_V25_HEAD", unreachable)
    with pytest.raises(MissingWeightsError, match=r"v2.5 head .*AGPL-3.0.* name a local copy with option 'head'"):
        siglip_v25.build(AestheticV25Settings(), context)
