"""Finding scorers by name, reading their options, building them, and plug-ins of other packages."""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from scorers import registry
from scorers.aesthetics.kinds import AestheticSettings
from scorers.config import ClipModelSettings
from scorers.distances.kinds import FID, KID, InceptionSettings
from scorers.errors import BrokenPluginError, ScorerSettingsError, UnknownScorerError
from scorers.pixels.kinds import PixelSettings

if TYPE_CHECKING:
    from scorers.protocol import BuildContext, ImageScorer, SuiteImages

Install = Callable[..., None]

PLUGIN = """
from dataclasses import replace
import torch
from scorers.pixels.kinds import CONTRAST
from scorers.config import ScorerSettings
from scorers.kind import ScorerKind

class Settings(ScorerSettings):
    factor: float = 1.0

class Brightness:
    info = replace(CONTRAST, name="brightness", label="brightness")
    def __init__(self, factor):
        self.factor = factor
    def score(self, images):
        return torch.stack([self.factor * image.double().mean() for image in images.images])

def build(settings, context):
    return Brightness(settings.factor)

KIND = ScorerKind(info=Brightness.info, settings=Settings, builder="brightness_plugin:build")
NOT_A_KIND = 7
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a distribution on sys.path as pip would: a module, and a .dist-info with entry points."""

    def put(entry_points: str, name: str = "brightness-plugin") -> None:
        site = tmp_path / name
        info = site / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir(parents=True)
        (site / "brightness_plugin.py").write_text(PLUGIN, encoding="utf-8")
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(textwrap.dedent(entry_points), encoding="utf-8")
        monkeypatch.syspath_prepend(str(site))

    return put


def test_names_of_the_builtin_kinds_are_those_of_their_infos() -> None:
    assert {name: kind.info.name for name, kind in registry.kinds().items()} == {
        name: name
        for name in (
            "clip_score",
            "siglip_score",
            "lora_compatibility",
            "pickscore",
            "hps",
            "imagereward",
            "personal",
            "tag_recall",
            "text_in_image",
            "fidelity",
            "aesthetic",
            "aesthetic_v25",
            "clip_iqa",
            "anime_aesthetic",
            "cafe",
            "shadow",
            "fid",
            "kid",
            "frechet",
            "kernel",
            "tone",
            "cmmd",
            "fd_dinov2",
            "sharpness",
            "contrast",
            "colourfulness",
            "clipping",
            "duplicate_subject",
            "preference",
        )
    }


def test_an_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(UnknownScorerError, match=r"no scorer 'asthetic': did you mean 'aesthetic'\?"):
        registry.get_kind("asthetic")


def test_options_become_frozen_settings_with_absolute_paths(tmp_path: Path) -> None:
    settings = registry.parse_settings("fid", {"reference": "ref", "weights": "/w/inception.pth"}, tmp_path)
    assert settings == InceptionSettings(reference=tmp_path / "ref", weights=Path("/w/inception.pth"))
    assert hash(settings) == hash(registry.parse_settings("fid", dict(settings), tmp_path))


