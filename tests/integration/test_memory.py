"""What a study needs of memory: the estimate against real loads and renders, and the refusal of what does not fit."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from checkpoints import write_checkpoint
from demo_study import short_spec
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from optimizer.errors import NoMemoryError
from optimizer.merging.engine.ingredients import Ingredients
from optimizer.merging.files.checkpoint import Checkpoint
from optimizer.merging.files.parents import Parents
from optimizer.merging.lora.file import Lora
from optimizer.rendering.models import live_dtypes
from optimizer.rendering.render import decoded_at_once
from optimizer.runtime.fitting import FreeMemory, require_memory
from optimizer.runtime.memory import MemoryEstimate, estimate_memory
from optimizer.runtime.plan import make_plan
from optimizer.system.host_memory import available_host_bytes, cgroup_room
from studies.spec.rendering import RenderSettings
from studies.spec.study import parse_spec
from studies.spec.suite import SuitePrompt, SuiteSettings

GB = 10**9
CPU = torch.device("cpu")
MEASURE = """
import json, os, resource, sys, threading, time
from pathlib import Path
import psutil, torch
from optimizer.errors import NoMemoryError
from optimizer.runtime.device_choice import choose_device
from optimizer.runtime.plan import make_plan
from optimizer.runtime.setup import build_renderer
from studies.spec.study import parse_spec

def anonymous():
    return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) * 1024

def measure(file):
    peak = 0

    def watch():
        nonlocal peak
        while True:
            peak = max(peak, anonymous())
            time.sleep(0.002)

    plan = make_plan(parse_spec(Path(file).read_text(), base_dir=Path("/")))
    before = anonymous()
    threading.Thread(target=watch, daemon=True).start()
    cpu = choose_device("cpu")
    resident, renderer = build_renderer(plan.ingredients, plan.spec.suite, plan.spec.render, cpu, None)
    held = anonymous()
    with torch.inference_mode():
        renderer.render()
    print(json.dumps({"held": held - before, "peak": peak - before}), flush=True)

def refused(file):
    "What is said under a limit that leaves 0.65 GB, and how much was taken by then."
    plan = make_plan(parse_spec(Path(file).read_text(), base_dir=Path("/")))
    limit = psutil.Process().memory_info().vms + 650_000_000
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    before = anonymous()
    try:
        build_renderer(plan.ingredients, plan.spec.suite, plan.spec.render, choose_device("cpu"), None)
    except NoMemoryError as error:
        print(json.dumps({"said": str(error), "taken": anonymous() - before}), flush=True)

torch.set_num_threads(1)
*small, large = sys.argv[1:]
if not os.fork():
    refused(large)
    os._exit(0)
os.wait()
for file in small:
    if not os.fork():
        measure(file)  # in a process that has held nothing yet
        os._exit(0)
    os.wait()
