"""What is advised where a study does not fit: it is accepted, and the next larger is not."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from layouts import hollow

from optimizer.errors import NoMemoryError
from optimizer.merging.engine.ingredients import Ingredients
from optimizer.merging.files.checkpoint import Checkpoint
from optimizer.merging.files.parents import Parents
from optimizer.rendering.models import live_dtypes
from optimizer.runtime.fitting import (
    Estimate,
    FreeMemory,
    largest_sizes,
    require_memory,
    smaller_sizes,
    with_sizes,
    without_second_pass,
)
from optimizer.runtime.memory import MemoryEstimate, estimate_memory
from studies.records.batch_limits import Size
from studies.spec.rendering import RenderSettings
from studies.spec.suite import SuitePrompt, SuiteSettings

CARD, CPU = torch.device("cuda"), torch.device("cpu")
CONTEXT = 500_000_000  # bytes that CUDA takes for itself
GB = 1_000_000_000


@pytest.fixture(scope="module")
def estimates(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, torch.device], Estimate]:
    """Estimates of two full-size parents in float16."""
    folder = tmp_path_factory.mktemp("hollow")

    @cache
    def ingredients(layout: str) -> Ingredients:
        files: list[Path] = [hollow(folder / f"{layout}-{letter}.safetensors", layout) for letter in "ab"]
        return Ingredients(Parents.of([Checkpoint.open(file) for file in files]))

    def of(layout: str, device: torch.device) -> Estimate:
        def estimate(suite: SuiteSettings, settings: RenderSettings) -> MemoryEstimate:
            dtypes = live_dtypes(device, torch.float16)
            return estimate_memory(
                ingredients(layout),
                suite,
                device,
                dtypes,
                batch_size=settings.batch_size,
                vae_tiling=settings.vae_tiling,
            )

        return estimate

    return of


def suite_of(*sizes: Size) -> SuiteSettings:
    return SuiteSettings(prompts=(SuitePrompt(prompt="a cat"),), seeds=tuple(range(8)), sizes=sizes)


def advised_sizes(estimate: Estimate, suite: SuiteSettings, device: torch.device, free: FreeMemory) -> dict[Size, Size]:
    """What the refusal says to render: size -> the one in its place."""
    with pytest.raises(NoMemoryError) as refused:
        require_memory(estimate, suite, RenderSettings(), device, free)
    found = re.findall(r"(\d+)x(\d+) instead of (\d+)x(\d+)", str(refused.value))
    assert found, refused.value
    return {(int(row[2]), int(row[3])): (int(row[0]), int(row[1])) for row in found}


@pytest.mark.parametrize(
    ("layout", "card", "size"),
    [
        ("sdxl", 6, (1024, 1024)),
        ("sdxl", 6, (832, 1216)),
        ("sdxl", 8, (2048, 1536)),
        ("sd15", 4, (1024, 1024)),
        ("sd15", 3, (768, 1152)),
    ],
)
def test_the_size_advised_for_a_card_is_accepted_and_the_next_larger_refused(
    estimates: Callable[[str, torch.device], Estimate], layout: str, card: int, size: Size
) -> None:
    estimate, free = estimates(layout, CARD), FreeMemory(host=64 * GB, device=card * GB - CONTEXT)
    ((was, advised),) = advised_sizes(estimate, suite_of(size), CARD, free).items()
    assert was == size
    require_memory(estimate, suite_of(advised), RenderSettings(), CARD, free)
    by_size = [size, *smaller_sizes(size)]
    larger = by_size[by_size.index(advised) - 1]
    with pytest.raises(NoMemoryError):
        require_memory(estimate, suite_of(larger), RenderSettings(), CARD, free)


def test_with_a_second_pass_the_size_advised_is_that_of_the_first(
    estimates: Callable[[str, torch.device], Estimate],
) -> None:
    def twice(size: Size) -> SuiteSettings:
        suite = {"prompts": [{"prompt": "a cat"}], "sizes": [size], "hires": {"scale": 2.0, "denoise": 0.5}}
        return SuiteSettings.model_validate(suite)

    estimate, free = estimates("sd15", CARD), FreeMemory(host=64 * GB, device=4 * GB - CONTEXT)
    advised = advised_sizes(estimate, twice((512, 512)), CARD, free)[512, 512]
    with pytest.raises(NoMemoryError, match=r"render without a second pass \(`hires: false`\), or render"):
        require_memory(estimate, twice((512, 512)), RenderSettings(), CARD, free)
    require_memory(estimate, without_second_pass(twice((512, 512))), RenderSettings(), CARD, free)
    require_memory(estimate, twice(advised), RenderSettings(), CARD, free)
    with pytest.raises(NoMemoryError):
        require_memory(estimate, twice((advised[0] + 64, advised[1] + 64)), RenderSettings(), CARD, free)


def test_only_sizes_that_are_too_large_are_changed_wherever_they_are_written(
    estimates: Callable[[str, torch.device], Estimate],
) -> None:
    estimate, free = estimates("sdxl", CARD), FreeMemory(host=64 * GB, device=6 * GB)
    plain, own = SuitePrompt(prompt="a cat"), SuitePrompt(prompt="a dog", sizes=((1024, 1024), (512, 256)))
    suite = SuiteSettings(prompts=(plain, own), sizes=((256, 256), (768, 1152)))
    advised = advised_sizes(estimate, suite, CARD, free)
    assert advised.keys() == {(1024, 1024), (768, 1152)}
    require_memory(estimate, with_sizes(suite, advised), RenderSettings(), CARD, free)


@pytest.mark.parametrize("free", [5.0, 5.5, 6.0, 7.0])
def test_the_host_is_given_fewer_images_at_once_and_smaller_ones_only_where_one_is_too_many(
    estimates: Callable[[str, torch.device], Estimate], free: float
) -> None:
    """SD1.5 in float32 has 4.3 GB of weights."""
    estimate, memory, suite = estimates("sd15", CPU), FreeMemory(host=int(free * GB), device=None), suite_of((512, 512))
    with pytest.raises(NoMemoryError) as refused:
        require_memory(estimate, suite, RenderSettings(), CPU, memory)
    said = str(refused.value)
    batch = int(re.findall(r"write `batch_size: (\d+)` under `render`", said)[0])
    sizes = [tuple(map(int, row)) for row in re.findall(r"render (\d+)x(\d+) instead of 512x512", said)]
    accepted, larger = (sizes or [(512, 512)])[0], RenderSettings(batch_size=batch + 1)
    require_memory(estimate, suite_of(accepted), RenderSettings(batch_size=batch), CPU, memory)  # type: ignore[arg-type]
    with pytest.raises(NoMemoryError):
        require_memory(estimate, suite, RenderSettings(batch_size=1) if sizes else larger, CPU, memory)


def test_where_the_model_alone_is_too_large_no_size_is_promised(
    estimates: Callable[[str, torch.device], Estimate],
) -> None:
    free = FreeMemory(host=64 * GB, device=4 * GB)
    with pytest.raises(NoMemoryError, match="no smaller batch or image would fit; or stop other programs"):
        require_memory(estimates("sdxl", CARD), suite_of((1024, 1024)), RenderSettings(), CARD, free)


@given(sides=st.tuples(*[st.integers(1, 64)] * 2), limit=st.integers(0, 64 * 64))
def test_smaller_sizes_have_the_aspect_and_the_largest_that_fits_is_found(sides: Size, limit: int) -> None:
    size = (64 * sides[0], 64 * sides[1])
    sizes = [size, *smaller_sizes(size)]
    areas = [width * height for width, height in sizes]
    assert areas == sorted(areas, reverse=True)
    for width, height in sizes:
        assert min(width, height) >= 64
        assert width % 64 == height % 64 == 0
        longest, shortest = max(size), min(size)
        exact = max(width, height) * shortest / longest
        assert abs(min(width, height) - exact) <= 32 or min(width, height) == 64
    suite = suite_of(size)
    found = largest_sizes(lambda sizes: sizes[size][0] * sizes[size][1] <= limit * 64 * 64, suite)
    fitting = [each for each in sizes if each[0] * each[1] <= limit * 64 * 64]
    assert found == ({size: fitting[0]} if fitting else None)


def test_tiles_are_advised_where_only_decoding_is_too_large_and_they_then_fit(
    estimates: Callable[[str, torch.device], Estimate],
) -> None:
    """SD1.5 at 1024 x 1024: decoding takes 4.3 GB, and the U-Net less than 3 with its step."""
    estimate, suite = estimates("sd15", CARD), suite_of((1024, 1024))
    free = FreeMemory(host=64 * GB, device=4 * GB - CONTEXT)
    with pytest.raises(NoMemoryError, match=r"free; write `vae_tiling: true` under `render`.*, or render 832x832"):
        require_memory(estimate, suite, RenderSettings(), CARD, free)
    need = require_memory(estimate, suite, RenderSettings(vae_tiling=True), CARD, free)
    assert need.in_turns < estimate(suite, RenderSettings()).in_turns - GB
    with pytest.raises(NoMemoryError) as refused:  # two gigabytes hold neither
        require_memory(estimate, suite, RenderSettings(), CARD, FreeMemory(host=64 * GB, device=2 * GB))
    assert "vae_tiling" not in str(refused.value)
