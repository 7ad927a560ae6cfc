"""What stays on a card and what takes turns, for SDXL's true shapes on cards that people have."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from layouts import hollow

from optimizer.errors import NoMemoryError
from optimizer.merging.engine.ingredients import Ingredients
from optimizer.merging.files.checkpoint import Checkpoint
from optimizer.merging.files.parents import Parents
from optimizer.rendering.models import live_dtypes
from optimizer.runtime.fitting import FreeMemory, require_memory
from optimizer.runtime.memory import MemoryEstimate, estimate_memory
from optimizer.runtime.residence import Residence, choose_residence
from studies.spec.rendering import RenderSettings
from studies.spec.suite import SuitePrompt, SuiteSettings

CARD = torch.device("cuda")
CONTEXT = 500_000_000  # bytes that CUDA takes for itself
GB = 1_000_000_000
SUITE = SuiteSettings(prompts=(SuitePrompt(prompt="a cat"),), seeds=tuple(range(8)), sizes=((1024, 1024),))


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> MemoryEstimate:
    """Two parents in float16, rendered at 1024 x 1024."""
    folder = tmp_path_factory.mktemp("sdxl")
    parents = [Checkpoint.open(hollow(folder / f"{letter}.safetensors", "sdxl")) for letter in "ab"]
    return estimate_memory(Ingredients(Parents.of(parents)), SUITE, CARD, live_dtypes(CARD, torch.float16))


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        (8, Residence(scorers_in_turns=True, components_in_turns=True)),
        (12, Residence(scorers_in_turns=True, components_in_turns=True)),
        (16, Residence(scorers_in_turns=True)),
        (24, Residence()),
        (80, Residence()),
    ],
)
def test_room_is_made_step_by_step(sdxl: MemoryEstimate, card: int, expected: Residence) -> None:
    assert choose_residence(sdxl, card * GB - CONTEXT) == expected


def test_sdxl_is_accepted_on_eight_gigabytes_and_refused_with_the_figures_on_six(sdxl: MemoryEstimate) -> None:
    def required(card: int) -> None:
        free = FreeMemory(host=64 * GB, device=card * GB - CONTEXT)
        require_memory(lambda *_: sdxl, SUITE, RenderSettings(), CARD, free)

    required(8)
    with pytest.raises(NoMemoryError, match=r"about 6\.\d\d GB needed .* 5\.50 GB free"):
        required(6)


def test_the_largest_turn_is_the_unets(sdxl: MemoryEstimate) -> None:
    """Its 2.57 G parameters in float16, and what one image of 1024 x 1024 takes beside them."""
    assert 5.1 * GB < sdxl.in_turns < 6.6 * GB
    assert sdxl.in_turns < sdxl.live < sdxl.in_turns + 2 * GB


@pytest.mark.parametrize(("card", "recorded"), [(8, False), (12, False), (16, False), (24, True), (80, True)])
def test_kernels_are_recorded_where_that_takes_no_turns(sdxl: MemoryEstimate, card: int, recorded: bool) -> None:
    found = choose_residence(sdxl, card * GB - CONTEXT, cuda_graphs=True)
    assert found.cuda_graphs is recorded
    assert replace(found, cuda_graphs=False) == choose_residence(sdxl, card * GB - CONTEXT)
    assert ("CUDA graphs" in str(found)) is recorded


def test_what_graphs_keep_is_foreseen(sdxl: MemoryEstimate) -> None:
    """On an H100, a step with two images of 1024 x 1024 took 0.7 GB."""
    assert 0.68 * GB < sdxl.recorded < 2.1 * GB


def test_scorers_that_are_loaded_take_no_turns_any_more(sdxl: MemoryEstimate) -> None:
    assert choose_residence(sdxl, 16 * GB - CONTEXT, scorers=False) == Residence()


def test_nobody_takes_turns_on_the_host_or_where_free_memory_cannot_be_told(sdxl: MemoryEstimate) -> None:
    assert choose_residence(sdxl, None) == Residence()
    assert choose_residence(replace(sdxl, on_host=True), 1) == Residence()


def test_each_residence_is_said_in_words() -> None:
    said = {
        str(Residence(scorers_in_turns=one, components_in_turns=other))
        for one, other in ((False, False), (True, False), (True, True))
    }
    assert len(said) == 3
