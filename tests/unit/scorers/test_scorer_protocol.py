"""Values that pass between the renderer and the scorers."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys

import pytest
import torch

from scorers.aesthetics.kinds import AESTHETIC
from scorers.distances.kinds import FID
from scorers.errors import SuiteImagesError
from scorers.prompt_fit.kinds import CLIP_SCORE
from scorers.protocol import Memo, SuiteImages
from scorers.registry import BUILTIN_KINDS


def image(value: int = 0) -> torch.Tensor:
    return torch.full((3, 4, 5), value, dtype=torch.uint8)


def test_importing_the_light_modules_loads_no_torch() -> None:
    modules = "scorers.config, scorers.protocol, scorers.registry, scorers.errors, scorers.weights.fetch"
    code = f"import sys, {modules}; scorers.registry.kinds(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_memo_computes_once_for_each_key() -> None:
    memo, counter = Memo(), itertools.count(1)
    assert [memo.get(key, lambda: next(counter)) for key in ("a", "b", "a")] == [1, 2, 1]


def test_memo_keeps_none_as_a_value() -> None:
    memo, values = Memo(), iter([None, 1])
    assert [memo.get("key", lambda: next(values)) for _ in range(2)] == [None, None]


def test_memo_tries_again_after_an_error() -> None:
    memo = Memo()
    with pytest.raises(ZeroDivisionError):
        memo.get("key", lambda: 1 // 0)
    assert memo.get("key", lambda: 5) == 5


@pytest.mark.parametrize(
    "wrong",
    [torch.zeros(3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.uint8), torch.zeros(4, 4, dtype=torch.uint8)],
    ids=["float", "grey", "two dimensions"],
)
def test_suite_images_must_be_uint8_rgb(wrong: torch.Tensor) -> None:
    with pytest.raises(SuiteImagesError, match=r"image 1 must be uint8 of shape \[3, h, w\], got"):
        SuiteImages(images=(image(), wrong), prompts=("a", "b"))


def test_suite_images_need_a_prompt_each() -> None:
    with pytest.raises(SuiteImagesError, match="expected one prompt for each of 2 images, got 1"):
        SuiteImages(images=(image(), image()), prompts=("a",))


def test_suite_images_do_not_share_their_memo() -> None:
    first, second = (SuiteImages(images=(image(),), prompts=("a",)) for _ in range(2))
    assert (first.memo("key", lambda: 1), second.memo("key", lambda: 2)) == (1, 2)


def test_set_scores_carry_their_count_and_image_scores_do_not() -> None:
    assert FID.report_name(32) == "FID@32"
    assert AESTHETIC.report_name(32) == "LAION aesthetic"


def test_counts_are_refused_noted_or_accepted() -> None:
    with pytest.raises(SuiteImagesError, match="at least 8 images, got 7"):
        FID.check_count(7)
    FID.check_count(8)
    (note,) = FID.notes(31)
    assert note.startswith("FID@31 is computed from 31 images")
    assert FID.notes(32) == ()
    assert CLIP_SCORE.notes(1) == ()


@pytest.mark.parametrize("change", [{"unit": 0.0}, {"unit": float("nan")}, {"min_images": 0}, {"advised_images": 7}])
def test_info_refuses_nonsense(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="scorer 'fid'"):
        dataclasses.replace(FID, **change)  # type: ignore[arg-type]


def test_every_builtin_info_is_complete() -> None:
    for name, kind in BUILTIN_KINDS.items():
        assert kind.info.name == name
        assert "\n" not in kind.info.summary
        (low, high), limits = kind.info.range, kind.info.limits
        assert limits[0] <= low < high <= limits[1]
