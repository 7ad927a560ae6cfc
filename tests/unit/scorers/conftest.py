"""Small real inputs for the scorer tests: a CLIP model, pictures, and weight files in the real formats.

Nothing here imitates the code under test. All weights are random, made once per session with a fixed seed.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import open_clip
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from scorer_helpers import TINY_CLIP, picture

from scorers.config import ClipModelSettings
from scorers.protocol import BuildContext, SuiteImages

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="session")
def clip_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with an architecture of its own, tiny.json, and random weights for it, tiny.safetensors."""
    folder = tmp_path_factory.mktemp("clip")
    (folder / "tiny.json").write_text(json.dumps(TINY_CLIP), encoding="utf-8")
    torch.manual_seed(1)
    save_file(open_clip.CLIP(**TINY_CLIP).state_dict(), folder / "tiny.safetensors")
    return folder


@pytest.fixture(scope="session")
def clip_settings(clip_dir: Path) -> ClipModelSettings:
    return ClipModelSettings(model="tiny", pretrained=str(clip_dir / "tiny.safetensors"), config_dir=clip_dir)


@pytest.fixture(scope="session")
def timm_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write random weights of timm's test_resnet, including the classifier, as timm publishes weights."""
    path = tmp_path_factory.mktemp("timm") / "test_resnet.safetensors"
    torch.manual_seed(2)
    save_file(timm.create_model("test_resnet", pretrained=False).state_dict(), path)
    return path


@pytest.fixture
def context(tmp_path: Path) -> BuildContext:
    return BuildContext(device="cpu", cache_dir=tmp_path / "cache")


@pytest.fixture
def suite() -> SuiteImages:
    """Return nine pictures of three sizes with five different prompts."""
    sizes = [(48, 48), (40, 64), (64, 40)]
    images = tuple(picture(seed, *sizes[seed % 3]) for seed in range(9))
    return SuiteImages(images=images, prompts=tuple(f"a picture of number {seed % 5}" for seed in range(9)))


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes pictures into a new folder as PNG: make_folder("name", range(10))."""

    def make(name: str, seeds: range, size: int = 48) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for seed in seeds:
            pixels = picture(seed, size, size).permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(folder / f"{seed:03}.png")
        return folder

    return make