"""


def need_of(spec: dict[str, object], device: torch.device = CPU) -> MemoryEstimate:
    plan = make_plan(parse_spec(yaml.safe_dump(spec), base_dir=Path("/")))
    dtypes = live_dtypes(device, torch.float32)
    settings = plan.spec.render
    return estimate_memory(plan.ingredients, plan.spec.suite, device, dtypes, batch_size=settings.batch_size)


def rendering(folder: Path, name: str, size: int, images: int, parents: list[Path] | None = None) -> Path:
    """A spec file for images of one step."""
    spec = short_spec(objective={"clip_score": None})
    del spec["scorers"]["likeness"]  # wants more images
    spec["suite"] |= {"prompts": [f"picture {index}" for index in range(images)], "sizes": [[size, size]], "steps": 1}
    if parents is not None:
        spec["parents"] = list(map(str, parents))
    file = folder / name
    file.write_text(yaml.safe_dump(spec))
    return file


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells what a process holds")
def test_the_estimate_is_near_what_processes_really_hold_and_one_that_cannot_is_refused_first(tmp_path: Path) -> None:
    """Within a quarter (and 30 MB) of what is held at rest; not below the peak, and at most half above it."""
    shrunken = [write_checkpoint(tmp_path / f"{seed}.safetensors", seed=seed) for seed in (0, 1)]
    specs = [rendering(tmp_path, "demo.yaml", 192, 4), rendering(tmp_path, "other.yaml", 256, 2, shrunken)]
    large = rendering(tmp_path, "large.yaml", 512, 8)
    command = [sys.executable, "-c", MEASURE, *map(str, (*specs, large))]
    first, *lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    refusal = json.loads(first)
    asked = need_of(yaml.safe_load(large.read_text()))
    assert f"about {asked.host_bytes / 1e9:.2f} GB needed for the model and 8 images at once" in refusal["said"]
    free = re.search(r"([0-9.]+) GB free; write `batch_size: ([1-7])` under `render`", refusal["said"])
    assert free, refusal["said"]
    assert 0.5 < float(free[1]) <= 0.65
    assert refusal["taken"] < 20e6
    for spec, line in zip(specs, lines, strict=True):
        measured, need = json.loads(line), need_of(yaml.safe_load(spec.read_text()))
        assert measured["held"] == pytest.approx(need.live + need.sources, rel=0.25, abs=30e6)
        assert measured["peak"] <= need.host_bytes + need.sources
        assert need.live + need.sources + need.working[-1] <= 1.5 * measured["peak"]


def made(*working: int, on_host: bool = True) -> MemoryEstimate:
    return MemoryEstimate(
        live=1000, in_turns=1000 + working[0], sources=500, working=working, recorded=0, images=100, on_host=on_host
    )


def required(need: MemoryEstimate, device: torch.device, *, host: int, card: int | None = None) -> None:
    """Require what is needed for one image of the smallest size, so that no smaller one can be advised."""
    suite = SuiteSettings(prompts=(SuitePrompt(prompt="a cat"),), sizes=((64, 64),))
    require_memory(lambda *_: need, suite, RenderSettings(), device, FreeMemory(host=host, device=card))


@given(free=st.integers(0, 2 * GB), working=st.lists(st.integers(1, 2 * GB), min_size=1, max_size=64).map(sorted))
def test_what_is_advised_fits_and_what_fits_is_not_refused(free: int, working: list[int]) -> None:
    need = made(*working)
    fitting = need.fitting_batch(free)
    assert not fitting or made(*working[:fitting]).host_bytes <= free
    assert fitting == len(working) or made(*working[: fitting + 1]).host_bytes > free
    if fitting == len(working):
        required(need, CPU, host=free)
    else:
        with pytest.raises(NoMemoryError, match="GB needed for the model and"):
            required(need, CPU, host=free)


def test_a_card_must_hold_the_model_and_one_image_and_the_host_only_the_pictures() -> None:
    cuda, need = torch.device("cuda"), made(10, 80, on_host=False)
    required(need, cuda, host=GB, card=1010)
    with pytest.raises(NoMemoryError, match="not enough memory on cuda"):
        required(need, cuda, host=GB, card=1009)
    with pytest.raises(
        NoMemoryError, match=r"0\.00 GB free; no smaller batch or image would fit; or render fewer images"
    ):
        required(need, cuda, host=1000, card=GB)


def test_the_suites_largest_batch_counts() -> None:
    def asked(sizes: list[list[int]], **changes: object) -> MemoryEstimate:
        spec = short_spec(render={"degenerate_limit": 8, **changes})
        spec["suite"] |= {"sizes": sizes}
        return need_of(spec)

    small, large, both = asked([[256, 256]]), asked([[512, 512]]), asked([[256, 256], [512, 512]])
    assert both.working == large.working
    assert both.images == small.images + large.images
    assert large.working[0] == 4 * small.working[0]
    assert asked([[512, 512]], batch_size=1).working == large.working[:1]
    assert large.working == tuple(sorted(large.working))
    assert large.working[0] < large.working[-1]


def test_a_card_decodes_an_image_of_a_megapixel_at_once_or_as_many_smaller_ones() -> None:
    """Its estimate follows: a second image adds nothing to what one of 1024 pixels takes in the autoencoder."""
    cuda = torch.device("cuda")
    sizes = [(2048, 1024), (1024, 1024), (1024, 512), (512, 512)]
    assert [decoded_at_once(*size, cuda) for size in sizes] == [1, 1, 2, 4]
    assert [decoded_at_once(*size, CPU) for size in sizes] == [1, 1, 1, 1]
    spec = short_spec(objective={"clip_score": None})
    spec["suite"] |= {"sizes": [[1024, 1024]]}
    one, two = need_of(spec, cuda).working
    assert one == two


def test_the_factors_of_loras_count_where_they_are_copied_to(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path / "a.safetensors", seed=0))
    layer = "text_model.encoder.layers.0.self_attn.q_proj"
    rows, columns = checkpoint.tensors[f"cond_stage_model.transformer.{layer}.weight"].shape
    name, rank = f"lora_te_{layer.replace('.', '_')}", 4
    factors = {"up": torch.ones(rows, rank).half(), "down": torch.ones(rank, columns).half()}
    save_file({f"{name}.lora_{key}.weight": value for key, value in factors.items()}, tmp_path / "lora.safetensors")
    parents, lora = Parents.of([checkpoint]), Lora.open(tmp_path / "lora.safetensors")
    suite = parse_spec(yaml.safe_dump(short_spec()), base_dir=tmp_path).suite

    def live(device: torch.device, *loras: Lora) -> int:
        dtypes = live_dtypes(device, torch.float32)
        return estimate_memory(Ingredients(parents, loras), suite, device, dtypes).live

    cuda = torch.device("cuda")
    assert live(cuda, lora) - live(cuda) == (rows + columns) * rank * 4  # float32
    assert live(CPU, lora) == live(CPU)  # which holds them since they were opened


class TestContainers:
    """The room that control groups leave, in files as the kernel writes them."""

    @staticmethod
    def group(folder: Path, limit: str, usage: int, **stat: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        second = any(name.startswith("total_") for name in stat)
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if second else ("memory.max", "memory.current")
        for name, value in zip(names, (limit, usage), strict=True):
            (folder / name).write_text(f"{value}\n")
        (folder / "memory.stat").write_text("".join(f"{name} {value}\n" for name, value in stat.items()))

    def room(self, folder: Path, text: str) -> int | None:
        listing = folder / "listing"
        listing.write_text(text)
        return cgroup_room(listing, folder / "mount")

    def test_the_tightest_level_counts_and_file_pages_are_free(self, tmp_path: Path) -> None:
        mount = tmp_path / "mount"
        self.group(mount / "a", "1000", 700, anon=400, active_file=100, inactive_file=150)
        self.group(mount / "a" / "b", "max", 600, anon=400, active_file=1, inactive_file=1)
        assert self.room(tmp_path, "0::/a/b\n") == 1000 - 700 + 250
        self.group(mount / "a" / "b", "500", 450, anon=400, active_file=1, inactive_file=1)
        assert self.room(tmp_path, "0::/a/b\n") == 52

    def test_the_first_version_names_its_controller_and_a_container_sees_its_own_as_the_root(
        self, tmp_path: Path
    ) -> None:
        self.group(tmp_path / "mount/memory", "800", 500, active_file=999, total_active_file=20, total_inactive_file=30)
        text = "5:cpu,cpuacct:/\n4:memory:/docker/0123\n0::/\n"
        assert self.room(tmp_path, text) == 350
        self.group(tmp_path / "mount/memory", str(2**63 - 4096), 500, total_active_file=20)
        assert self.room(tmp_path, text) is None

    def test_without_groups_there_is_no_limit(self, tmp_path: Path) -> None:
        assert cgroup_room(tmp_path / "missing", tmp_path) is None
        assert self.room(tmp_path, "0::/\n") is None

    def test_this_machine_has_some_memory_and_no_more_than_there_is(self) -> None:
        assert 0 < available_host_bytes() < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
