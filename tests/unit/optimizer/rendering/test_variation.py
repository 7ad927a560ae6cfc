"""Whether a machine repeats itself."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from live import resident_of
from small_files import small_parents
from torch import Tensor, nn

from optimizer.errors import NoMemoryError
from optimizer.rendering.models import LiveModels, build_models
from optimizer.rendering.render import Renderer
from optimizer.rendering.variation import first_item, grey_levels, render_variation
from search_spaces.blocks import Architecture
from studies.spec.suite import SuiteSettings

# diffusers calls np.array on a tensor; torch's __array__ has no `copy` yet.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

SUITE = SuiteSettings.model_validate(
    {
        "prompts": [{"prompt": "a bird", "negative": "blurry", "seeds": (3, 4), "sizes": (128, 64)}, "a red apple"],
        "seeds": (1, 2),
        "sizes": (64,),
        "steps": 2,
        "sampler": "ddim_comfyui",
    }
)


@pytest.fixture(scope="module")
def models() -> LiveModels:
    return build_models(resident_of(small_parents(Architecture.SD15)[:1]))


@contextmanager
def changed(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """What a decoder's or encoder's first convolution gives is changed on the way."""

    def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        return change(output)

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def test_the_first_item_is_all_that_is_rendered() -> None:
    (item,) = first_item(SUITE).items()
    assert item == SUITE.items()[0]
    assert first_item(SUITE).steps == SUITE.steps


def test_a_cpu_repeats_itself(models: LiveModels) -> None:
    assert render_variation(Renderer(models, SUITE)) == 0


def test_a_machine_that_does_not_is_measured_by_its_two_renders(models: LiveModels) -> None:
    renders: Iterator[int] = itertools.count()
    with changed(models.vae.decoder.conv_in, lambda output: output + next(renders)):
        assert 0 < render_variation(Renderer(models, SUITE)) <= 255
    assert next(renders) == 2


def test_a_text_encoder_that_does_not_is_found_out_too(models: LiveModels) -> None:
    calls: Iterator[int] = itertools.count()
    encoder = models.text_encoders["text_encoder"]
    norm = getattr(encoder, "text_model", encoder).final_layer_norm
    with changed(norm, lambda output: output * (1 + next(calls))):
        assert render_variation(Renderer(models, SUITE)) > 0


def test_no_memory_for_one_image_is_said_as_such(models: LiveModels) -> None:
    def too_much(_: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with (
        changed(models.unet.conv_in, too_much),
        pytest.raises(NoMemoryError, match="denoising a single image of 128x128"),
    ):
        render_variation(Renderer(models, SUITE))


@pytest.mark.parametrize(
    "text", ["CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate`", "not memory"]
)
def test_no_memory_for_the_prompt_is_told_from_other_errors(models: LiveModels, text: str) -> None:
    """Embedding is the first thing that computes after loading."""

    def too_much(_: Tensor) -> Tensor:
        raise RuntimeError(text)

    encoder = models.text_encoders["text_encoder"]
    expected = NoMemoryError if "CUBLAS" in text else RuntimeError
    with (
        changed(getattr(encoder, "text_model", encoder).final_layer_norm, too_much),
        pytest.raises(expected, match=text[:12]),
    ):
        render_variation(Renderer(models, SUITE))


def test_grey_levels_are_a_mean_over_all_values() -> None:
    dark, light = torch.zeros(3, 2, 2, dtype=torch.uint8), torch.zeros(3, 2, 2, dtype=torch.uint8)
    light[0, 0, 0] = 240
    assert grey_levels(dark, light) == grey_levels(light, dark) == 20
