"""Random numbers by key and index: the published words, the same bits on every device, uniform and independent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any
from weakref import finalize

import numpy as np
import pytest
import torch
from fake_card import CARD, FakeCard, registered_worker
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from optimizer.merging.engine import philox
from optimizer.merging.engine.flat import _draws
from optimizer.merging.engine.philox import (
    BITS,
    CPU_PIECE,
    CPU_SHARE,
    GPU_CHUNK,
    PER_BLOCK,
    SENT,
    TEMPORARY_BYTES,
    Key,
    uniform,
)
from studies.recipe.recipe import Operation

CPU = torch.device("cpu")
ONES = 2**64 - 1

# The lines `philox4x64 10` of tests/kat_vectors of Random123, D. E. Shaw Research: counter, key, words.
KNOWN = [
    (
        "0000000000000000 0000000000000000 0000000000000000 0000000000000000",
        "0000000000000000 0000000000000000",
        "16554d9eca36314c db20fe9d672d0fdc d7e772cee186176b 7e68b68aec7ba23b",
    ),
    (
        "ffffffffffffffff ffffffffffffffff ffffffffffffffff ffffffffffffffff",
        "ffffffffffffffff ffffffffffffffff",
        "87b092c3013fe90b 438c3c67be8d0224 9cc7d7c69cd777b6 a09caebf594f0ba0",
    ),
    (
        "243f6a8885a308d3 13198a2e03707344 a4093822299f31d0 082efa98ec4e6c89",
        "452821e638d01377 be5466cf34e90c6c",
        "a528f45403e61d95 38c72dbd566e9788 a5a1610e72fd18b5 57bd43b5e52b7fe6",
    ),
]
keys = st.tuples(st.integers(0, ONES), st.integers(0, ONES))


def words_of(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def as_int64(words: Sequence[int]) -> Tensor:
    return torch.from_numpy(np.array(words, dtype=np.uint64).view(np.int64))


class TestWords:
    @pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
    def test_are_those_that_its_authors_published(
        self, counter: str, key: str, words: str, device: torch.device
    ) -> None:
        first, second = words_of(key)
        found = philox.philox(as_int64(words_of(counter)).view(4, 1).to(device), (first, second))
        assert torch.equal(found.cpu().flatten(), as_int64(words_of(words)))

    @given(key=keys, counter=st.integers(0, 2**256 - 1))
    @example(key=(0, ONES), counter=2**63 - 1)
    @example(key=(2**63, 1), counter=2**256 - 2)  # the next is 0
    def test_are_numpys_for_every_key_and_counter(self, key: Key, counter: int) -> None:
        numpys = np.random.Philox(key=np.array(key, dtype=np.uint64), counter=counter).random_raw(8)
        nexts = [(counter + step) % 2**256 for step in (1, 2)]
        columns = [as_int64([value >> 64 * word & ONES for word in range(4)]) for value in nexts]
        found = philox.philox(torch.stack(columns, dim=1), key)
        assert torch.equal(found.T.flatten(), as_int64(numpys.tolist()))


COUNTS = [1, 7, 8, 9, SENT, SENT + 1, CPU_PIECE + 3, 2 * CPU_SHARE, 3 * CPU_SHARE + 5]


class TestNumbers:
    @pytest.mark.parametrize("count", COUNTS)
    @pytest.mark.parametrize("key", [(0, 0), (5, ONES)])
    def test_are_the_same_on_every_device_and_are_the_words_low_halves_first(
        self, key: Key, count: int, device: torch.device
    ) -> None:
        words = np.random.Philox(key=np.array(key, dtype=np.uint64), counter=0).random_raw(count // 2 + 1)
        expected = (words.astype("<u8").view("<u4")[:count] & 0xFFFFFF) / 2**24
        found = uniform(key, count, device)
        assert (found.dtype, found.device.type) == (torch.float32, device.type)
        assert np.array_equal(found.cpu().numpy(), expected)
        assert np.array_equal(philox._from_torch(key, count, device).cpu().numpy(), expected)

    @given(key=keys, count=st.integers(1, 100), chunk=st.integers(1, 5))
    def test_do_not_depend_on_chunks(self, key: Key, count: int, chunk: int) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(philox, "GPU_CHUNK", chunk)
            patch.setattr(philox, "CPU_PIECE", PER_BLOCK * chunk)
            assert torch.equal(philox._from_torch(key, count, CPU), uniform(key, count, CPU))
        assert torch.equal(uniform(key, count, CPU), uniform(key, 1000, CPU)[:count])

    @settings(max_examples=20)
    @given(key=keys, count=st.integers(0, 200), threads=st.integers(2, 5))
    def test_do_not_depend_on_threads(self, key: Key, count: int, threads: int) -> None:
        alone, before = uniform(key, count, CPU), torch.get_num_threads()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(philox, "CPU_SHARE", 8)
            torch.set_num_threads(threads)
            try:
                assert torch.equal(uniform(key, count, CPU), alone)
            finally:
                torch.set_num_threads(before)

    def test_may_be_none_at_all(self, device: torch.device) -> None:
        found = uniform((1, 2), 0, device)
        assert (found.shape, found.device.type) == ((0,), device.type)

    @pytest.mark.parametrize("count", [SENT, SENT + 1])
    def test_are_made_for_a_card_without_waiting_for_it(self, count: int) -> None:
        with registered_worker(FakeCard()) as card:
            found = uniform((1, 2), count, CARD)
        assert (found.device, found.dtype, found.shape) == (CARD, torch.float32, (count,))
        assert not card.waits


# ----------------------------------------------------------------------------------------- statistics

MANY = 1 << 18
BINS = 16
RARE = 1e-6  # a p-value below this in one of some dozens of fixed tests is no accident


def chances(one: Tensor, other: Tensor) -> dict[str, float]:
    """p-values of two samples: that the first is uniform, bit by bit too, and that they are independent."""
    codes = (one * 2**BITS).long().numpy()
    joint = torch.histc((one * BINS).floor() * BINS + (other * BINS).floor(), BINS * BINS, 0, BINS * BINS).numpy()
    ones = [(codes >> bit & 1).sum() for bit in range(BITS)]
    bits = sum((2 * (count - len(codes) / 2)) ** 2 / len(codes) for count in ones)
    correlation = np.corrcoef(one.numpy(), other.numpy())[0, 1]
    return {
        "values": float(stats.kstest(one.numpy(), "uniform").pvalue),
        "bits": float(stats.chi2.sf(bits, BITS)),
        "pairs": float(stats.chisquare(joint).pvalue),
        "correlation": float(2 * stats.norm.sf(abs(correlation) * np.sqrt(len(codes)))),
    }


def neighbours() -> list[Tensor]:
    """The draws of merges whose keys differ as little as keys of merges can."""
    inputs = [torch.zeros(MANY)] * 3
    one, other = (Operation(method="dare_linear", inputs=("A", "B", "C"), seed=seed) for seed in (0, 1))
    return [
        *_draws(one, inputs, "k#result-1"),
        *_draws(other, inputs, "k#result-1"),
        *_draws(one, inputs, "l#result-1"),
    ]


def test_draws_are_uniform_and_those_of_tensors_inputs_and_seeds_independent() -> None:
    for one, other in combinations(neighbours(), 2):
        found = chances(one, other)
        assert min(found.values()) > RARE, found


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 8, 640, 4096])
def test_draws_of_one_tensor_are_independent_of_those_before(lag: int) -> None:
    numbers = uniform((1, 0), MANY + lag, CPU)
    found = chances(numbers[lag:], numbers[:-lag])
    assert min(found.values()) > RARE, found


@pytest.mark.parametrize(("first", "second"), [((0, 0), (1, 0)), ((0, 0), (0, 1)), ((0, 1), (1, 0))])
def test_keys_that_differ_in_one_bit_give_independent_numbers(first: Key, second: Key) -> None:
    found = chances(uniform(first, MANY, CPU), uniform(second, MANY, CPU))
    assert min(found.values()) > RARE, found


FAULTS: dict[str, tuple[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]]] = {
    "one key for two tensors": ("correlation", lambda one, _: (one, one)),
    "mirrored": ("correlation", lambda one, _: (one, 1 - 2.0**-BITS - one)),
    "the same numbers for one element in 100": ("pairs", lambda one, two: (one, mixed(one, two, 100))),
    "a bit that is stuck": ("bits", lambda one, two: ((one * 2**BITS).long().bitwise_or(8) / 2.0**BITS, two)),
    "halves of 23 bits": ("bits", lambda one, two: ((one * 2**BITS).long().bitwise_and(~1) / 2.0**BITS, two)),
    "a scale that is off by one percent": ("values", lambda one, two: (one * 0.99, two)),
    "dependence without correlation": ("pairs", lambda one, _: (one, (2 * one - 1).abs())),
}


def mixed(one: Tensor, other: Tensor, period: int) -> Tensor:
    result = other.clone()
    result[::period] = one[::period]
    return result


@pytest.mark.parametrize("fault", FAULTS)
def test_a_generator_that_is_not_uniform_or_not_independent_is_found(fault: str) -> None:
    shows_in, spoilt = FAULTS[fault]
    one, other = spoilt(uniform((1, 2), MANY, CPU), uniform((3, 4), MANY, CPU))
    assert chances(one.float(), other.float())[shows_in] < RARE


class HeldBytes(TorchDispatchMode):
    """The most bytes that tensors made under this mode held at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak, self._held = 0, dict[int, int]()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            storage = tensor.untyped_storage()
            if storage.data_ptr() and storage.data_ptr() not in self._held:
                self._held[storage.data_ptr()] = storage.nbytes()
                finalize(storage, self._held.pop, storage.data_ptr())
        self.peak = max(self.peak, sum(self._held.values()))
        return made


@pytest.mark.parametrize("chunks", [1, 3])
def test_the_temporaries_of_a_draw_are_what_is_set_aside_for_them(chunks: int) -> None:
    with HeldBytes() as held:
        made = philox._from_torch((1, 2), chunks * GPU_CHUNK * PER_BLOCK, torch.device("cpu"))
    assert 0.98 * TEMPORARY_BYTES <= held.peak - made.nbytes <= 1.001 * TEMPORARY_BYTES  # the key's constants are apart
