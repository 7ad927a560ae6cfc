"""`mergetune plot` as a user types it, on the demo's checkpoints."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import Call, Outcome
from demo_study import DEMO, SMALL, begin, make_runtime, short_spec, write_spec
from PIL import Image

from optimizer.plot.kept import CellKeys, KeptCells
from optimizer.plot.planning import plan_plot
from optimizer.plot.request import PlotRequest
from optimizer.runtime import fitting
from optimizer.runtime.parent_files import hash_parents
from optimizer.runtime.plan import make_plan
from studies.spec.study import load_spec

QUICK: Mapping[str, Any] = {**SMALL, "study": "quick"}
AXES = ("--x", "text_encoder=0,1", "--y", "cfg=1,7")


@pytest.fixture
def spec(folder: Path) -> Path:
    return write_spec(folder / "quick.yaml", **QUICK)


def rendered(folder: Path, stem: str = "quick-plot") -> dict[str, int]:
    """Return the time of the last change of every rendered picture."""
    return {file.name: file.stat().st_mtime_ns for file in (folder / f"{stem}.cells").glob("*.png")}


def squeezed(outcome: Outcome) -> str:
    return " ".join(outcome.out.split())


def page(folder: Path, stem: str = "quick-plot") -> str:
    return (folder / f"{stem}.html").read_text()


def test_a_plot_is_one_picture_and_one_page_with_scores_and_recipes(folder: Path, call: Call, spec: Path) -> None:
    done = call("plot", spec, *AXES, "--score", code=0)
    assert "4 cells of 1 image to render, 2 merges" in squeezed(done)
    assert "wrote quick-plot.png and quick-plot.html" in squeezed(done)
    with Image.open(folder / "quick-plot.png") as picture:
        assert picture.width > 2 * 128
    text = page(folder)
    assert text.count("data:image/png;base64,") == 4
    assert len(re.findall(r"sharpness \d", text)) == 4
    assert all(heading in text for heading in ("text_encoder 0", "text_encoder 1", "cfg 1", "cfg 7"))
    recipe = re.search(r'data-recipe="([^"]*)"', text)
    assert recipe is not None
    (folder / "cell.yaml").write_text(recipe[1].replace("&#39;", "'").replace("&#34;", '"'))
    assert "weighted_sum" in call("merge", "cell.yaml", "--show", code=0).out


def test_every_cell_shows_its_merge_to_the_bit_whatever_was_live_before(folder: Path, call: Call, spec: Path) -> None:
    call("plot", spec, *AXES, code=0)
    loaded = load_spec(spec)
    plan = make_plan(loaded)
    blueprint = plan.blueprint(hash_parents(plan))
    kept, keys = KeptCells(folder / "quick-plot.cells"), CellKeys(plan.spec, "cpu")
    (table,) = plan_plot(_request(), plan, blueprint, None).tables
    for cell in table.every:
        fresh = make_runtime(loaded.model_copy(update={"suite": cell.suite}), folder)
        (image,) = fresh.evaluator.evaluate(cell.recipe).images
        (found,) = kept.images(keys.of(cell)) or ()
        assert torch.equal(found, image), cell.label


def _request() -> PlotRequest:
    from optimizer.plot.axes import read_axis

    return PlotRequest(kind="plot", x=read_axis(AXES[1], "--x"), y=read_axis(AXES[3], "--y"))


def test_what_is_rendered_already_is_not_rendered_again(folder: Path, call: Call, spec: Path) -> None:
    call("plot", spec, "--x", "OUT*=0,1", code=0)
    before = rendered(folder)
    more = call("plot", spec, "--x", "OUT*=0,0.5,1", "--score", "--force", code=0)
    assert "1 cell of 1 image to render, 1 merge; 2 others rendered before" in squeezed(more)
    assert before.items() <= rendered(folder).items()
    again = call("plot", spec, "--x", "OUT*=0,0.5,1", "--score", "--force", code=0)
    assert "all 3 cells were rendered before" in squeezed(again)
    assert len(re.findall(r"sharpness \d", page(folder))) == 3


@pytest.mark.slow
@pytest.mark.parametrize("change", ["a scorer", "steps", "a parent"])
def test_a_changed_spec_or_parent_does_not_use_what_was_rendered(
    folder: Path, call: Call, spec: Path, change: str
) -> None:
    call("plot", spec, "--x", "OUT*=0,1", code=0)
    changes: dict[str, Any] = dict(QUICK)
    if change == "steps":
        changes["suite"] = {**QUICK["suite"], "steps": 2}
    elif change == "a scorer":
        changes |= {"scorers": {"contrast": None}, "objective": {"contrast": None}}
    else:
        changes["parents"] = [str(DEMO / "foods.safetensors"), str(DEMO / "animals.safetensors")]
    write_spec(spec, **changes)
    done = call("plot", spec, "--x", "OUT*=0,1", "--force", code=0)
    assert "2 cells of 1 image to render, 2 merges" in squeezed(done)
    assert len(rendered(folder)) == 4


@pytest.mark.slow
def test_a_plot_that_is_killed_goes_on_where_it_was(folder: Path, call: Call) -> None:
    suite = {**QUICK["suite"], "steps": 30}
    spec = write_spec(folder / "quick.yaml", **{**QUICK, "suite": suite})
    arguments = ("plot", str(spec), "--x", "M00=0:1:12")
    child = subprocess.Popen(
        [sys.executable, "-m", "optimizer.cli", *arguments], cwd=folder, env=os.environ, stdout=subprocess.DEVNULL
    )
    records, deadline = folder / "quick-plot.cells", time.monotonic() + 240
    while len(list(records.glob("*.json"))) < 3 and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    whole = {record.stem for record in records.glob("*.json")}
    before = {name: time for name, time in rendered(folder).items() if name.rpartition("-")[0] in whole}
    assert 3 <= len(before) < 12
    assert not (folder / "quick-plot.png").exists()
    done = call(*arguments, code=0)
    assert f"{12 - len(before)} cells of 1 image to render" in squeezed(done)
    assert before.items() <= rendered(folder).items()
    assert len(rendered(folder)) == 12
    assert not list(folder.glob("**/*.part")), "what the killed process has left is removed"


@pytest.mark.slow
def test_permutations_have_the_parents_among_them(folder: Path, call: Call, spec: Path) -> None:
    done = call("plot", spec, "--permute", "--images", "1", code=0)
    assert "16 cells of 1 image to render, 16 merges" in squeezed(done)
    text = page(folder, "quick-permutations")
    assert [text.count(f"parent {letter} itself") for letter in "AB"] == [1, 1]
    assert "B A B" in text


@pytest.mark.slow
def test_an_ablation_says_how_far_each_block_is_and_sorts_them(folder: Path, call: Call) -> None:
    scorers = {"clip_score": short_spec()["scorers"]["clip_score"]}
    changes = {**QUICK, "scorers": scorers, "objective": {"clip_score": None}}
    spec = write_spec(folder / "quick.yaml", **changes)
    call("plot", spec, "--ablate", "--images", "1", code=0)
    text = page(folder, "quick-ablation")
    labels = re.findall(r'<p class="below">((?:IN|M|OUT)\d\d|CLIP-L)</p>', text)
    assert labels[:3] == ["CLIP-L", "IN00", "IN01"]
    assert len(labels) == 26
    assert len(re.findall(r"\d levels", text)) == len(re.findall(r"cosine \d\.\d{3}", text)) == 26, "not of the base"
    call("plot", spec, "--ablate", "--images", "1", "--sort", "--force", code=0)
    levels = [float(found) for found in re.findall(r"([\d.]+) levels", page(folder, "quick-ablation"))]
    assert levels == sorted(levels, reverse=True)
    assert levels[0] > 0


@pytest.mark.slow
def test_a_study_is_plotted_from_its_best_or_a_trial(folder: Path, call: Call) -> None:
    study = begin(folder, {**QUICK, "budget": {"trials": 5}})
    study.run()
    best = call("plot", "quick", "--x", "cfg=1,2", "--storage", "study.db", code=0)
    assert "2 cells of 1 image to render, 1 merge" in squeezed(best)
    trial = call("plot", "quick", "--x", "M00=0,1", "--storage", "study.db", "--base", "trial 3", "--force", code=0)
    assert "2 merges" in squeezed(trial)
    refused = call("plot", "quick", "--x", "M00=0,1", "--storage", "study.db", "--base", "trial 99", "--force", code=2)
    assert "no trial 99" in refused.err


@pytest.mark.slow
def test_set_scorers_with_too_few_images_are_left_out_with_a_note(folder: Path, call: Call) -> None:
    changes = {**QUICK, "scorers": {"sharpness": None, "likeness": short_spec()["scorers"]["likeness"]}}
    suite = {**QUICK["suite"], "seeds": list(range(8))}
    spec = write_spec(folder / "quick.yaml", **{**changes, "suite": suite})
    done = call("plot", spec, "--x", "M00=0,1", "--score", code=0)
    assert "likeness is left out: it needs 8 images, a cell has 1; give --images 8" in squeezed(done)
    call("plot", spec, "--x", "M00=0,1", "--score", "--images", "8", "--force", code=0)
    assert len(re.findall(r"@8 \d", page(folder))) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "nothing varies"),
        (("--x", "text_encodr=0:1:5"), "did you mean 'text_encoder'?"),
        (("--x", "text_encoder=50,100"), "did you mean 0.5?"),
        (("--x", "steps=1.5"), "`steps`"),
        (("--x", "sampler=eular"), "'eular'"),
        (("--x", "OUT=0,1", "--y", "OUT03=0,1"), "--x and --y both change OUT03"),
        (("--permute", "--ablate"), "give one of them"),
        (("--permute", "--x", "cfg=1"), "leave out --x"),
        (("--permute", "--base", "A"), "leave out --base"),
        (("--permute", "--z", "M00=0,1"), "no setting of the suite"),
        (("--sort", "--x", "cfg=1"), "--sort is for --ablate"),
        (("--x", "cfg=1", "--images", "3"), "at most 2 images"),
        (("--x", "cfg=1", "--base", "best"), "no trials"),
        (("--x", "cfg=1", "-o", "plot.jpg"), "ends in .png"),
        (("--x", "cfg=1", "-o", "nowhere/plot.png"), "a folder that exists"),
        (("--x", "clip_skip=9"), "clip_skip 9 leaves no layer: the text encoder has 3"),
        (("--x", "seed=1,2", "--images", "9"), "at most"),
        (("--x", "cfg=1", "-o", "/proc/plot.png"), "cannot write into /proc"),
        (("--x", 'prompt="(a lion"', "--y", "cfg=0:1:200", "--z", "M00=0:1:200"), "at most 2,000"),
    ],
)
def test_what_cannot_be_plotted_is_told_in_one_line(
    folder: Path, call: Call, spec: Path, arguments: tuple[str, ...], said: str
) -> None:
    done = call("plot", spec, *arguments, code=2)
    assert said in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert not list(folder.glob("*.cells"))


def test_an_existing_plot_is_replaced_with_force_only(folder: Path, call: Call, spec: Path) -> None:
    (folder / "quick-plot.html").write_text("mine")
    assert "--force" in call("plot", spec, "--x", "M00=0,1", code=2).err
    assert (folder / "quick-plot.html").read_text() == "mine"


def test_a_source_that_is_neither_a_spec_nor_a_study_is_told(folder: Path, call: Call) -> None:
    assert "no spec at nope.yaml" in call("plot", "nope.yaml", "--x", "cfg=1", code=2).err
    assert "no study database" in call("plot", "nope", "--x", "cfg=1", code=2).err


def test_what_does_not_fit_into_memory_is_refused_before_anything_is_loaded(
    folder: Path, call: Call, spec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "available_host_bytes", lambda: 600_000_000)
    done = call("plot", spec, "--x", "size=64x64,2048x2048", code=2)
    assert "not enough memory" in done.err
    assert not list(folder.glob("*.cells"))


@pytest.mark.slow
def test_slips_are_told_before_torch_is_imported(folder: Path, spec: Path) -> None:
    program = (
        "import sys; from optimizer.cli import main; sys.argv = ['mergetune', 'plot', *sys.argv[1:]]\n"
        "try: main.run()\n"
        "except SystemExit as ended: sys.exit(9 if 'torch' in sys.modules else ended.code)"
    )
    for arguments in (("nope.yaml", "--x", "cfg=1"), (str(spec), "--x", "cfg=high"), (str(spec), "--x", "prompt=7")):
        done = subprocess.run([sys.executable, "-c", program, *arguments], cwd=folder, check=False, capture_output=True)
        assert done.returncode == 2, (arguments, done.stderr)
