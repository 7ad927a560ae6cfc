"""What all tests share: the device a test runs on, and the mark of those that need a card."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest
from hypothesis import settings

from optimizer.system.cores import wait_without_spinning

wait_without_spinning()  # several tests run at once, and pytest imports this module before any that imports torch

# Cards are often on machines with less than `.[test]`: there `pytest -m cuda` must not stop at an import.
collect_ignore = [] if find_spec("prometheus_client") else ["integration/test_observing.py"]

# A kernel's first use loads it, which takes far longer than it runs, and other work on the machine delays any test.
# What hangs meets pytest's own time limit. Here, before the tests are imported: settings of their own are made then.
settings.register_profile("mergetune", deadline=None)
settings.load_profile("mergetune")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("cuda")]
    if not marked:
        return
    import torch  # late: many tests need none of it

    if torch.cuda.is_available():
        return
    for item in marked:
        item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> Iterator[object]:
    """torch.device: the CPU, and a card where there is one, computing in full float32 as references do."""
    import torch

    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=False):
        yield torch.device(request.param)
