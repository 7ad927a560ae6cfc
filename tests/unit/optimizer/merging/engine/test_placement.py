"""Where the sources of a merge stay, and that it does not change the merge."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from merge_cases import Case, bits

from optimizer.merging.engine.placement import (
    GIB,
    HOST_SHARE,
    RESERVED,
    Placement,
    _fastest_fit,
    choose_placement,
    device_free,
)
from studies.recipe.recipe import Operation

sizes = st.integers(0, 200 * GIB)


class TestChoice:
    @given(kind=st.sampled_from(["cuda", "cpu", "mps"]), sources=sizes, live=sizes, free=sizes, host=sizes)
    def test_the_device_holds_the_sources_if_everything_fits_and_rendering_has_room(
        self, kind: str, sources: int, live: int, free: int, host: int
    ) -> None:
        left = free - sources - live - RESERVED.get(kind, 0)
        assert (_fastest_fit(kind, sources, live, free, host) is Placement.DEVICE) == (left >= 0)

    @given(sources=sizes, live=sizes, host=sizes)
    def test_beside_a_full_card_host_memory_holds_them_or_else_their_files(
        self, sources: int, live: int, host: int
    ) -> None:
        found = _fastest_fit("cuda", sources, live, 0, host)
        assert found is (Placement.FILES if sources > HOST_SHARE * host else Placement.HOST)

    @given(sources=sizes, live=sizes)
    def test_a_processors_memory_is_the_hosts(self, sources: int, live: int) -> None:
        assert _fastest_fit("cpu", sources, live, 0, 1000 * GIB) is Placement.FILES

    def test_who_cannot_tell_is_taken_to_have_room(self) -> None:
        assert _fastest_fit("mps", GIB, GIB, None, None) is Placement.DEVICE
        assert _fastest_fit("cuda", 10 * GIB, GIB, GIB, None) is Placement.HOST

    def test_the_examples_of_daily_use(self) -> None:
        """Pairs and threes of SDXL (6.9 GB each in half precision)."""
        one = 69 * GIB // 10
        assert _fastest_fit("cuda", 2 * one, one, 139 * GIB, 100 * GIB) is Placement.DEVICE
        assert _fastest_fit("cuda", 3 * one, one, 24 * GIB, 64 * GIB) is Placement.HOST
        assert _fastest_fit("cuda", 3 * one, one, 24 * GIB, 16 * GIB) is Placement.FILES

    def test_a_card_keeps_what_rendering_takes_free(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Two parents of SDXL on a card of 24 GB: decoding decides whether they stay on it."""
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (235 * GIB // 10, 24 * GIB))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: 0)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: 0)
        monkeypatch.setattr("optimizer.merging.engine.placement.available_host_bytes", lambda: 64 * GIB)
        card, sources, live = torch.device("cuda"), 138 * GIB // 10, 7 * GIB
        assert choose_placement(card, sources, live, 25 * GIB // 10) is Placement.DEVICE
        assert choose_placement(card, sources, live, 43 * GIB // 10) is Placement.HOST

    def test_a_processor_keeps_what_rendering_takes_free(self) -> None:
        assert choose_placement(torch.device("cpu"), 1000, 1000, 10**15) is Placement.FILES
        assert choose_placement(torch.device("cpu"), 1000, 1000) is Placement.DEVICE


class TestFree:
    def test_what_a_device_of_another_kind_has_is_not_known(self) -> None:
        assert device_free(torch.device("meta")) is None

    def test_what_torch_keeps_for_its_next_tensors_is_free(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A card of 8 GiB, of which other programs have 2, and this one has taken 4 and uses 1."""
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (2 * GIB, 8 * GIB))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: 4 * GIB)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: GIB)
        assert device_free(torch.device("cuda")) == 5 * GIB


class TestLog:
    def test_a_slower_place_is_told_with_the_sizes_and_the_device(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO):
            chosen = choose_placement(torch.device("cpu"), 10**15, 2_500_000_000)
        assert chosen is Placement.FILES
        (message,) = caplog.messages
        for words in ("1000000.0 GB", "free memory of cpu", "2.5 GB", "in their files"):
            assert words in message

    def test_the_fastest_place_is_not_worth_a_word(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.DEBUG):
            assert choose_placement(torch.device("meta"), 10**15, 0) is Placement.DEVICE
        assert caplog.messages == []


class TestFiles:
    def test_no_source_is_held_and_every_merge_is_the_same(self, tmp_path: Path) -> None:
        chain = (
            Operation(method="rotate", inputs=("A", "B")),
            Operation(method="add_difference", inputs=("result-1", "B", "C"), clip=True),
        )
        case = Case(operations=chain, dtypes=((torch.float16,), (torch.float32,), (torch.bfloat16,)), loras=1)
        files = case.open(tmp_path)
        held, streamed = (case.resident(files, placement) for placement in (Placement.DEVICE, Placement.FILES))
        live = sum(row.nbytes for row in streamed.live_tensors().values())
        assert live <= streamed.nbytes() < held.nbytes() - live / 2
        for seed in range(4):
            recipe = case.recipe(files, seed)
            assert held.merge(recipe) == streamed.merge(recipe)
            for key, row in held.live_tensors().items():
                assert bits(row) == bits(streamed.live_tensors()[key]), key

    def test_small_models_are_held_by_default(self, tmp_path: Path) -> None:
        case = Case()
        model = case.resident(case.open(tmp_path), None)
        assert model.placement is Placement.DEVICE


LIMITED = """
import logging, resource, sys
from pathlib import Path
import psutil, torch
from merge_cases import Case
from optimizer.merging.files.checkpoint import Checkpoint
from optimizer.merging.engine.ingredients import Ingredients
from optimizer.merging.files.parents import Parents
from optimizer.merging.engine.placement import Placement

logging.basicConfig(format="%(message)s")
spare, *paths = sys.argv[1:]
files = Ingredients(Parents.of([Checkpoint.open(Path(path)) for path in paths]))
limit = psutil.Process().memory_info().vms + int(spare)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
print(Case().resident(files, Placement.HOST, torch.float16).placement.name)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux refuses memory beyond a limit")
@pytest.mark.parametrize(("spare", "chosen"), [(130 << 20, Placement.FILES), (1 << 30, Placement.HOST)])
def test_sources_that_the_host_gives_no_memory_for_stay_in_their_files(
    spare: int, chosen: Placement, tmp_path: Path
) -> None:
    """In a process that may take so many bytes more: two parents have 64 MiB each, the rest of it takes 72."""
    case = Case(added=(1 << 25,))
    case.open(tmp_path)
    command = [sys.executable, "-c", LIMITED, str(spare), *(str(tmp_path / f"{index}.safetensors") for index in (0, 1))]
    here = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": here}, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == chosen.name
    assert ("cannot allocate 0.1 GB" in done.stderr) == (chosen is Placement.FILES)
