"""Networks, reference folders and the set scorers made of them, with weight files of the true formats."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, cast

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy.linalg import sqrtm
from scorer_helpers import picture
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from scorers import registry
from scorers.distances import references
from scorers.distances import scorers as fid
from scorers.distances.kinds import InceptionSettings, NetworkSettings
from scorers.errors import (
    MissingWeightsError,
    ReferenceImagesError,
    ScorerSettingsError,
    SuiteImagesError,
    WrongWeightsError,
)
from scorers.networks.features import InceptionFeatures, TimmFeatures, timm_preprocess
from scorers.protocol import BuildContext, SetScorer, SuiteImages

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


@pytest.fixture(scope="session")
def inception_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The FID Inception with random weights, in torch-fidelity's own file format: 90 MB."""
    path = tmp_path_factory.mktemp("inception") / "inception.pth"

    class Untrained(FeatureExtractorInceptionV3):  # type: ignore[misc]
        def load_state_dict(self, *_: object, **__: object) -> None:
            """Keep the random weights that the constructor has just made."""

    torch.manual_seed(3)
    torch.save({}, path)
    network = Untrained("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path))
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def inception(inception_weights: Path) -> InceptionFeatures:
    return InceptionFeatures(inception_weights)


class Counted:
    """A real network that counts the images it embeds."""

    def __init__(self, network: TimmFeatures) -> None:
        self.network = network
        self.digest = network.digest
        self.embedded = 0

    def embed(self, images: Sequence[torch.Tensor]) -> torch.Tensor:
        self.embedded += len(images)
        return self.network.embed(images)


@pytest.fixture
def network(timm_weights: Path) -> Counted:
    return Counted(TimmFeatures("test_resnet", timm_weights, input_size=32))


# Networks


def test_inception_features_are_those_of_torch_fidelity(inception: InceptionFeatures, inception_weights: Path) -> None:
    theirs = FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(inception_weights)
    )
    images = [picture(0, 40, 40), picture(1, 40, 40)]
    with torch.no_grad():
        expected = theirs(torch.stack(images))[0]
    found = inception.embed(images)
    assert found.shape == (2, 2048)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_other_weights_in_place_of_inception_are_refused(timm_weights: Path) -> None:
    with pytest.raises(WrongWeightsError, match="does not hold the FID Inception") as caught:
        InceptionFeatures(timm_weights)
    assert "\n" not in str(caught.value)


def test_timm_features_are_the_pooled_output(timm_weights: Path) -> None:
    model = timm.create_model("test_resnet", pretrained=False, num_classes=0).eval()
    model.load_state_dict(load_file(timm_weights), strict=False)  # the file has a classifier, this model none
    image = picture(0, 160, 160)  # the network's own size, so that nothing is resized
    with torch.no_grad():
        expected = model((image[None] / 255 - 0.5) / 0.5)
    found = TimmFeatures("test_resnet", timm_weights).embed([image])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_timm_weights_may_come_without_classifier(timm_weights: Path, tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in load_file(timm_weights).items() if not name.startswith("fc.")}
    torch.save(state, tmp_path / "headless.pth")
    images = [picture(0)]
    headless = TimmFeatures("test_resnet", tmp_path / "headless.pth").embed(images)
    torch.testing.assert_close(headless, TimmFeatures("test_resnet", timm_weights).embed(images))


@pytest.mark.parametrize(
    ("name", "size", "error", "message"),
    [
        ("test_resnt", None, ScorerSettingsError, "no network 'test_resnt': .*test_resnet"),
        ("test_vit", None, WrongWeightsError, "does not hold weights of 'test_vit'"),
    ],
)
def test_a_network_that_does_not_fit_is_told(
    name: str, size: int | None, error: type[Exception], message: str, timm_weights: Path
) -> None:
    with pytest.raises(error, match=message):
        TimmFeatures(name, timm_weights, input_size=size)


@pytest.fixture(scope="session")
def vit_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """timm's test_vit, which takes 160 pixels only, in patches of 16."""
    path = tmp_path_factory.mktemp("vit") / "vit.safetensors"
    save_file(timm.create_model("test_vit", pretrained=False).state_dict(), path)
    return path


def test_a_transformer_of_fixed_size_is_as_timm_loads_it_for_another(vit_weights: Path) -> None:
    file = {"file": str(vit_weights)}
    theirs = timm.create_model("test_vit", pretrained=True, pretrained_cfg_overlay=file, img_size=96, num_classes=0)
    image = picture(0, 96, 96)
    with torch.no_grad():
        expected = theirs.eval()((image[None] / 255 - 0.5) / 0.5)
    network = TimmFeatures("test_vit", vit_weights, input_size=96)
    torch.testing.assert_close(network.embed([image]), expected, rtol=1e-4, atol=1e-5)
    assert network.digest != TimmFeatures("test_vit", vit_weights).digest


def test_a_transformer_of_fixed_size_refuses_what_is_no_multiple_of_its_patches(vit_weights: Path) -> None:
    with pytest.raises(ScorerSettingsError, match="another multiple of 16, got input_size 100: give 96, or leave it"):
        TimmFeatures("test_vit", vit_weights, input_size=100)