def test_settings_survive_a_round_trip_through_json(tmp_path: Path) -> None:
    options = {"clip": {"pretrained": "w.pth", "trained_as": "openai"}, "head": "head.pth"}
    settings = registry.parse_settings("aesthetic", options, tmp_path)
    assert AestheticSettings.model_validate_json(settings.model_dump_json()) == settings


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("~/ref", "/home/someone/ref"),
        ("~", "/home/someone"),
        ("~root/ref", "{folder}/~root/ref"),
        ("~x", "{folder}/~x"),
    ],
)
def test_only_a_tilde_alone_stands_for_the_home_folder(
    written: str, meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    settings = registry.parse_settings("fid", {"reference": written}, tmp_path)
    assert isinstance(settings, InceptionSettings)
    assert settings.reference == Path(meant.format(folder=tmp_path))


def test_a_relative_path_without_a_folder_is_refused() -> None:
    with pytest.raises(ValueError, match="pass a base_dir"):
        InceptionSettings.model_validate({"reference": "ref"})


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (
            "fid",
            {"refrence": "x"},
            r"unknown key `refrence`: did you mean `reference`\?; `reference` is missing: give a folder of images",
        ),
        ("clip_score", {"clip": {"mdoel": "x"}}, r"unknown key `clip.mdoel`: did you mean `model`\?"),
        ("contrast", {"level": 1}, r"unknown key `level`: known here: none"),
        ("clip_iqa", {"pairs": []}, r"`pairs`: .* at least 1 item"),
        (
            "frechet",
            {"reference": "r", "network": "n", "weights": "w", "input_size": 4},
            r"`input_size`: .*got 4",
        ),
        (
            "clip_score",
            {"clip": {"trained_as": "openai"}},
            "`clip`: trained_as needs a weight file",
        ),
        ("clip_score", {"clip": {"config_dir": "x"}}, "needs a weight file in `pretrained`"),
    ],
)
def test_faulty_options_give_one_clear_line(
    kind: str, options: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ScorerSettingsError, match=message) as caught:
        registry.parse_settings(kind, options, tmp_path)
    assert str(caught.value).startswith(f"scorer {kind!r}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("pretrained", "file"),
    [
        ("openai", None),
        ("laion2b_s34b_b79k", None),
        ("w.pth", "w.pth"),
        ("sub/w", "sub/w"),
        ("../w.pt", "../w.pt"),
    ],
)
def test_pretrained_is_a_tag_or_a_file(pretrained: str, file: str | None, tmp_path: Path) -> None:
    settings = ClipModelSettings.model_validate({"pretrained": pretrained}, context={"base_dir": tmp_path})
    assert settings.weights_file == (None if file is None else (tmp_path / file).resolve())
    assert settings.tag == (pretrained if file is None else None)


def test_build_refuses_settings_of_another_kind(context: BuildContext) -> None:
    with pytest.raises(ScorerSettingsError, match="'fid' expects InceptionSettings, got PixelSettings"):
        registry.build("fid", PixelSettings(), context)


def test_every_builtin_builder_exists() -> None:
    for kind in registry.BUILTIN_KINDS.values():
        module, _, function = kind.builder.partition(":")
        assert callable(getattr(__import__(module, fromlist=[function]), function))


def test_an_installed_plugin_is_listed_configured_and_built(
    install: Install, context: BuildContext, suite: SuiteImages
) -> None:
    install("""
        [mergetune.scorers]
        brightness = brightness_plugin:KIND
        """)
    assert registry.kinds()["brightness"].info.label == "brightness"
    settings = registry.parse_settings("brightness", {"factor": 2}, Path("/"))
    scorer = cast("ImageScorer", registry.build("brightness", settings, context))
    scores = scorer.score(suite)
    assert scores[0] == pytest.approx(2 * suite.images[0].double().mean())


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("brightness_plugin:NOTHING", "of brightness-plugin cannot be loaded .*AttributeError"),
        ("no_such_module:KIND", "cannot be loaded .*ModuleNotFoundError"),
        ("brightness_plugin:NOT_A_KIND", "got a int"),
        ("brightness_plugin:KIND", "is named 'brightness' in its info: both names must agree"),
    ],
)
def test_a_broken_plugin_hurts_only_when_asked_for(
    install: Install, caplog: pytest.LogCaptureFixture, target: str, message: str
) -> None:
    install(f"[mergetune.scorers]\nbroken = {target}\n")
    assert registry.get_kind("fid").info is FID
    with caplog.at_level(logging.WARNING):
        assert "broken" not in registry.kinds()
    assert "'broken'" in caplog.text
    with pytest.raises(BrokenPluginError, match=message):
        registry.get_kind("broken")


def test_a_plugin_that_takes_a_builtin_name_is_refused_by_name(install: Install) -> None:
    install("[mergetune.scorers]\nfid = brightness_plugin:KIND\n")
    assert "fid" in registry.kinds()
    assert registry.get_kind("kid").info is KID
    with pytest.raises(BrokenPluginError, match="'fid' is claimed by mergetune, brightness-plugin"):
        registry.get_kind("fid")


def test_two_plugins_of_one_name_are_refused(install: Install) -> None:
    for name in ("first-one", "second-one"):
        install("[mergetune.scorers]\nbrightness = brightness_plugin:KIND\n", name)
    with pytest.raises(BrokenPluginError, match=r"claimed by (first-one, second-one|second-one, first-one)"):
        registry.get_kind("brightness")
