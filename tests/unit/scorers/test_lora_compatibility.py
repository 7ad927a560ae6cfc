"""LoRA compatibility: by reference pictures of the LoRA, or by the words of the prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from scorer_helpers import embedder_of, picture

from scorers.errors import ScorerError
from scorers.images import read_rgb
from scorers.prompt_fit.kinds import LORA_COMPATIBILITY
from scorers.prompt_fit.lora_compatibility import likeness
from scorers.protocol import BuildContext, ImageScorer, SuiteImages
from scorers.registry import build, needs, parse_settings

DEMO = Path(__file__).parents[3] / "studies" / "demo"
CLIP = {"model": "tiny-clip", "pretrained": str(DEMO / "clip.safetensors"), "config_dir": str(DEMO)}
IMAGES = SuiteImages(images=tuple(map(picture, range(3))), prompts=("a lion", "a fox", "a pizza"))


def built(cache_dir: Path, kind: str = "lora_compatibility", **options: Any) -> ImageScorer:
    settings = parse_settings(kind, {"clip": CLIP, **options}, Path("/"))
    scorer: ImageScorer = build(kind, settings, BuildContext(device="cpu", cache_dir=cache_dir))  # type: ignore[assignment]
    return scorer


@pytest.fixture
def references(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for seed in (1, 8):
        Image.fromarray(picture(seed).permute(1, 2, 0).numpy()).save(folder / f"{seed}.png")
    return folder


def test_without_references_it_is_the_clip_score(tmp_path: Path) -> None:
    assert torch.equal(built(tmp_path).score(IMAGES), built(tmp_path, "clip_score").score(IMAGES))


def test_with_references_it_is_the_mean_cosine_to_them(tmp_path: Path, references: Path) -> None:
    scorer = built(tmp_path, reference=str(references))
    embedder = embedder_of(scorer)
    pictures = embedder.embed([read_rgb(path) for path in sorted(references.iterdir())]).double().numpy()
    own = embedder.embed(IMAGES.images).double().numpy()
    expected = [100 * sum(float(image @ each) for each in pictures) / 2 for image in own]
    found = scorer.score(IMAGES)
    assert found.tolist() == pytest.approx(expected, abs=1e-4)
    assert int(found.argmax()) == 1  # which is one of the references


def test_its_limits_are_those_of_a_mean_of_cosines() -> None:
    low, high = LORA_COMPATIBILITY.limits
    embedded = torch.nn.functional.normalize(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    one = embedded[:1]
    found = likeness(torch.cat([one, -one, embedded]), one.expand(4, -1)).tolist()
    assert found[:2] == pytest.approx([high, low], abs=1e-4)
    assert low - 1e-4 <= min(found) <= max(found) <= high + 1e-4


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ScorerError, match="at least 1 reference images"):
        built(tmp_path, reference=str(tmp_path / "empty"))


def test_it_needs_a_clip_and_the_folder_that_is_named() -> None:
    (alone,) = needs("lora_compatibility", None)
    folder, clip = needs("lora_compatibility", parse_settings("lora_compatibility", {"reference": "x"}, Path("/none")))
    assert alone == clip
    with pytest.raises(ScorerError, match="x"):
        folder.require_named()
