"""Philox4x64-10: random numbers by key and index, the same bits on every device.

Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011. It is a bijection of a counter of four 64-bit
words under a key of two: no state is carried from one block to the next, so a number follows from its key and its index
alone, whatever device, chunk or thread computes it.

    x_0 .. x_3   the words of a block, at first its counter
    M_0, M_1     multipliers of x_0 and x_2
    k_0, k_1     the key, which grows by W_0, W_1 after each of the ten rounds
    a round      x_0, x_1, x_2, x_3 = high(x_2 M_1) ^ x_1 ^ k_0, low(x_2 M_1), high(x_0 M_0) ^ x_3 ^ k_1, low(x_0 M_0)

high and low are the halves of a product of 128 bits. On a CPU, numpy computes the words in C; elsewhere operations of
torch do. Torch's words are int64: the same bits as numpy's uint64, as sums and products wrap.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

Key = tuple[int, int]  # two words, 0 to 2**64 - 1

ROUNDS = 10
MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)  # the golden ratio, and the square root of 3 less 1
LOW = 0xFFFFFFFF

PER_BLOCK = 8  # float32 numbers: two from each word, its lower half first
BITS = 24  # of a number, as many as a float32 below 1 can have in equal steps

CPU_PIECE = 1 << 15  # elements: in the cache, and too few for torch to split them among threads of its own
CPU_SHARE = 1 << 18  # elements worth a thread
GPU_CHUNK = 1 << 19  # blocks computed at a time
TEMPORARY_BYTES = 22 * 8 * GPU_CHUNK  # 88 MiB beside the numbers: up to 22 words for each block, with its counter
# Elements. A GPU would need hundreds of kernels for so few, and the host does not wait while it sends 64 KiB or less:
# https://docs.nvidia.com/cuda/cuda-runtime-api/api-sync-behavior.html
SENT = (64 << 10) // 4


def uniform(key: Key, count: int, device: torch.device) -> Tensor:
    """Return float32 numbers [count], uniform in [0, 1) in steps of 2**-24; the host does not wait for the device."""
    if not count:
        return torch.empty(0, device=device)
    if device.type == "cpu":
        return _from_numpy(key, count)
    if count <= SENT:
        return _from_numpy(key, count).to(device, non_blocking=True)
    return _from_torch(key, count, device)


def _from_numpy(key: Key, count: int) -> Tensor:
    """Return the numbers [count], computed on the CPU by as many threads as torch uses."""
    made = torch.empty(count)
    threads = max(1, min(torch.get_num_threads(), count // CPU_SHARE))
    share = -(-count // (threads * PER_BLOCK)) * PER_BLOCK
    if threads == 1:
        _fill(made, key, 0)
        return made
    with ThreadPoolExecutor(threads) as pool:
        for filled in [
            pool.submit(_fill, part, key, index * share) for index, part in enumerate(torch.split(made, share))
        ]:
            filled.result()
    return made


def _fill(out: Tensor, key: Key, start: int) -> None:
    """Fill `out` with the numbers from index `start` on, which begins a block."""
    # Numpy counts before it computes, so its first block has the counter 1. So does ours.
    generator = np.random.Philox(key=np.array(key, dtype=np.uint64), counter=start // PER_BLOCK)
    for piece in torch.split(out, CPU_PIECE):
        words = torch.from_numpy(generator.random_raw(-(-piece.numel() // 2)).view(np.int64))
        _to_floats(words, piece)


def _from_torch(key: Key, count: int, device: torch.device) -> Tensor:
    """Return the numbers [count], computed chunk by chunk with torch on any device."""
    made = torch.empty(count, device=device)
    table = _constants(key).to(device, non_blocking=True)
    for index, part in enumerate(torch.split(made, GPU_CHUNK * PER_BLOCK)):
        first, blocks = 1 + index * GPU_CHUNK, -(-part.numel() // PER_BLOCK)
        counter = torch.zeros((4, blocks), dtype=torch.int64, device=device)
        torch.arange(first, first + blocks, out=counter[0])
        _to_floats(_rounds(counter, table).T.flatten(), part)
    return made


def _to_floats(words: Tensor, out: Tensor) -> None:
    """Write two numbers for each word, int64 [ceil(n/2)], to `out`, float32 [n]. The words may be overwritten."""
    halves = words.view(torch.int32)[: out.numel()]
    torch.mul(halves.bitwise_and_((1 << BITS) - 1), 2.0**-BITS, out=out)


def philox(counter: Tensor, key: Key) -> Tensor:
    """Return the words [4, n], int64, of the blocks with these counters, int64 [4, n]."""
    return _rounds(counter, _constants(key).to(counter.device, non_blocking=True))


def _constants(key: Key) -> Tensor:
    """Return what the rounds need, int64 [3 + ROUNDS, 2, 1]: low halves, high halves, multipliers, keys of the rounds.

    Each has two rows, one for each product of a round; multipliers have M_1 first.
    """
    multipliers = MULTIPLIERS[::-1]
    rows = [[m & LOW for m in multipliers], [m >> 32 for m in multipliers], multipliers]
    rows += [[word + number * step for word, step in zip(key, WEYL, strict=True)] for number in range(ROUNDS)]
    return torch.tensor([[_signed(value) for value in row] for row in rows]).unsqueeze(-1)


def _signed(value: int) -> int:
    """Return the int64 with the low 64 bits of a number."""
    low = value & (1 << 64) - 1
    return low - (1 << 64 if low >> 63 else 0)


def _rounds(counter: Tensor, table: Tensor) -> Tensor:
    """Return the words [4, n] of the counters [4, n] with the constants of a key."""
    low_halves, high_halves, multipliers, *keys = table
    even, odd = counter[0::2], counter[1::2]  # x_0, x_2 and x_1, x_3
    for key in keys:
        swapped = even.flip(0)
        even = _high_product(swapped, low_halves, high_halves).bitwise_xor_(odd).bitwise_xor_(key)
        odd = swapped.mul_(multipliers)
    return torch.stack((even, odd), dim=1).view(4, -1)


def _high_product(words: Tensor, low_halves: Tensor, high_halves: Tensor) -> Tensor:
    """Return the high 64 bits of the products of 128, unsigned, of words [2, n] and multipliers in halves [2, 1]."""
    low, high = words & LOW, _high_half(words)
    # None of these sums exceeds 64 bits: (2**32 - 1)**2 + 2 (2**32 - 1) = 2**64 - 1.
    middle = torch.addcmul(_high_half(low * low_halves), high, low_halves)
    other = torch.addcmul(middle & LOW, low, high_halves)
    return torch.addcmul(_high_half(middle), high, high_halves).add_(_high_half(other))


def _high_half(words: Tensor) -> Tensor:
    """Return the upper 32 bits, unsigned, which a shift alone would fill with the sign."""
    return (words >> 32).bitwise_and_(LOW)
