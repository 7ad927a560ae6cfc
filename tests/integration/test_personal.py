"""The scorer `personal` from stored renders and votes, on a small random CLIP: by the command line and the registry."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import open_clip
import pytest
import torch
from command_line import Call, caller, enter
from numpy.typing import NDArray
from reported_study import ReportedStudy, begin_reported, store_pictures
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from scorers.errors import ScorerError, WrongWeightsError
from scorers.protocol import BuildContext, ImageScorer, SuiteImages
from scorers.registry import build, parse_settings
from studies.records.ratings import show_render, store_rating
from studies.records.stored_renders import load_renders
from studies.records.votes import Verdict, cast_vote, show_pair
from studies.spec.suite import SuiteItem

TRIALS, PROMPTS, VOTES = 8, 12, 150
CLIP = {
    "embed_dim": 24,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
Judge = Callable[[float, float], Verdict]  # of the warmth of the left and of the right one


def score(params: Mapping[str, float]) -> dict[str, tuple[float, ...]]:
    mean = float(np.mean(list(params.values())))
    return {"sharpness": (mean,) * PROMPTS, "contrast": (0.1,) * PROMPTS}


def warmth(item: int, number: int) -> float:
    """How red a render is, and how little blue: what the simulated voter looks at."""
    return float(np.random.default_rng((item, number)).random())


def drawn(item: SuiteItem, number: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Draw coarse noise in the colours of the render's warmth."""
    random, warm = np.random.default_rng((7, item.index, number)), warmth(item.index, number)
    noise = np.kron(random.random((3, size[1] // 8, size[0] // 8)), np.ones((8, 8)))
    tint = np.array([warm, 0.5, 1 - warm])[:, None, None]
    return (255 * (0.25 * noise + 0.75 * tint)).astype(np.uint8)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> ReportedStudy:
    folder = tmp_path_factory.mktemp("personal")
    suite = {"prompts": [{"prompt": f"picture {index}"} for index in range(PROMPTS)]}
    study = begin_reported(folder, "v", score, trials=TRIALS, suite=suite)
    store_pictures(study, range(TRIALS), size=(32, 32), drawn=drawn)
    torch.manual_seed(1)
    save_file(open_clip.CLIP(**CLIP).state_dict(), folder / "tiny.safetensors")
    torch.manual_seed(2)
    save_file(open_clip.CLIP(**CLIP).state_dict(), folder / "other.safetensors")
    (folder / "tiny.json").write_text(json.dumps(CLIP))
    return study


@pytest.fixture
def folder(study: ReportedStudy) -> Path:
    return Path(study.artifacts.location).parent


def vote_as(study: ReportedStudy, person: str, judge: Judge, votes: int = VOTES) -> None:
    random = np.random.default_rng(len(person))
    for index in range(votes):
        left, right = map(int, random.choice(TRIALS, 2, replace=False))
        item = index % PROMPTS
        pair = show_pair(study.records, person, item, left, right)
        cast_vote(study.records, pair.token, judge(warmth(item, left), warmth(item, right)))


def warm(left: float, right: float) -> Verdict:
    return "equal" if abs(left - right) < 0.05 else "left" if left > right else "right"


@pytest.fixture
def train(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    enter(folder, monkeypatch)
    monkeypatch.setenv("MERGETUNE_STORAGE", "study.db")
    call = caller(monkeypatch, capsys, "study", "train-personal")
    clip = "{model: tiny, pretrained: ./tiny.safetensors, config_dir: .}"
    return lambda *words, code=None: call(*words, "--clip", clip, code=code)


def personal(folder: Path, tmp_path: Path, weights: str = "tiny.safetensors") -> ImageScorer:
    clip = {"model": "tiny", "pretrained": str(folder / weights), "config_dir": str(folder)}
    settings = parse_settings("personal", {"head": "taste.safetensors", "clip": clip}, folder)
    context = BuildContext(device="cpu", cache_dir=tmp_path)
    return cast("ImageScorer", build("personal", settings, context))


def images(numbers: range) -> tuple[SuiteImages, list[float]]:
    """Pictures that nobody voted on, and their warmth."""
    items = [cast("SuiteItem", type("Item", (), {"index": 100 + number})()) for number in numbers]
    pictures = tuple(torch.from_numpy(drawn(item, 0, (32, 32))) for item in items)
    return SuiteImages(images=pictures, prompts=("",) * len(items)), [warmth(item.index, 0) for item in items]


def test_a_taste_is_learned_and_scores_pictures_that_nobody_voted_on(
    study: ReportedStudy, folder: Path, train: Call, tmp_path: Path
) -> None:
    vote_as(study, "ann", warm)
    said = train("-o", "taste.safetensors", "--person", "ann", code=0).out
    assert "150 votes on 12 items by ann" in said
    assert "held-out agreement: " in said
    assert "(95 % interval " in said
    new, warmths = images(range(40))
    scores = personal(folder, tmp_path).score(new)
    assert float(np.corrcoef(scores.numpy(), warmths)[0, 1]) > 0.8
    with safe_open(folder / "taste.safetensors", "pt") as file:
        told = {key.removeprefix("mergetune.personal."): text for key, text in file.metadata().items()}
    assert told["votes"] == "150"
    assert told["people"] == "ann"
    assert told["clip"] == "CLIP tiny / tiny.safetensors"
    assert len(told["clip_digest"]) == 64
    voted = [picture for trial in study.trials() for picture in load_renders(study.records, trial)]
    pixels = [np.array(study.artifacts.open_render(str(each.file))).transpose(2, 0, 1) for each in voted]
    average = personal(folder, tmp_path).score(
        SuiteImages(images=tuple(map(torch.from_numpy, pixels)), prompts=("",) * len(pixels))
    )
    assert abs(float(average.mean())) < 0.05 * float(average.std())
    refused = train("-o", "taste.safetensors", code=2).err
    assert "exists" in refused
    spec = json.loads(said[said.index("scorers: ") + 9 :])
    assert parse_settings("personal", spec["personal"], Path("/"))


def test_a_voter_by_chance_is_refused_in_one_line(study: ReportedStudy, folder: Path, train: Call) -> None:
    random = np.random.default_rng(5)
    vote_as(study, "bob", lambda _left, _right: "left" if random.random() < 0.5 else "right")
    refused = train("-o", "chance.safetensors", "--person", "bob", code=2).err
    assert refused.count("\n") == 1
    assert "at least 60 % of held-out votes" in refused
    assert "of 150 votes on 12 items by bob" in refused
    assert "nothing was written" in refused
    assert not (folder / "chance.safetensors").exists()


def test_few_votes_are_refused_before_a_network_is_loaded(study: ReportedStudy, train: Call) -> None:
    vote_as(study, "cy", warm, votes=2)
    refused = train("-o", "few.safetensors", "--person", "cy", code=2).err
    assert "expected votes that prefer one of two renders on at least 3 items" in refused
    assert "study vote" in refused
    nobody = train("-o", "few.safetensors", "--person", "nobody", code=2).err
    assert "got 0 such votes on 0" in nobody


def test_votes_on_renders_that_are_gone_are_left_out(study: ReportedStudy, train: Call) -> None:
    vote_as(study, "dee", warm)
    trial = study.trials()[3]
    render = load_renders(study.records, trial)[0]
    content = study.artifacts.store.read(str(render.file))
    study.artifacts.store.remove(str(render.file))
    said = train("-o", "dee.safetensors", "--person", "dee", code=0).out
    study.artifacts.store.write(str(render.file), content)
    assert "left out: a render is not stored any more" in said


@pytest.mark.parametrize(
    ("clip", "words"),
    [("{model: [", "not valid YAML"), ("{modell: x}", "modell"), ("{pretrained: ./no.safetensors}", "no file at")],
)
def test_a_clip_that_cannot_be_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], clip: str, words: str
) -> None:
    enter(folder, monkeypatch)
    call = caller(monkeypatch, capsys, "study", "train-personal")
    refused = call("-o", "x.safetensors", "--storage", "study.db", "--clip", clip, code=2).err
    assert refused.count("\n") == 1
    assert words in refused


def test_a_head_of_another_clip_or_no_head_at_all_is_refused(
    study: ReportedStudy, folder: Path, train: Call, tmp_path: Path
) -> None:
    vote_as(study, "eva", warm)
    train("-o", "taste.safetensors", "--force", "--person", "eva", code=0)
    with pytest.raises(WrongWeightsError, match=r"was trained on CLIP tiny / tiny\.safetensors"):
        personal(folder, tmp_path, "other.safetensors")
    whole: dict[str, Any] = load_file(folder / "taste.safetensors")
    for state, words in (
        (whole, "does not say which CLIP"),
        ({"weight": whole["weight"]}, "is not a personal head"),
        ({**whole, "weight": whole["weight"][0]}, "expected linear layers"),
    ):
        save_file(state, folder / "taste.safetensors")
        with pytest.raises(ScorerError, match=words):
            personal(folder, tmp_path)


def test_ratings_teach_as_well_as_votes(study: ReportedStudy, train: Call) -> None:
    random = np.random.default_rng(9)
    for number in random.permutation(np.repeat(range(TRIALS), 2)):
        for item in range(PROMPTS):
            shown = show_render(study.records, "fay", item, int(number))
            store_rating(study.records, shown.token, round(10 * warmth(item, int(number))))
    said = train("-o", "fay.safetensors", "--person", "fay", code=0).out
    found = re.search(r"(\d+) votes on 12 items by fay; (\d+) of them equal", said)
    assert found is not None
    assert 100 < int(found[1]) <= 15 * PROMPTS  # one fewer than ratings, of each item
    assert int(found[2]) > 0
