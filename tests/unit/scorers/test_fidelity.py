"""Fidelity to the renders of another model: its measures, its options, and how a plug-in gets such renders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file
from scorer_helpers import picture
from torch import Tensor

from scorers.errors import ScorerError, SuiteImagesError
from scorers.fidelity.fidelity import cosine, ssim
from scorers.protocol import BuildContext, SuiteImages
from scorers.registry import build, needs, parse_settings, references

CONTEXT = BuildContext(device="cpu", cache_dir=Path("/nowhere"))
DEMO = Path(__file__).parents[3] / "studies" / "demo"
PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "stay-close-to-a-parent.md"
CLIP = {"model": "tiny-clip", "pretrained": str(DEMO / "clip.safetensors"), "config_dir": str(DEMO)}
MEASURES: list[dict[str, Any]] = [
    {"by": "ssim"},
    {"by": "clip", "clip": CLIP},
    {"by": "network", "network": "test_resnet", "weights": str(DEMO / "features.safetensors"), "input_size": 64},
]


def suite(count: int = 4, to: str = "A", shift: int = 0) -> SuiteImages:
    """Some pictures, and as references the same or others."""
    own = tuple(picture(seed) for seed in range(count))
    others = SuiteImages(images=tuple(picture(seed + shift) for seed in range(count)), prompts=("",) * count)
    return SuiteImages(images=own, prompts=("",) * count, references={to: others})


def scores(options: dict[str, Any], images: SuiteImages) -> Tensor:
    settings = parse_settings("fidelity", {"to": "A"} | options, Path("/"))
    return build("fidelity", settings, CONTEXT).score(images)  # type: ignore[arg-type,return-value]


def plain_ssim(one: Tensor, other: Tensor) -> float:
    """Wang et al. 2004, equation 13, with their Gaussian window of 11 x 11, at the pixels whose window is inside."""
    at = np.arange(11) - 5
    window = np.exp(-(at[:, None] ** 2 + at[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for x, y in zip(one.double().numpy(), other.double().numpy(), strict=True):
        height, width = x.shape
        for top in range(height - 10):
            for left in range(width - 10):
                a, b = x[top : top + 11, left : left + 11], y[top : top + 11, left : left + 11]
                ma, mb = (window * a).sum(), (window * b).sum()
                va, vb = (window * (a - ma) ** 2).sum(), (window * (b - mb) ** 2).sum()
                both = (window * (a - ma) * (b - mb)).sum()
                values.append((2 * ma * mb + c1) * (2 * both + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    return float(np.mean(values))


@pytest.mark.parametrize("options", MEASURES, ids=lambda options: options["by"])
class TestEveryMeasure:
    def test_is_one_for_the_same_pictures(self, options: dict[str, Any]) -> None:
        assert scores(options, suite()).tolist() == pytest.approx([1.0] * 4, abs=1e-6)

    def test_is_less_for_others(self, options: dict[str, Any]) -> None:
        assert (scores(options, suite(shift=7)) < 0.999).all()

    def test_compares_each_picture_with_that_of_its_own_item(self, options: dict[str, Any]) -> None:
        found = scores(options, suite(shift=7))
        other = suite(shift=7)
        alone = SuiteImages(
            images=other.images[2:3],
            prompts=("",),
            references={"A": SuiteImages(images=other.references["A"].images[2:3], prompts=("",))},
        )
        assert scores(options, alone).tolist() == pytest.approx([float(found[2])], abs=1e-5)

    def test_without_references_says_so(self, options: dict[str, Any]) -> None:
        images = suite(to="B")
        with pytest.raises(SuiteImagesError, match="no renders of parent A to compare with"):
            scores(options, images)


def test_ssim_is_that_of_its_paper() -> None:
    generator = torch.Generator().manual_seed(0)
    one = torch.randint(0, 256, (3, 16, 16), generator=generator, dtype=torch.uint8)
    other = (one.int() + torch.randint(-40, 40, one.shape, generator=generator)).clamp(0, 255).to(torch.uint8)
    large = [each.repeat_interleave(3, 1).repeat_interleave(3, 2) for each in (one, other)]
    assert ssim(*large) == pytest.approx(plain_ssim(*large), abs=0.02)  # torchmetrics also counts a padded border


def test_cosine_is_that_of_paired_rows() -> None:
    one, other = np.random.default_rng(0).normal(size=(2, 5, 7))
    expected = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    assert cosine(torch.from_numpy(one), torch.from_numpy(other)).numpy() == pytest.approx(expected)


def test_references_are_embedded_once_however_many_trials_there_are() -> None:
    settings = parse_settings("fidelity", {"to": "A", "clip": CLIP}, Path("/"))
    scorer = build("fidelity", settings, CONTEXT)
    first = suite()
    scorer.score(first)  # type: ignore[arg-type]
    kept = first.references["A"]._memo._values
    assert len(kept) == 1
    embedded = next(iter(kept.values()))
    again = SuiteImages(images=first.images, prompts=first.prompts, references=first.references)
    scorer.score(again)  # type: ignore[arg-type]
    assert next(iter(kept.values())) is embedded


def test_a_letter_is_a_parent_and_all_else_a_file_beside_the_spec() -> None:
    for to, known in (("B", "B"), ("old.safetensors", "/specs/old.safetensors"), ("b", "/specs/b")):
        settings = parse_settings("fidelity", {"to": to, "by": "ssim"}, Path("/specs"))
        assert references("fidelity", settings) == (known,)


def test_a_file_that_is_not_there_is_told_before_anything_is_loaded() -> None:
    settings = parse_settings("fidelity", {"to": "old.safetensors", "by": "ssim"}, Path("/specs"))
    (need,) = needs("fidelity", settings)
    with pytest.raises(ScorerError, match=r"/specs/old\.safetensors"):
        need.require_named()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "`to` is missing: give a parent's letter, such as A, or a checkpoint file"),
        ({"to": "A", "by": "lpips"}, "by"),
        ({"to": "A", "by": "network"}, "needs `network`"),
        ({"to": "A", "by": "ssim", "network": "test_resnet"}, "belong to by: network"),
        ({"to": "A", "by": "ssim", "clip": {}}, "`clip` belongs to by: clip"),
    ],
)
def test_options_that_mean_nothing_are_refused_in_one_line(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ScorerError, match=told) as caught:
        parse_settings("fidelity", options, Path("/"))
    assert "\n" not in str(caught.value)


def test_the_example_without_clip_of_the_page_is_built_as_it_is_written(tmp_path: Path) -> None:
    """With DINOv2 of its true architecture, and random weights."""
    block = next(part.split("```")[0] for part in PAGE.read_text().split("```yaml\n") if part.count("by: network"))
    entries = yaml.safe_load(block)["scorers"]
    name, file = (entries["dino"][key] for key in ("network", "weights"))
    save_file(timm.create_model(name, pretrained=False, num_classes=0).state_dict(), tmp_path / file)
    for entry in entries.values():
        settings = parse_settings(entry.pop("kind"), entry, tmp_path)
        found = build("fidelity", settings, CONTEXT).score(suite(1, shift=3))  # type: ignore[arg-type]
        assert -1 <= found.item() < 1  # type: ignore[union-attr]
