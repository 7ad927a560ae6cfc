"""Benchmark of OMP_WAIT_POLICY=PASSIVE (waiting without spinning): its gain on shared cores and its cost on idle ones.

    python benchmarks/cores.py [--rounds 5] [--seconds 3] [--threads 2]

It times convolutions with OpenMP's usual policy, with PASSIVE, and with one thread: alone, and beside a process that
keeps one core busy. Each case runs in its own process for --seconds, once in every round. It prints the median
milliseconds of a convolution, their ratio to the usual policy in the same situation, and the machine's load.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from optimizer.system.cores import WAIT_POLICY

CHANNELS, SIDE = 128, 32  # as a middle block of SD1.5's U-Net, with fewer channels
USUAL, PASSIVE, ONE_THREAD = "usual policy", "PASSIVE", "one thread"


def convolve(seconds: float) -> float:
    """Convolve for some seconds; returns the mean milliseconds of one convolution."""
    import torch  # late, because it reads the policy when it is imported
    from torch.nn import functional as F

    image, kernel = torch.randn(1, CHANNELS, SIDE, SIDE), torch.randn(CHANNELS, CHANNELS, 3, 3)
    F.conv2d(image, kernel, padding=1)  # creates threads and buffers
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        F.conv2d(image, kernel, padding=1)
        count += 1
    return 1000 * elapsed / count


def measure(case: str, threads: int, seconds: float) -> float:
    """Measure the milliseconds of one convolution in a new process."""
    environment = {name: value for name, value in os.environ.items() if name != WAIT_POLICY}
    environment["OMP_NUM_THREADS"] = str(1 if case == ONE_THREAD else threads)
    if case == PASSIVE:
        environment[WAIT_POLICY] = "PASSIVE"
    process = subprocess.run(
        [sys.executable, __file__, "--convolve", str(seconds)],
        env=environment, check=True, capture_output=True, text=True, timeout=60 + 20 * seconds,
    )  # fmt: skip
    return float(process.stdout)


def _spin() -> None:
    while True:
        pass


@contextmanager
def busy_process(wanted: bool) -> Iterator[None]:
    """Keep one core busy with another process while the block runs, if it is wanted."""
    if not wanted:
        yield
        return
    process = multiprocessing.get_context("spawn").Process(target=_spin, daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--convolve", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.convolve is not None:
        print(convolve(options.convolve))
        return
    cases = [(busy, case) for busy in (False, True) for case in (USUAL, PASSIVE, ONE_THREAD)]
    times: dict[tuple[bool, str], list[float]] = {case: [] for case in cases}
    load = os.getloadavg()[0]
    for _ in range(options.rounds):
        for busy, case in cases:
            with busy_process(busy):
                times[busy, case].append(measure(case, options.threads, options.seconds))
    print(f"{os.cpu_count()} cores, {options.threads} threads; load before {load:.1f}, after {os.getloadavg()[0]:.1f}")
    for (busy, case), milliseconds in times.items():
        median, usual = statistics.median(milliseconds), statistics.median(times[busy, USUAL])
        spread = f"{min(milliseconds):.2f} to {max(milliseconds):.2f}"
        where = "beside a busy process" if busy else "alone"
        print(f"{where:22} {case:13} {median:8.2f} ms ({spread}), {median / usual:.2f} of the usual policy")


if __name__ == "__main__":
    main()
