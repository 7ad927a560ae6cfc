"""The words of a prompt that scorers compare with its image."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from optimizer.rendering.prediction import EPSILON
from optimizer.rendering.prompts.wording import wording
from optimizer.trial.scoring import Scoring
from scorers.protocol import ScorerInfo, SuiteImages
from studies.spec.suite import SuiteSettings


def words(prompt: str, **changes: Any) -> str:
    settings = {"prompts": [{"prompt": prompt}], "seeds": [1], "sizes": [64], "steps": 10, **changes}
    suite = SuiteSettings.model_validate(settings)
    return wording(suite.items()[0], suite, EPSILON)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a cat, (masterpiece:1.3), [blurry], ((sharp))", "a cat, masterpiece, blurry, sharp"),
        (r"fate \(series\), (a \(b\):0.5)", "fate (series), a (b)"),
        ("a cat BREAK a dog", "a cat a dog"),
        ("a <lora:ink:0.8> cat, [inky:wet:0.5] <lora:x>", "a cat, wet"),
        ("a cat # my favourite\n on  a mat", "a cat on a mat"),
        ("a [cat:dog:0.5] runs", "a dog runs"),
        ("a [cat|dog] runs", "a cat runs"),  # calls 0 and 1 get the first, call 2 the second ... call 9 the first
        ("a [red|green|blue] cat", "a blue cat"),
        ("a [cat:dog:8] runs", "a dog runs"),
        ("a [cat:dog:9] runs", "a cat runs"),  # never reached: ten calls are numbered 0 to 9
        ("a [cat:dog:40] runs", "a cat runs"),
        ("a [cat::5] runs", "a runs"),
    ],
)
def test_words_of_a1111_are_those_with_which_the_prompt_ends(prompt: str, expected: str) -> None:
    assert words(prompt) == expected


def test_samplers_of_two_calls_make_one_at_their_last_step() -> None:
    """Ten steps of heun are 19 calls, numbered 0 to 18."""
    assert words("a [cat:dog:17] runs", sampler="heun") == "a dog runs"
    assert words("a [cat:dog:18] runs", sampler="heun") == "a cat runs"


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a [cat:dog:29] runs", "a dog runs"),
        ("a [cat:dog:30] runs", "a cat runs"),
    ],
)
def test_a_step_more_than_was_asked_for_has_its_words(prompt: str, expected: str) -> None:
    """30 steps of every 33rd level are 31 calls, numbered 0 to 30; the prompt is divided among 30."""
    assert words(prompt, steps=30, sampler="euler", schedule="ddim_uniform") == expected


def test_calls_after_all_that_are_counted_have_the_first_words_again() -> None:
    """400 steps of every second level are 500 calls."""
    assert words("a [cat:dog:9] runs", steps=400, sampler="euler", schedule="ddim_uniform") == "a cat runs"


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a [cat:dog:1.5] runs", "a dog runs"),
        ("a [cat:dog:14] runs", "a dog runs"),
        ("a [cat:dog:0.5] runs", "a dog runs"),
        ("a [cat:dog:19] runs", "a cat runs"),  # never reached: the second pass's ten calls are numbered 0 to 9
    ],
)
def test_words_are_those_with_which_the_second_pass_ends(prompt: str, expected: str) -> None:
    assert words(prompt, sampler="euler", hires=True) == expected


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a cat, (masterpiece:1.3), [blurry]", "a cat, masterpiece, [blurry]"),
        (r"fate \(series\)", "fate (series)"),
        ("a cat embedding:nice, on a mat", "a cat on a mat"),
    ],
)
def test_words_of_comfyui(prompt: str, expected: str) -> None:
    assert words(prompt, syntax="comfyui") == expected


def test_what_is_text_stays() -> None:
    prompt = "a  (cat:1.3) # here"
    assert words(prompt, syntax="plain") == prompt
    assert words("a (cat:1.3)", emphasis="none") == "a (cat:1.3)"


class Listening:
    """A scorer that keeps the prompts it is given."""

    info = ScorerInfo(name="x", label="x", summary="x", direction="maximize", unit=1.0, range=(0.0, 1.0), scope="image")

    def __init__(self) -> None:
        self.heard: list[str] = []

    def score(self, images: SuiteImages) -> Tensor:
        self.heard += images.prompts
        return torch.zeros(len(images.prompts), dtype=torch.float64)


def test_scorers_get_the_words() -> None:
    suite = SuiteSettings.model_validate({"prompts": ["a (cat:1.3)", "a dog BREAK red"], "seeds": [1], "sizes": [64]})
    scorer = Listening()
    scoring = Scoring({"x": scorer}, partial(wording, suite=suite, prediction=EPSILON))
    scoring.score(suite.items(), tuple(torch.zeros(3, 8, 8, dtype=torch.uint8) for _ in range(2)))
    assert scorer.heard == ["a cat", "a dog red"]
