"""The pages of the dashboard in headless Chromium, in a wide and a narrow window: nothing is clipped or missing."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import browser as browsers
import pytest
from browser import Browser
from demo_study import SMALL, begin

from optimizer.dashboard.server import make_server
from optimizer.dashboard.study_page import describe_study
from optimizer.sheets.best import save_best_sheet

TRIALS = 12  # as many as figures need, and two
FRAME = 450  # pixels that optuna-dashboard leaves to a figure
WIDTHS = (1280, 390)
PAGES = {"studies": "", "study": "studies/1", "trial": "studies/1/trials?numbers=2", "note": "studies/1/note"}

THERE = {  # what a page waits for
    "studies": "document.body.innerText.includes('short')",
    "study": "document.querySelectorAll('[id^=\"user-defined-plot:\"] .main-svg').length >= 6",
    "trial": "[...document.images].some(image => image.naturalWidth > 100)",
    "note": "[...document.images].some(image => image.naturalWidth > 100)",
}

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not browsers.IS_THERE, reason=browsers.WHY_NOT)]

CLIPPED = """
const found = [];
for (const plot of document.querySelectorAll('[id^="user-defined-plot:"]')) {
  const frame = plot.getBoundingClientRect(), bar = plot.querySelector('.modebar').getBoundingClientRect();
  for (const part of plot.querySelectorAll('.main-svg text, .main-svg .shapelayer path')) {
    const box = part.getBoundingClientRect();
    if (box.width === 0) continue;
    const inside = box.left >= frame.left - 1 && box.right <= frame.right + 1
      && box.top >= frame.top - 1 && box.bottom <= frame.bottom + 1;
    if (!inside) found.push(`${plot.id}: ${part.textContent || 'a shape'} is outside the frame`);
    const title = part.closest('.g-gtitle');
    if (title && box.right > bar.left && box.top < bar.bottom && box.bottom > bar.top)
      found.push(`${plot.id}: the title is under the mode bar`);
  }
  const boxes = plot.querySelectorAll('.layer-below .shapelayer path');
  for (const text of boxes.length ? plot.querySelectorAll('.textpoint text') : []) {
    if (/^(IN|M|OUT)\\d/.test(text.textContent) &&
        text.getBoundingClientRect().width > boxes[0].getBoundingClientRect().width)
      found.push(`${plot.id}: ${text.textContent} is wider than its box`);
  }
}
return found;
"""


@dataclass(frozen=True)
class Pages:
    """A browser, and the dashboard that it looks at."""

    browser: Browser
    address: str
    folder: Path

    def open(self, page: str, width: int) -> None:
        """Open a page as a window of this width shows it, and wait until it has its content."""
        self.browser.open(f"{self.address}/dashboard/{PAGES[page]}", width=width)
        self.browser.wait_for(THERE[page])
        time.sleep(1)  # figures are drawn one after the other
        self.browser.screenshot(self.folder / f"{page}-{width}.png")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    folder = tmp_path_factory.mktemp("pages")
    short = begin(folder, {**SMALL, "budget": {"trials": TRIALS}})
    short.run()
    assert save_best_sheet(short.records, short.artifacts) is not None
    describe_study(short.records, short.artifacts)
    server = make_server(short.database, short.artifacts, "127.0.0.1", 0, None)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        with browsers.browser(folder / "profile") as browser:
            shots = Path(os.environ.get("MERGETUNE_SCREENSHOTS", str(folder)))
            yield Pages(browser, f"http://127.0.0.1:{server.port}", shots)
    finally:
        server.close()
        thread.join(10)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_whole(pages: Pages, page: str, width: int) -> None:
    pages.open(page, width)
    assert not pages.browser.complaints(severe=True)
    broken = "return [...document.images].filter(each => each.complete && !each.naturalWidth).map(each => each.src)"
    assert pages.browser.script(broken) == []
    assert pages.browser.script("return document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", WIDTHS)
def test_figures_fit_their_frames(pages: Pages, width: int) -> None:
    pages.open("study", width)
    heights = "return [...document.querySelectorAll('[id^=\"user-defined-plot:\"]')].map(each => each.scrollHeight)"
    assert set(pages.browser.script(heights)) == {FRAME}
    assert pages.browser.script(CLIPPED) == []


def test_the_boxes_of_the_u_net_hold_numbers(pages: Pages) -> None:
    pages.open("study", WIDTHS[0])
    texts = pages.browser.script(
        "return [...document.querySelectorAll('[id^=\"user-defined-plot:\"] .textpoint text')].map(t => t.textContent)"
    )
    assert [text for text in texts if text.startswith("IN00 ")], texts
    assert all(float(text.split()[-1]) >= 0 for text in texts if text.startswith(("IN", "M00", "OUT")))


def test_the_note_has_the_verdict_the_sheet_and_the_next_commands(pages: Pages) -> None:
    pages.open("note", WIDTHS[0])
    assert "Best" in pages.browser.text
    assert "(best observed)" in pages.browser.text
    assert "mergetune export" in pages.browser.text


def test_trials_are_called_what_they_are(pages: Pages) -> None:
    pages.open("trial", WIDTHS[0])
    assert "Trial 2: uniform 0.25" in pages.browser.text
    assert "name uniform 0.25" in pages.browser.text


def test_the_sheet_is_an_artifact_of_the_study(pages: Pages) -> None:
    pages.open("study", WIDTHS[0])
    assert "parents and the best.png" in pages.browser.text
