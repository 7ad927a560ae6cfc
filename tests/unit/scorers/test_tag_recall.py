"""Tag recall with a small random tagger in the files of WD taggers v3."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from scorer_helpers import picture

from scorers import registry
from scorers.errors import MissingWeightsError, SuiteImagesError, WrongWeightsError
from scorers.prompt_fit import tag_recall
from scorers.prompt_fit.kinds import TagRecallSettings
from scorers.protocol import SuiteImages

if TYPE_CHECKING:
    from scorers.protocol import BuildContext, ImageScorer

# As published: ratings first, then general tags, then characters.
TAGS = """tag_id,name,category,count
9999999,general,9,807858
9999998,sensitive,9,3771700
470575,1girl,0,4225150
212816,solo,0,3515897
13197,long_hair,0,2982517
405,>_<,0,26000
1329563,ganyu_(genshin_impact),4,12000
"""
NAMES = [line.split(",")[1] for line in TAGS.splitlines()[1:]]
SIZE = 64


def config(architecture: str, **model_args: Any) -> dict[str, Any]:
    return {
        "architecture": architecture,
        "num_classes": len(NAMES),
        "num_features": 32,
        "model_args": model_args,
        "pretrained_cfg": {
            "custom_load": False,
            "input_size": [3, SIZE, SIZE],
            "fixed_input_size": False,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "num_classes": len(NAMES),
        },
    }


VIT = config(
    "vit_base_patch16_224",
    act_layer="gelu_tanh",
    class_token=False,
    fc_norm=False,
    global_pool="avg",
    img_size=SIZE,
    embed_dim=32,
    depth=2,
    num_heads=2,
)
SWIN = config(
    "swinv2_base_window8_256",
    act_layer="gelu_tanh",
    img_size=SIZE,
    window_size=2,
    embed_dim=8,
    depths=[1, 1, 1, 1],
    num_heads=[1, 1, 1, 1],
)


def network_of(config: dict[str, Any]) -> Any:
    return timm.create_model(config["architecture"], num_classes=len(NAMES), **config["model_args"])


def write_tagger(folder: Path, config: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    torch.manual_seed(7)
    state = {name: tensor + 0.1 * torch.randn_like(tensor) for name, tensor in network_of(config).state_dict().items()}
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "selected_tags.csv").write_text(TAGS, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tagger(tmp_path_factory.mktemp("taggers") / "vit", VIT)


def scorer_of(folder: Path, context: BuildContext) -> ImageScorer:
    settings = registry.parse_settings("tag_recall", {"folder": folder.name}, folder.parent)
    return cast("ImageScorer", registry.build("tag_recall", settings, context))


def original_probabilities(folder: Path, image: torch.Tensor) -> torch.Tensor:
    """Padding with white, RGB to BGR and the sigmoid as in the taggers' own examples; in float64, without resizing."""
    network = network_of(VIT).double().eval()
    network.load_state_dict(load_file(folder / "model.safetensors"))
    canvas = np.full((SIZE, SIZE, 3), 255, dtype=np.uint8)
    pixels = image.permute(1, 2, 0).numpy()
    top, left = (SIZE - pixels.shape[0]) // 2, (SIZE - pixels.shape[1]) // 2
    canvas[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    bgr = canvas[:, :, ::-1].astype(np.float64) / 127.5 - 1
    with torch.no_grad():
        logits = network(torch.from_numpy(np.ascontiguousarray(bgr.transpose(2, 0, 1)))[None])[0]
    return torch.from_numpy(1 / (1 + np.exp(-logits.numpy())))


def test_a_score_is_the_mean_probability_of_the_prompts_tags(tagger: Path, context: BuildContext) -> None:
    images = (picture(0, 64, 41), picture(1, 30, 64), picture(2, 64, 64))
    prompts = (
        "1girl, solo, masterpiece, best quality",
        r"Long Hair, ganyu \(genshin impact\), 1girl",
        ">_<,a sentence about nothing\nlong_hair, long hair",
    )
    scores = scorer_of(tagger, context).score(SuiteImages(images=images, prompts=prompts))
    known = (["1girl", "solo"], ["long_hair", "ganyu_(genshin_impact)", "1girl"], [">_<", "long_hair"])
    expected = [
        original_probabilities(tagger, image)[[NAMES.index(name) for name in names]].mean()
        for image, names in zip(images, known, strict=True)
    ]
    assert scores.dtype == torch.float64
    torch.testing.assert_close(scores, torch.stack(expected), atol=1e-6, rtol=0)
    assert scores.std() > 1e-3


def test_a_swin_tagger_with_buffers_of_an_older_timm_loads(
    context: BuildContext, suite: SuiteImages, tmp_path: Path
) -> None:
    folder = write_tagger(tmp_path / "swin", SWIN)
    state = load_file(folder / "model.safetensors")
    state["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(4, 4, dtype=torch.int64)
    save_file(state, folder / "model.safetensors")
    prompts = ("solo",) * len(suite)
    scores = scorer_of(folder, context).score(SuiteImages(images=suite.images, prompts=prompts))
    assert ((scores > 0) & (scores < 1)).all()


def test_scorers_of_one_tagger_share_its_forward(tagger: Path, context: BuildContext) -> None:
    suite = SuiteImages(images=(picture(0), picture(1)), prompts=("solo", "1girl"))
    first, second = scorer_of(tagger, context), scorer_of(tagger, context)
    network = cast("tag_recall.TagRecallScorer", first)._tagger._network
    forwards: list[int] = []
    hook = network.register_forward_hook(lambda _m, inputs, _o: forwards.append(len(inputs[0])))
    try:
        assert torch.equal(first.score(suite), second.score(suite))
    finally:
        hook.remove()
    assert forwards == [2]


@pytest.mark.parametrize("prompt", ["a cat on a mat", "general, sensitive", "", ", ,"])
def test_a_prompt_without_a_known_tag_is_told_with_the_way_out(
    prompt: str, tagger: Path, context: BuildContext
) -> None:
    suite = SuiteImages(images=(picture(0), picture(1)), prompts=("solo", prompt))
    with pytest.raises(SuiteImagesError, match=r"at least one tag of Danbooru .* with `without`$") as caught:
        scorer_of(tagger, context).score(suite)
    assert repr(prompt) in str(caught.value)


def spoil(folder: Path, fault: str) -> None:
    if fault == "other network":
        save_file({"head.weight": torch.zeros(1)}, folder / "model.safetensors")
    elif fault == "one tag more":
        (folder / "selected_tags.csv").write_text(TAGS + "1,hat,0,5\n", encoding="utf-8")
    elif fault == "no table":
        (folder / "selected_tags.csv").write_text("just text\n1\n", encoding="utf-8")
    elif fault == "binary table":
        (folder / "selected_tags.csv").write_bytes(b"\xff\xfe\x00")
    else:
        written = {"not json": "{", "no network": json.dumps(VIT | {"architecture": "vit_x"}), "odd arguments": ""}
        odd = json.dumps(VIT | {"model_args": {"colour": 1}})
        (folder / "config.json").write_text(written[fault] or odd, encoding="utf-8")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("other network", r"model.safetensors does not hold the weights of 'vit_base_patch16_224'"),
        ("one tag more", r"has 8 tags, the network .* has 7 outputs"),
        ("no table", "is not a table of tags with the columns name and category"),
        ("binary table", "is not a table of tags"),
        ("not json", r"config.json is not JSON"),
        ("no network", r"names no network of timm's"),
        ("odd arguments", r"timm cannot build the network of .*config.json"),
    ],
)
def test_files_that_are_no_tagger_are_told_in_one_line(
    fault: str, message: str, context: BuildContext, tmp_path: Path
) -> None:
    folder = write_tagger(tmp_path / "spoilt", VIT)
    spoil(folder, fault)
    with pytest.raises(WrongWeightsError, match=message) as caught:
        scorer_of(folder, context)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_file_is_told_before_anything_is_loaded(tagger: Path, tmp_path: Path) -> None:
    folder = write_tagger(tmp_path / "half", VIT)
    (folder / "selected_tags.csv").unlink()
    settings = TagRecallSettings(folder=folder)
    with pytest.raises(MissingWeightsError, match=r"half, named by option 'folder', has no selected_tags.csv: WD ViT"):
        registry.require_named_files("tag_recall", settings)
    assert [need.is_here(tmp_path) for need in registry.needs("tag_recall", settings)] == [False]
    (need,) = registry.needs("tag_recall", TagRecallSettings(folder=tagger))
    assert need.is_here(tmp_path)


def test_a_tagger_that_is_not_here_is_told_with_the_way_out(
    context: BuildContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(MissingWeightsError) as caught:
        registry.build("tag_recall", TagRecallSettings(), context)
    for part in ("SmilingWolf/wd-vit-tagger-v3", "model.safetensors, config.json and selected_tags.csv", "'folder'"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
