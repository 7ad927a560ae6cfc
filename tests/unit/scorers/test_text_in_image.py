"""Text in images: what counts as read, and pictures of drawn words, read by the true models."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from scorers import registry
from scorers.errors import MissingPackageError, SuiteImagesError
from scorers.prompt_fit.kinds import TextSettings
from scorers.prompt_fit.text_in_image import quoted_words, share_read, words_of
from scorers.protocol import SuiteImages
from scorers.weights.needs import Package

if TYPE_CHECKING:
    from pathlib import Path

    from scorers.protocol import BuildContext, ImageScorer


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ('a sign that says "OPEN NOW", night', ["open", "now"]),
        ("a neon sign, “Café 24h!”", ["café", "24h"]),
        ("ein Schild „Guten Tag“, «salut»", ["guten", "tag", "salut"]),
        ('"stop" and "stop"', ["stop", "stop"]),
        ("\"Don't walk\" isn't here", ["dont", "walk"]),
        ("a dog's 'bone'", []),
        ('an odd " mark', []),
        ('"..."', []),
    ],
)
def test_words_in_quotation_marks_are_wanted(prompt: str, words: list[str]) -> None:
    assert quoted_words(prompt) == words


@pytest.mark.parametrize(
    ("wanted", "lines", "share"),
    [
        ("open now", ["OPEN", "Now!"], 1),
        ("open now", ["OPENNOW"], 1),  # a space was left out
        ("open now", ["open"], 0.5),
        ("stop stop", ["stop"], 0.5),
        ("stop stop", ["stop stop stop"], 1),
        ("art", ["party"], 0),
        ("open", ["opening"], 0),
        ("a ab", ["aba"], 1),
        ("ＯＰＥＮ", ["open"], 1),
        ("open", [], 0),
    ],
)
def test_the_share_of_words_that_are_read(wanted: str, lines: list[str], share: float) -> None:
    assert share_read(words_of(wanted), lines) == share


def test_a_missing_package_is_told_with_the_way_to_install_it() -> None:
    absent = Package(module="no_such_reader", extra="ocr", licence="MIT")
    with pytest.raises(MissingPackageError, match=r"^package no_such_reader \(MIT\) is not installed: pip install "):
        absent.require_named()
    assert {need.source for need in registry.needs("text_in_image", None)} == {"pip install 'mergetune[ocr]'"}


def drawn(text: str, size: int = 256) -> torch.Tensor:
    image = Image.new("RGB", (size, size), (235, 225, 205))
    ImageDraw.Draw(image).text((20, size // 3), text, font=ImageFont.load_default(size=40), fill=(30, 20, 70))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


@pytest.fixture
def scorer(context: BuildContext) -> ImageScorer:
    pytest.importorskip("rapidocr")
    pytest.importorskip("onnxruntime")
    return cast("ImageScorer", registry.build("text_in_image", TextSettings(), context))


def test_drawn_words_are_read(scorer: ImageScorer, capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    prompts = ('a sign "Open Now"', 'a sign "Open"')
    scores = scorer.score(SuiteImages(images=(drawn("OPEN\nSOON"), drawn("")), prompts=prompts))
    assert scores.dtype == torch.float64
    assert scores.tolist() == [0.5, 0]
    assert capfd.readouterr() == ("", "")


def test_a_prompt_without_quoted_words_is_told_with_the_way_out(scorer: ImageScorer) -> None:
    suite = SuiteImages(images=(drawn("A"), drawn("B")), prompts=('"A"', "a plain sign"))
    with pytest.raises(SuiteImagesError, match=r"got 'a plain sign': .* with `without`$"):
        scorer.score(suite)


def test_the_settings_have_no_options(tmp_path: Path) -> None:
    assert registry.parse_settings("text_in_image", {}, tmp_path) == TextSettings()
