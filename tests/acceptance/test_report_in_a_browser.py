"""The report in a real browser: nothing is asked for, complained of or cut off, and pictures can be compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import browser as browsers
import pytest
from browser import Browser
from reported_study import begin_reported, hold_final, store_final_pictures, store_pictures
from slow_cases import first_fast

from studies.records.finals import load_final

pytestmark = pytest.mark.skipif(not browsers.IS_THERE, reason=browsers.WHY_NOT)

LONG = "a_" + "very_" * 20 + "long_word"
SUITE: Mapping[str, Any] = {
    "prompts": [
        "a cat",
        f"</script><script>alert(1)</script><img src=http://example.com/x.png onerror=alert(2)> {LONG}",
        "a fox, " + "masterpiece, best quality, " * 10,
        {"prompt": "a bee", "sizes": [[640, 384]]},
    ],
    "negative": "blurry, " * 20,
    "seeds": [1],
    "sizes": [[384, 640]],
}


def score(params: Mapping[str, float]) -> dict[str, tuple[float, ...]]:
    base = 1 - (params["IN04"] - 0.6) ** 2 - params["M00"] / 10
    return {"sharpness": tuple(base + item / 50 for item in range(4)), "contrast": (0.2, params["M00"], 0.3, 0.1)}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Name -> address of a report: with a final and pictures, a front, and neither."""
    folder = tmp_path_factory.mktemp("pages")
    for name in ("final", "front", "bare"):
        (folder / name).mkdir()
    one: dict[str, Any] = {"suite": SUITE, "objective": {"sharpness": {"weight": 1, "unit": 1}}}
    final = begin_reported(folder / "final", "a study with a name of some length", score, trials=14, failed=(5,), **one)
    hold_final(final, {})
    held = load_final(final.records)
    assert held is not None
    store_final_pictures(final, [finalist.number for finalist in held.finalists])
    front = begin_reported(
        folder / "front", "front", score, trials=14, suite=SUITE, objectives=["sharpness", "contrast"]
    )
    store_pictures(front, (0, 1))
    bare = begin_reported(folder / "bare", "bare", score, trials=3, **one)
    for name, study in (("final", final), ("front", front), ("bare", bare)):
        (folder / f"{name}.html").write_text(study.page())
    return {name: (folder / f"{name}.html").as_uri() for name in ("final", "front", "bare")}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsers.browser(tmp_path_factory.mktemp("profile")) as running:
        running.requests()  # those of its first, empty page
        yield running


@pytest.mark.parametrize("scheme", first_fast(1, ["light", "dark"]))
@pytest.mark.parametrize("width", first_fast(1, [390, 1280]))
@pytest.mark.parametrize("name", ["final", "front", "bare"])
def test_a_page_fits_asks_for_nothing_and_complains_of_nothing(
    browser: Browser, pages: Mapping[str, str], tmp_path: Path, name: str, width: int, scheme: Literal["light", "dark"]
) -> None:
    browser.open(pages[name], width=width, scheme=scheme)
    browser.script("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    browser.screenshot(tmp_path / "page.png")
    assert browser.unfit() == []
    assert browser.broken() == []
    assert browser.complaints() == []
    assert browser.requests() == {pages[name]}


@pytest.mark.parametrize("width", [1280, 390])
def test_the_slider_shows_two_pictures_of_which_the_left_is_as_wide_as_it_says(
    browser: Browser, pages: Mapping[str, str], width: int
) -> None:
    browser.open(pages["final"], width=width)
    browser.script("document.getElementById('as-slider').click()")
    browser.script("const left = document.getElementById('left'); left.selectedIndex = 0;"
                   "left.dispatchEvent(new Event('change'));")  # fmt: skip
    browser.script("const share = document.getElementById('share'); share.value = 30;"
                   "share.dispatchEvent(new Event('input'));")  # fmt: skip
    cut, left, right = browser.script(
        "const [over, under] = ['over', 'under'].map((id) => document.getElementById(id));"
        "return [getComputedStyle(over).clipPath, over.alt, under.alt];"
    )
    assert cut == "inset(0px 70% 0px 0px)"
    assert left.startswith("A: a:")
    assert right.startswith("trial ")
    assert browser.broken() == []
    assert browser.unfit() == []


@pytest.mark.parametrize("width", [1280, 390])
def test_a_click_shows_a_picture_at_full_size_and_keys_go_on_to_the_next(
    browser: Browser, pages: Mapping[str, str], width: int
) -> None:
    browser.open(pages["final"], width=width)
    browser.script("document.querySelectorAll('.shots .shot')[0].click()")
    caption = "return document.getElementById('zoom-caption').textContent"
    assert browser.script("return document.getElementById('zoom').open")
    assert browser.script(caption).startswith("A: a ·")
    assert browser.broken() == []
    key = "document.getElementById('zoom').dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight'}))"
    browser.script(key)
    assert browser.script(caption).startswith("B: b ·")
    browser.script("document.getElementById('zoom-size').click()")
    assert browser.script("const zoomed = document.getElementById('zoomed');"
                          "return zoomed.width === zoomed.naturalWidth;")  # fmt: skip
    browser.script("document.getElementById('zoom-close').click()")
    assert not browser.script("return document.getElementById('zoom').open")


@pytest.mark.slow
def test_every_prompt_can_be_shown_side_by_side(browser: Browser, pages: Mapping[str, str]) -> None:
    browser.open(pages["final"], width=1280)
    shown = set()
    for _ in range(4):
        browser.script("document.getElementById('after').click()")
        shown.add(browser.script("return document.querySelector('#columns img').alt"))
    assert len(shown) == 4
    assert browser.script("return document.querySelectorAll('#columns img').length") == 3
