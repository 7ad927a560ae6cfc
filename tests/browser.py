"""A real browser without a window, which tells what a page asked for and what it complained of."""

from __future__ import annotations

import base64
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
IS_THERE = bool(CHROMIUM and CHROMEDRIVER)
WHY_NOT = "needs Debian's chromium and chromium-driver"
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip
# What does not fit: wider than the window, text beyond its drawing, or an element that hides a part of its content.
UNFIT = """
const unfit = [];
const shown = (element) => !element.closest('[hidden], dialog:not([open]), .scroll') && element.getClientRects().length;
for (const element of document.querySelectorAll('body *')) {
  if (!shown(element)) continue;
  const box = element.getBoundingClientRect(), drawing = element.closest('svg');
  const name = `${element.tagName}.${element.getAttribute('class')}: ${element.textContent.trim().slice(0, 40)}`;
  if (!drawing && (box.right > innerWidth + 0.5 || box.left < -0.5)) unfit.push(`outside: ${name}`);
  if (element.tagName === 'text') {
    const around = drawing.getBoundingClientRect();
    const inside = box.left >= around.left - 1 && box.right <= around.right + 1 && box.top >= around.top - 1
      && box.bottom <= around.bottom + 1;
    if (!inside) unfit.push(`beyond its drawing: ${name}`);
  }
  const hides = getComputedStyle(element).overflowX !== 'visible';
  if (!drawing && hides && !['SELECT', 'INPUT'].includes(element.tagName) && element.clientWidth > 2
    && element.scrollWidth > element.clientWidth + 1) unfit.push(`hidden in: ${name}`);
}
if (document.documentElement.scrollWidth > innerWidth) unfit.push('the page scrolls sideways');
return unfit;
"""
BROKEN = """
return [...document.images].filter((image) => !image.closest('[hidden], dialog:not([open])')
  && !(image.complete && image.naturalWidth)).map((image) => image.alt);
"""


class Browser:
    """A running browser.

    Args:
        driver: Selenium's.
    """

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, url: str, *, width: int, scheme: Literal["light", "dark"] = "light") -> None:
        """Open a page in a window of a width in pixels."""
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        window = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", window)
        self.driver.get(url)

    def wait_for(self, condition: str, seconds: float = 60.0) -> None:
        """Wait until a JavaScript expression is true of the page.

        Raises:
            AssertionError: it did not become true in that time.
        """
        deadline = time.monotonic() + seconds
        while not self.script(f"return Boolean({condition})"):
            assert time.monotonic() < deadline, f"{condition} did not become true in {seconds:g} s: {self.text}"
            time.sleep(0.25)

    @property
    def text(self) -> str:
        """What the page says."""
        return str(self.script("return document.body.innerText"))

    def script(self, text: str) -> Any:
        """Run a script in the page, and return what it returns."""
        return self.driver.execute_script(text)

    def complaints(self, *, severe: bool = False) -> list[str]:
        """Return what stands in the console since this was asked last.

        Args:
            severe: whether only errors count.
        """
        return [e["message"] for e in self.driver.get_log("browser") if not severe or e["level"] == "SEVERE"]

    def requests(self) -> set[str]:
        """Return the URLs that pages asked for since this was asked last, without data and the browser's own."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
        urls = {params["request"]["url"] for params in sent}
        return {url for url in urls if not url.startswith(("data:", "chrome"))}

    def unfit(self) -> list[str]:
        """Return what of the page does not fit into the window."""
        return list(self.script(UNFIT))

    def broken(self) -> list[str]:
        """Return the texts of visible pictures that are not shown."""
        return list(self.script(BROKEN))

    def screenshot(self, path: Path) -> None:
        """Write the whole page to a PNG file."""
        size = "return [innerWidth, document.documentElement.scrollHeight]"
        width, height = self.script(size)
        clip = {"x": 0, "y": 0, "width": width, "height": min(height, 8000), "scale": 1}
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
        path.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Give a browser with a profile of its own in a folder."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
