"""Classifiers of anime pictures: small random networks in the published files, against the formula in float64."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scorer_helpers import picture
from transformers import BeitConfig, BeitForImageClassification, ViTConfig, ViTForImageClassification

from scorers import registry
from scorers.aesthetics import anime
from scorers.aesthetics.anime_kinds import ClassifierSettings
from scorers.errors import MissingWeightsError, ScorerSettingsError, WrongWeightsError
from scorers.networks.classifier import read_preprocess
from scorers.protocol import SuiteImages

if TYPE_CHECKING:
    from scorers.protocol import BuildContext, ImageScorer

SIZE = 32
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": SIZE,
    "patch_size": 8,
}
IMAGES = SuiteImages(images=tuple(picture(seed, SIZE, SIZE) for seed in range(4)), prompts=("",) * 4)  # not resized


def write_preprocessor(folder: Path, **changes: object) -> None:
    """As transformers of 2022 to 2024 wrote it for ViT and BEiT."""
    content = {
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "resample": 2,
        "size": {"height": SIZE, "width": SIZE},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(content | changes), encoding="utf-8")


def shake(network: Any) -> Any:
    """Make random weights that differ from each other, biases included."""
    torch.manual_seed(8)
    for parameter in network.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return network.eval()


@pytest.fixture
def shadow(tmp_path: Path) -> tuple[Path, ViTForImageClassification]:
    labels = {0: "hq", 1: "lq"}
    network = shake(ViTForImageClassification(ViTConfig(**SMALL, id2label=labels, label2id={"hq": 0, "lq": 1})))
    folder = tmp_path / "shadow"
    network.save_pretrained(folder)  # under the published names of the layers
    write_preprocessor(folder)
    return folder, network


@pytest.fixture
def cafe(tmp_path: Path) -> tuple[Path, BeitForImageClassification]:
    labels = {0: "aesthetic", 1: "not_aesthetic"}
    config = BeitConfig(**SMALL, use_relative_position_bias=True, id2label=labels)
    network = shake(BeitForImageClassification(config))
    folder = tmp_path / "cafe"
    network.save_pretrained(folder)
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")  # the only format that it is published in
    write_preprocessor(folder, size=SIZE, crop_size=SIZE, do_center_crop=False)
    return folder, network


def scorer_of(kind: str, folder: Path, context: BuildContext) -> ImageScorer:
    settings = registry.parse_settings(kind, {"folder": folder.name}, folder.parent)
    return cast("ImageScorer", registry.build(kind, settings, context))


def probabilities(network: Any) -> np.ndarray:
    """A softmax over the logits of transformers, in float64."""
    with torch.no_grad():
        logits = network.double()(torch.stack(IMAGES.images).double() / 127.5 - 1).logits.numpy()
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return cast("np.ndarray", raised / raised.sum(axis=1, keepdims=True))


def test_shadow_is_the_probability_of_high_quality(
    shadow: tuple[Path, ViTForImageClassification], context: BuildContext
) -> None:
    folder, network = shadow
    assert "vit.encoder.layer.0.attention.attention.query.weight" in load_file(folder / "model.safetensors")
    scores = scorer_of("shadow", folder, context).score(IMAGES)
    assert scores.dtype == torch.float64
    np.testing.assert_allclose(scores.numpy(), probabilities(network)[:, 0], atol=1e-5)
    assert scores.std() > 1e-3


def test_cafe_is_the_probability_of_aesthetic(
    cafe: tuple[Path, BeitForImageClassification], context: BuildContext
) -> None:
    folder, network = cafe
    scores = scorer_of("cafe", folder, context).score(IMAGES)
    np.testing.assert_allclose(scores.numpy(), probabilities(network)[:, 0], atol=1e-5)
    assert scores.std() > 1e-3


def test_labels_are_found_by_name_in_any_order(
    shadow: tuple[Path, ViTForImageClassification], context: BuildContext
) -> None:
    folder, network = shadow
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"id2label": {"0": "lq", "1": "hq"}}))
    scores = scorer_of("shadow", folder, context).score(IMAGES)
    np.testing.assert_allclose(scores.numpy(), probabilities(network)[:, 1], atol=1e-5)


def test_loading_says_nothing(
    shadow: tuple[Path, ViTForImageClassification], context: BuildContext, capfd: pytest.CaptureFixture[str]
) -> None:
    capfd.readouterr()
    scorer_of("shadow", shadow[0], context)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("a layer less", r"does not hold the weights of the network .* \(missing .*classifier.bias"),
        ("a layer more", r"\(unexpected .*more\)"),
        ("other shape", r"\(shapes differ\)"),
        ("other labels", "expected a classifier with the labels hq, lq, got cat, dog"),
        ("other architecture", "expected a classifier with model_type 'vit', got 'beit'"),
        ("odd config", "does not describe a vit"),
        ("crop", r"does not say how to resize .* \(it crops\)"),
        ("shortest edge", "does not say how to resize"),
    ],
)
def test_files_of_another_classifier_are_told_in_one_line(
    fault: str, message: str, shadow: tuple[Path, ViTForImageClassification], context: BuildContext
) -> None:
    folder, _ = shadow
    state, config = load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text())
    if fault == "a layer less":
        del state["classifier.bias"]
    elif fault == "a layer more":
        state["more"] = torch.ones(1)
    elif fault == "other shape":
        state["classifier.weight"] = torch.ones(2, 17)
    elif fault == "other labels":
        config["id2label"] = {"0": "cat", "1": "dog"}
    elif fault == "other architecture":
        config["model_type"] = "beit"
    elif fault == "odd config":
        config["hidden_size"] = "wide"
    elif fault == "crop":
        write_preprocessor(folder, do_center_crop=True)
    else:
        write_preprocessor(folder, size={"shortest_edge": SIZE})
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(WrongWeightsError, match=message) as caught:
        scorer_of("shadow", folder, context)
    assert "\n" not in str(caught.value)


def test_preprocessing_follows_the_file(tmp_path: Path) -> None:
    write_preprocessor(tmp_path, resample=3, size={"height": 20, "width": 30}, image_std=[0.1, 0.2, 0.3])
    preprocess = read_preprocess(tmp_path / "preprocessor_config.json")
    assert (preprocess.size, preprocess.interpolation, preprocess.std) == ((20, 30), "bicubic", (0.1, 0.2, 0.3))
    assert preprocess.resize_mode == "squash"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"do_resize": False}, "it has do_resize: false"),
        ({"do_rescale": False}, "it has do_rescale: false"),
        ({"do_normalize": False}, "it has do_normalize: false"),
        ({"rescale_factor": 1 / 127.5}, r"its rescale_factor is 0\.0078\d*, not 1/255"),
        ({"image_std": [0, 0, 0]}, "normalisation is another"),
    ],
)
def test_preprocessing_that_is_not_done_here_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_preprocessor(tmp_path, rescale_factor=0.00392156862745098, do_resize=True)
    read_preprocess(tmp_path / "preprocessor_config.json")
    write_preprocessor(tmp_path, **changes)
    with pytest.raises(WrongWeightsError, match=message):
        read_preprocess(tmp_path / "preprocessor_config.json")


def test_shadow_is_never_downloaded(context: BuildContext, tmp_path: Path) -> None:
    with pytest.raises(ScorerSettingsError, match=r"`folder` is missing: give .*model\.safetensors, .*CC-BY-NC-4\.0"):
        registry.parse_settings("shadow", {}, tmp_path)
    (need,) = registry.needs("shadow", None)
    assert (need.licence, need.source) == ("CC-BY-NC-4.0", "yours: option 'folder'")
    assert not need.is_here(tmp_path)


def test_cafe_that_is_not_here_is_told_with_the_way_out(
    context: BuildContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        MissingWeightsError, match=r"cafeai/cafe_aesthetic, then name a folder with pytorch_model\.bin, "
    ):
        registry.build("cafe", ClassifierSettings(), context)


# deepghs's classifier, in ONNX

LABELS = ["best", "good", "great", "low", "masterpiece", "normal", "worst"]  # in alphabetical order, as published


def write_onnx(
    folder: Path, weight: np.ndarray, *, labels: list[str] = LABELS, name: str = "input", end: str = "Softmax"
) -> Path:
    """Write a network of the published form: pixels -> a linear layer -> softmax, or another `end`."""
    onnx = pytest.importorskip("onnx")
    helper, numbers = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("GlobalAveragePool", [name], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
        helper.make_node(end, ["logits"], ["output"], **({"axis": -1} if end == "Softmax" else {})),
    ]
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info(name, numbers, ["batch", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("output", numbers, ["batch", weight.shape[1]])],
        [onnx.numpy_helper.from_array(weight.astype(np.float32), "weight")],
    )
    folder.mkdir()
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(folder / "model.onnx"))
    (folder / "meta.json").write_text(json.dumps({"labels": labels}), encoding="utf-8")
    return folder


WEIGHT = np.random.default_rng(3).normal(size=(3, 7))


def test_anime_aesthetic_is_the_expected_rating(context: BuildContext, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    scores = scorer_of("anime_aesthetic", write_onnx(tmp_path / "aesthetic", WEIGHT), context).score(IMAGES)
    pixels = torch.stack(IMAGES.images).double().numpy()
    logits = (pixels / 127.5 - 1).mean(axis=(2, 3)) @ WEIGHT
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    order = ["worst", "low", "normal", "good", "great", "best", "masterpiece"]
    expected = sum(softmax[:, LABELS.index(label)] * value for value, label in enumerate(order))
    assert scores.dtype == torch.float64
    np.testing.assert_allclose(scores.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("end", ["Identity", "Sigmoid"])
def test_an_onnx_network_that_gives_no_probabilities_is_told(end: str, context: BuildContext, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    scorer = scorer_of("anime_aesthetic", write_onnx(tmp_path / "aesthetic", WEIGHT, end=end), context)
    with pytest.raises(WrongWeightsError, match=r"model\.onnx does not end in a softmax: .* add up to 1, got "):
        scorer.score(IMAGES)


def test_an_onnx_network_gives_an_image_the_same_score_in_any_company(context: BuildContext, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    scorer = scorer_of("anime_aesthetic", write_onnx(tmp_path / "aesthetic", WEIGHT), context)
    alone = [scorer.score(SuiteImages(images=(image,), prompts=("",)))[0] for image in IMAGES.images]
    assert torch.equal(scorer.score(IMAGES), torch.stack(alone))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no onnx", "model.onnx is not an ONNX network"),
        ("other input", r"is not a classifier of deepghs: expected an input \[n, 3, height, width\] named 'input'"),
        ("labels of another", r"does not give the 2 labels of .*meta.json"),
        ("other labels", "expected a classifier with the labels worst, low, .* got one, "),
        ("no labels", "has no list of labels"),
    ],
)
def test_files_of_another_onnx_network_are_told_in_one_line(
    fault: str, message: str, context: BuildContext, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    labels = {"labels of another": ["one", "two"], "other labels": ["one", *LABELS[1:]]}.get(fault, LABELS)
    folder = write_onnx(tmp_path / "a", WEIGHT, labels=labels, name="image" if fault == "other input" else "input")
    if fault == "no onnx":
        (folder / "model.onnx").write_bytes(b"no network")
    elif fault == "no labels":
        (folder / "meta.json").write_text("{}")
    with pytest.raises(WrongWeightsError, match=message) as caught:
        scorer_of("anime_aesthetic", folder, context)
    assert "\n" not in str(caught.value)


def test_the_values_of_the_labels_are_those_of_the_order() -> None:
    assert list(anime.ANIME_AESTHETIC_VALUES.values()) == list(range(7))


def test_a_folder_that_is_none_is_told_as_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name, message in (
        ("none", "no folder at .*none"),
        ("file", "is a file: give the folder with pytorch_model.bin"),
    ):
        settings = registry.parse_settings("cafe", {"folder": name}, tmp_path)
        with pytest.raises(MissingWeightsError, match=message):
            registry.require_named_files("cafe", settings)
