"""The pages of the dashboard in headless Chromium, in a wide and a narrow window: nothing is clipped or missing."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from demo_study import SMALL, begin

from optimizer.dashboard.server import make_server
from optimizer.dashboard.study_page import describe_study
from optimizer.sheets.best import save_best_sheet

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
TRIALS = 12  # as many as figures need, and two
FRAME = 450  # pixels that optuna-dashboard leaves to a figure
WIDTHS = (1280, 390)
PAGES = {"studies": "", "study": "studies/1", "trial": "studies/1/trials?numbers=2", "note": "studies/1/note"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and CHROMEDRIVER), reason="needs Debian's chromium and chromium-driver"),
]

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

    browser: Any
    address: str
    folder: Path

    def open(self, page: str, width: int) -> None:
        """Open a page as a window of this width shows it, and wait until it has its content."""
        size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.browser.get(f"{self.address}/dashboard/{PAGES[page]}")
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not self._is_there(page):
            time.sleep(0.5)
        time.sleep(1)  # figures are drawn one after the other
        self.browser.save_screenshot(str(self.folder / f"{page}-{width}.png"))

    def _is_there(self, page: str) -> bool:
        waited_for = {
            "studies": "document.body.innerText.includes('short')",
            "study": "document.querySelectorAll('[id^=\"user-defined-plot:\"] .main-svg').length >= 6",
            "trial": "[...document.images].some(image => image.naturalWidth > 100)",
            "note": "[...document.images].some(image => image.naturalWidth > 100)",
        }
        return bool(self.browser.execute_script(f"return {waited_for[page]}"))

    @property
    def text(self) -> str:
        """What the page says."""
        return str(self.browser.execute_script("return document.body.innerText"))


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    folder = tmp_path_factory.mktemp("pages")
    short = begin(folder, {**SMALL, "budget": {"trials": TRIALS}})
    short.run()
    assert save_best_sheet(short.records, short.artifacts) is not None
    describe_study(short.records, short.artifacts)
    server = make_server(short.database, short.artifacts, "127.0.0.1", 0, None)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for flag in (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", f"--user-data-dir={folder}/profile",
    ):  # fmt: skip
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))
    try:
        shots = Path(os.environ.get("MERGETUNE_SCREENSHOTS", str(folder)))
        yield Pages(browser, f"http://127.0.0.1:{server.port}", shots)
    finally:
        browser.quit()
        server.close()
        thread.join(10)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_whole(pages: Pages, page: str, width: int) -> None:
    pages.open(page, width)
    assert not [entry["message"] for entry in pages.browser.get_log("browser") if entry["level"] == "SEVERE"]
    broken = "return [...document.images].filter(each => each.complete && !each.naturalWidth).map(each => each.src)"
    assert pages.browser.execute_script(broken) == []
    assert pages.browser.execute_script("return document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", WIDTHS)
def test_figures_fit_their_frames(pages: Pages, width: int) -> None:
    pages.open("study", width)
    heights = "return [...document.querySelectorAll('[id^=\"user-defined-plot:\"]')].map(each => each.scrollHeight)"
    assert set(pages.browser.execute_script(heights)) == {FRAME}
    assert pages.browser.execute_script(CLIPPED) == []


def test_the_boxes_of_the_u_net_hold_numbers(pages: Pages) -> None:
    pages.open("study", WIDTHS[0])
    texts = pages.browser.execute_script(
        "return [...document.querySelectorAll('[id^=\"user-defined-plot:\"] .textpoint text')].map(t => t.textContent)"
    )
    assert [text for text in texts if text.startswith("IN00 ")], texts
    assert all(float(text.split()[-1]) >= 0 for text in texts if text.startswith(("IN", "M00", "OUT")))


def test_the_note_has_the_verdict_the_sheet_and_the_next_commands(pages: Pages) -> None:
    pages.open("note", WIDTHS[0])
    assert "Best" in pages.text
    assert "(best observed)" in pages.text
    assert "mergetune export" in pages.text


def test_trials_are_called_what_they_are(pages: Pages) -> None:
    pages.open("trial", WIDTHS[0])
    assert "Trial 2: uniform 0.25" in pages.text
    assert "name uniform 0.25" in pages.text


def test_the_sheet_is_an_artifact_of_the_study(pages: Pages) -> None:
    pages.open("study", WIDTHS[0])
    assert "parents and the best.png" in pages.text
