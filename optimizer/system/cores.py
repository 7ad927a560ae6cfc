"""How torch's threads wait for each other on a machine that does other work as well. No torch."""

from __future__ import annotations

import os

WAIT_POLICY = "OMP_WAIT_POLICY"


def wait_without_spinning() -> None:
    """Let OpenMP's threads sleep while they wait for each other, unless the user has chosen another policy.

    By default they spin, and where cores are shared they spin on the core of the thread that they wait for: see
    benchmarks/cores.py. OpenMP reads the policy once, as it is loaded, so this comes before the first import of torch.
    """
    os.environ.setdefault(WAIT_POLICY, "PASSIVE")
