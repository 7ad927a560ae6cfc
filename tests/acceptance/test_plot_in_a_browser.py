"""The page of a plot in a real browser: nothing is asked for or cut off, and a click shows a cell large."""

from __future__ import annotations

from pathlib import Path

import browser as browsers
import pytest
from browser import Browser, browser
from command_line import Call
from demo_study import SMALL, write_spec

pytestmark = pytest.mark.skipif(not browsers.IS_THERE, reason=browsers.WHY_NOT)

HOSTILE = "</script><script>alert(1)</script><img src=http://example.com/x.png onerror=alert(2)>"


def press(page: Browser, key: str) -> None:
    page.script(f"document.getElementById('zoom').dispatchEvent(new KeyboardEvent('keydown', {{key: '{key}'}}))")


def caption(page: Browser) -> str:
    return str(page.script("return document.getElementById('zoom-caption').textContent"))


def test_the_page_fits_asks_for_nothing_and_zooms(folder: Path, call: Call) -> None:
    suite = {**SMALL["suite"], "prompts": [HOSTILE]}
    spec = write_spec(folder / "quick.yaml", **{**SMALL, "suite": suite})
    call("plot", spec, "--x", "M00=0,1", "--y", "cfg=1,2", "--z", "prompt", "--score", "-o", "grid.png", code=0)
    call("plot", spec, "--ablate", "--images", "2", "-o", "strip.png", code=0)
    with browser(folder / "profile") as page:
        for name in ("grid", "strip"):
            for width, scheme in ((1280, "light"), (400, "dark")):
                page.open((folder / f"{name}.html").as_uri(), width=width, scheme=scheme)  # type: ignore[arg-type]
                assert not page.unfit()
                assert not page.broken()
                assert not page.complaints()
                assert page.requests() == {(folder / f"{name}.html").as_uri()}
        page.open((folder / "grid.html").as_uri(), width=1280)
        page.script("document.querySelector('.cells img').closest('button').click()")
        assert page.script("return document.getElementById('zoom').open") is True
        assert caption(page).startswith("M00 0 · cfg 1")
        assert "sharpness" in caption(page)
        press(page, "ArrowRight")
        assert caption(page).startswith("M00 1 · cfg 1")
        press(page, "ArrowDown")
        assert caption(page).startswith("M00 1 · cfg 2")
        page.script("document.getElementById('recipe').click()")
        shown = str(page.script("return document.getElementById('zoom-recipe').innerText"))
        assert "weighted_sum" in shown