def test_another_network_of_fixed_size_refuses_another() -> None:
    name = "test_efficientnet"
    fixed = {**timm.get_pretrained_cfg(name).to_dict(), "fixed_input_size": True}
    with pytest.raises(ScorerSettingsError, match="takes images of 160 pixels only, got input_size 96"):
        timm_preprocess(name, fixed, 96)


def test_a_network_may_be_named_with_the_tag_of_its_weights(vit_weights: Path) -> None:
    tagged = TimmFeatures("test_vit.r160_in1k", vit_weights)
    torch.testing.assert_close(tagged.embed([picture(0)]), TimmFeatures("test_vit", vit_weights).embed([picture(0)]))
    with pytest.raises(ScorerSettingsError, match=r"no weights 'other' of 'test_vit': use test_vit\.r160_in1k"):
        TimmFeatures("test_vit.other", vit_weights)


def test_features_do_not_depend_on_the_company_of_an_image(network: Counted) -> None:
    images = [picture(seed, 30 + 7 * (seed % 3), 40) for seed in range(20)]
    together = network.embed(images)
    alone = torch.cat([network.embed([image]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_the_digest_tells_networks_and_sizes_apart(timm_weights: Path) -> None:
    digests = {TimmFeatures("test_resnet", timm_weights, input_size=size).digest for size in (32, 64, 160, None)}
    assert len(digests) == 3  # 160 is the network's own size


# Reference folders


def test_reference_features_are_kept_and_reused(
    network: Counted, make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_folder("ref", range(10))
    first, second = (references.reference_features(folder, network, tmp_path / "cache", minimum=8) for _ in range(2))
    assert network.embedded == 10
    assert torch.equal(first, second)
    torch.testing.assert_close(first, network.network.embed([picture(seed) for seed in range(10)]))


def test_two_networks_never_share_kept_features(
    timm_weights: Path, make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_folder("ref", range(8))
    small, large = (
        references.reference_features(
            folder, TimmFeatures("test_resnet", timm_weights, input_size=size), tmp_path / "cache", minimum=8
        )
        for size in (32, 64)
    )
    assert not torch.equal(small, large)


def test_a_unit_of_the_settings_is_taken(
    timm_weights: Path, make_folder: Callable[..., Path], context: BuildContext
) -> None:
    folder = make_folder("ref", range(8))
    settings = NetworkSettings(reference=folder, network="test_resnet", weights=timm_weights, input_size=32, unit=0.7)
    assert fid.build_frechet(settings, context).info.unit == 0.7


@pytest.mark.parametrize("change", ["pixels", "order", "one more"])
def test_a_changed_folder_is_embedded_anew(
    change: str, network: Counted, make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_folder("ref", range(8))
    references.reference_features(folder, network, tmp_path / "cache", minimum=8)
    if change == "pixels":
        Image.new("RGB", (8, 8)).save(folder / "000.png")
    elif change == "order":
        (folder / "000.png").rename(folder / "999.png")
    else:
        Image.new("RGB", (8, 8)).save(folder / "new.webp")
    references.reference_features(folder, network, tmp_path / "cache", minimum=8)
    assert network.embedded == (17 if change == "one more" else 16)


@pytest.mark.parametrize("damage", ["cut", "flipped bit", "empty", "other tensor"])
def test_a_damaged_cache_is_computed_anew(
    damage: str,
    network: Counted,
    make_folder: Callable[..., Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = make_folder("ref", range(8))
    first = references.reference_features(folder, network, tmp_path / "cache", minimum=8)
    (stored,) = (tmp_path / "cache" / "references").iterdir()
    content = stored.read_bytes()
    if damage == "other tensor":
        save_file({"something": torch.zeros(1)}, stored)
    else:
        flipped = content[:-1] + bytes([content[-1] ^ 1])
        stored.write_bytes({"cut": content[:-9], "flipped bit": flipped, "empty": b""}[damage])
    with caplog.at_level(logging.WARNING):
        second = references.reference_features(folder, network, tmp_path / "cache", minimum=8)
    assert torch.equal(first, second)
    assert network.embedded == 16
    assert "is damaged" in caplog.text
    assert stored.read_bytes() == content


def test_too_few_reference_images_are_told_with_both_counts(
    network: Counted, make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_folder("ref", range(5))
    (folder / "readme.txt").write_text("not an image")
    with pytest.raises(ReferenceImagesError, match=r"expected at least 8 reference images .* holds 5"):
        references.reference_features(folder, network, tmp_path, minimum=8)


# Scorers


@pytest.fixture
def built(
    timm_weights: Path, make_folder: Callable[..., Path], context: BuildContext
) -> tuple[fid.FrechetScorer, fid.KernelScorer]:
    settings = NetworkSettings(
        reference=make_folder("ref", range(100, 112)),
        network="test_resnet",
        weights=timm_weights,
        input_size=32,
    )
    return fid.build_frechet(settings, context), fid.build_kernel(settings, context)


def test_frechet_on_a_timm_network_is_named_for_what_it_is(
    built: tuple[fid.FrechetScorer, fid.KernelScorer], suite: SuiteImages
) -> None:
    frechet, kernel = built
    assert frechet.info.report_name(len(suite)) == "FD(test_resnet)@9"
    assert kernel.info.report_name(len(suite)) == "MMD(test_resnet)@9"
    assert frechet.info.unit == pytest.approx(0.05 * frechet._reference.spread)


def test_two_distances_on_one_network_share_weights_references_and_forward(
    built: tuple[fid.FrechetScorer, fid.KernelScorer], suite: SuiteImages
) -> None:
    frechet, kernel = built
    model = cast("TimmFeatures", frechet._network)._network
    forwards: list[int] = []
    hook = model.conv1.register_forward_hook(lambda _m, inputs, _o: forwards.append(len(inputs[0])))
    try:
        features = frechet.features(suite)
        assert kernel.features(suite) is features
    finally:
        hook.remove()
    assert sum(forwards) == len(suite)


def test_the_score_of_all_rows_in_any_order_is_the_same(
    built: tuple[fid.FrechetScorer, fid.KernelScorer], suite: SuiteImages
) -> None:
    for scorer in built:
        features = scorer.features(suite)
        assert scorer.score(features.flip(0)) == pytest.approx(scorer.score(features), rel=1e-9)
        assert scorer.score(features[torch.tensor([0, 0, 1, 2, 3, 4, 5, 6, 7])]) != scorer.score(features)


def test_the_references_themselves_score_best(
    built: tuple[fid.FrechetScorer, fid.KernelScorer], suite: SuiteImages
) -> None:
    same = SuiteImages(images=tuple(picture(seed) for seed in range(100, 112)), prompts=("",) * 12)
    for scorer in built:
        assert scorer.score(scorer.features(same)) < scorer.score(scorer.features(suite))
    assert built[0].score(built[0].features(same)) == pytest.approx(0, abs=1e-6)


def test_fewer_than_eight_images_are_refused(
    built: tuple[fid.FrechetScorer, fid.KernelScorer], suite: SuiteImages
) -> None:
    few = SuiteImages(images=tuple(picture(seed) for seed in range(7)), prompts=("",) * 7)
    for scorer in built:
        with pytest.raises(SuiteImagesError, match="at least 8 images, got 7"):
            scorer.features(few)
        assert math.isfinite(scorer.score(scorer.features(suite)[:7]))  # standard errors leave images out
        with pytest.raises(SuiteImagesError, match="at least 2 images, got 1"):
            scorer.score(torch.zeros(1, 64))


@pytest.mark.slow
def test_fid_and_kid_from_a_spec(
    inception_weights: Path, make_folder: Callable[..., Path], context: BuildContext
) -> None:
    make_folder("ref", range(100, 108))
    images = SuiteImages(images=tuple(picture(seed, 32, 32) for seed in range(8)), prompts=("",) * 8)
    options = {"reference": "ref", "weights": str(inception_weights)}
    scorers = [
        cast(
            "SetScorer",
            registry.build(name, registry.parse_settings(name, options, context.cache_dir.parent), context),
        )
        for name in ("fid", "kid")
    ]
    features = scorers[0].features(images)
    assert scorers[1].features(images) is features
    assert [scorer.info.report_name(8) for scorer in scorers] == ["FID@8", "KID@8"]
    expected = InceptionFeatures(inception_weights).embed([picture(seed) for seed in range(100, 108)]).double()
    x, y = features.double(), expected
    centred = x - x.mean(0), y - y.mean(0)
    # tr (C_x C_y)^(1/2) is tr (A A')^(1/2) for the 8 x 8 matrix A = X Y.T / 7, here by scipy's square root.
    cross = (centred[0] @ centred[1].T / 7).numpy()
    trace = sqrtm(cross @ cross.T).trace().real
    distance = (x.mean(0) - y.mean(0)).square().sum() + sum(c.square().sum() / 7 for c in centred) - 2 * trace
    assert scorers[0].score(features) == pytest.approx(float(distance), rel=1e-4)


@pytest.mark.parametrize("build", [fid.build_fid, fid.build_kid])
def test_missing_inception_weights_are_told(
    build: Callable[..., object], make_folder: Callable[..., Path], context: BuildContext, tmp_path: Path
) -> None:
    settings = InceptionSettings(reference=make_folder("ref", range(8)), weights=tmp_path / "none.pth")
    with pytest.raises(MissingWeightsError, match="named by option 'weights'"):
        build(settings, context)


@pytest.mark.parametrize("build", [fid.build_frechet, fid.build_kernel])
def test_missing_network_weights_are_told(
    build: Callable[..., object], make_folder: Callable[..., Path], context: BuildContext, tmp_path: Path
) -> None:
    settings = NetworkSettings(
        reference=make_folder("ref", range(8)), network="test_resnet", weights=tmp_path / "none.safetensors"
    )
    with pytest.raises(MissingWeightsError, match="named by option 'weights'"):
        build(settings, context)
