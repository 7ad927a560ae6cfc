"""Pictures of Fooocus and NovelAI, in the forms that they write."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from optimizer.rendering.prompts.attention import weighted_pieces
from studies.spec.published.files import read_published
from studies.spec.published.fooocus import parse_fooocus
from studies.spec.published.novelai import parse_novelai, with_weights
from studies.spec.published.settings import PublishedError, PublishedSettings, checked

# What Fooocus' modules/meta_parser.py writes: keys in order, texts as it embedded them one by one.
FOOOCUS: dict[str, Any] = {
    "adm_guidance": "(1.5, 0.8, 0.3)",
    "base_model": "juggernautXL_v8Rundiffusion",
    "base_model_hash": "aeb7e9e689",
    "clip_skip": 2,
    "full_negative_prompt": ["blurry", "worst quality"],
    "full_prompt": ["cinematic still (a lion:1.2) . emotional", "a lion, intricate, sharp focus"],
    "guidance_scale": 4.0,
    "lora_combined_1": "sd_xl_offset_example-lora_1.0 : 0.1",
    "loras": [["sd_xl_offset_example-lora_1.0", 0.1, "4852686128"]],
    "metadata_scheme": "fooocus",
    "negative_prompt": "blurry",
    "performance": "Speed",
    "prompt": "(a lion:1.2)",
    "prompt_expansion": "a lion, intricate, sharp focus",
    "refiner_model": "None",
    "refiner_switch": 0.5,
    "resolution": "(896, 1152)",
    "sampler": "dpmpp_2m_sde_gpu",
    "scheduler": "karras",
    "seed": "4159895726312427221",
    "sharpness": 2.0,
    "steps": 30,
    "styles": "['Fooocus V2', 'Fooocus Cinematic']",
    "vae": "Default (model)",
    "version": "Fooocus v2.5.5",
}
FOOOCUS_AS_A1111 = (
    "cinematic still (a lion:1.2) . emotional, a lion, intricate, sharp focus\n"
    "Negative prompt: blurry, worst quality\n"
    "Steps: 30, Sampler: DPM++ 2M SDE Karras, Seed: 4159895726312427221, Size: 896x1152, CFG scale: 4.0, "
    'Sharpness: 2.0, ADM Guidance: "(1.5, 0.8, 0.3)", Model: juggernautXL_v8Rundiffusion, Model hash: aeb7e9e689, '
    'Performance: Speed, Scheduler: karras, VAE: Default (model), Raw prompt: "(a lion:1.2)", '
    'Raw negative prompt: blurry, Lora hashes: "sd_xl_offset_example-lora_1.0: 4852686128", '
    'Lora weights: "sd_xl_offset_example-lora_1.0: 0.1", '
    "Version: Fooocus v2.5.5"
)
NOVELAI: dict[str, Any] = {
    "prompt": "1girl, {{masterpiece}}, [blurry, sky], skadi (arknights)", "steps": 28, "height": 1216, "width": 832,
    "scale": 5.0, "uncond_scale": 1.0, "cfg_rescale": 0.0, "seed": 3816166865, "n_samples": 1,
    "hide_debug_overlay": False, "noise_schedule": "native", "sampler": "k_euler_ancestral", "controlnet_strength": 1.0,
    "controlnet_model": None, "dynamic_thresholding": False, "sm": True, "sm_dyn": False, "skip_cfg_below_sigma": 0.0,
    "uc": "lowres, {bad}", "request_type": "PromptGenerateRequest", "signed_hash": "nM6v",
}  # fmt: skip


def png(path: Path, size: tuple[int, int] = (64, 64), **texts: str) -> Path:
    info = PngInfo()
    for name, text in texts.items():
        info.add_text(name, text)
    Image.new("RGB", size).save(path, pnginfo=info)
    return path


def novelai(path: Path, source: str = "Stable Diffusion XL C1E1DE52", **changes: Any) -> Path:
    comment = NOVELAI | changes
    texts: dict[str, Any] = {
        "Title": "AI generated image",
        "Description": str(comment["prompt"]),
        "Software": "NovelAI",
    }
    return png(path, **texts, Source=source, Comment=json.dumps(comment))


def require_fooocus(found: PublishedSettings) -> None:
    assert found.prompt == "cinematic still (a lion:1.2) . emotional, a lion, intricate, sharp focus"
    assert (found.negative, found.seed) == ("blurry, worst quality", 4159895726312427221)
    assert (found.width, found.height, found.steps, found.cfg) == (896, 1152, 30, 4.0)
    assert (found.sampler, found.schedule, found.syntax) == ("dpmpp_2m_sde", "karras", "comfyui")
    said = "; ".join(found.notes)
    for part in ("Fooocus weighs words", "sharpness", "ADM guidance", "sd_xl_offset_example-lora_1.0"):
        assert part in said
    assert "refiner" not in said
    assert "RNG" not in said


def test_fooocus_png_of_its_own_form(tmp_path: Path) -> None:
    text = json.dumps(FOOOCUS)
    require_fooocus(read_published(png(tmp_path / "f.png", parameters=text, fooocus_scheme="fooocus")))


def test_fooocus_png_of_a1111s_form(tmp_path: Path) -> None:
    require_fooocus(read_published(png(tmp_path / "f.png", parameters=FOOOCUS_AS_A1111, fooocus_scheme="a1111")))


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
@pytest.mark.parametrize("text", [json.dumps(FOOOCUS), FOOOCUS_AS_A1111], ids=["json", "a1111"])
def test_fooocus_jpeg_and_webp(tmp_path: Path, suffix: str, text: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.UserComment] = text
    exif[ExifTags.Base.Software] = "Fooocus v2.5.5"
    exif[ExifTags.Base.MakerNote] = "fooocus"
    Image.new("RGB", (64, 64)).save(tmp_path / f"f.{suffix}", exif=exif)
    require_fooocus(read_published(tmp_path / f"f.{suffix}"))


def test_a_refiner_of_fooocus_is_told(tmp_path: Path) -> None:
    text = json.dumps(FOOOCUS | {"refiner_model": "sd_xl_refiner_1.0"})
    assert "the refiner" in "; ".join(read_published(png(tmp_path / "f.png", parameters=text)).notes)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sampler": "tcd"}, "the sampler 'tcd' is not supported"),
        ({"resolution": "big"}, "as size"),
        ({"seed": None}, "as seed"),
    ],
)
def test_settings_of_fooocus_that_cannot_be_used_are_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(PublishedError, match=said):
        read_published(png(tmp_path / "f.png", parameters=json.dumps(FOOOCUS | change)))


def test_a_prompt_that_begins_with_a_brace_is_no_object(tmp_path: Path) -> None:
    text = "{base_model} lion\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 64x64"
    assert read_published(png(tmp_path / "a.png", parameters=text)).prompt == "{base_model} lion"


def require_novelai(found: PublishedSettings) -> None:
    assert found.prompt == "1girl, (masterpiece:1.1025), (blurry, sky:0.9524), skadi \\(arknights\\)"
    assert found.negative == "lowres, (bad:1.05)"
    assert (found.seed, found.width, found.height, found.steps, found.cfg) == (3816166865, 832, 1216, 28, 5.0)
    assert (found.sampler, found.schedule, found.clip_skip) == ("euler_ancestral", "normal", 2)
    assert (found.syntax, found.ensd) == ("a1111", None)
    assert "not repeated: SMEA" in found.notes


def test_novelai_png(tmp_path: Path) -> None:
    require_novelai(read_published(novelai(tmp_path / "n.png")))


def test_novelai_webp(tmp_path: Path) -> None:
    exif = Image.Exif()
    texts = {"Software": "NovelAI", "Source": "Stable Diffusion XL C1E1DE52", "Comment": json.dumps(NOVELAI)}
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"ASCII\0\0\0" + json.dumps(texts).encode()
    Image.new("RGB", (64, 64)).save(tmp_path / "n.webp", exif=exif)
    require_novelai(read_published(tmp_path / "n.webp"))


def test_the_first_pictures_of_novelai_have_their_size_as_pixels_only(tmp_path: Path) -> None:
    old = {"steps": 28, "sampler": "k_euler_ancestral", "seed": 5, "strength": 0.69, "noise": 0.667, "scale": 11.0}
    comment = json.dumps({**old, "uc": "lowres"})
    texts = {"Description": "{a lion}", "Software": "NovelAI", "Source": "Stable Diffusion 81274D13"}
    found = read_published(png(tmp_path / "n.png", (128, 192), **texts, Comment=comment))
    assert (found.prompt, found.width, found.height, found.ensd) == ("(a lion:1.05)", 128, 192, 31337)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"request_type": "Img2ImgRequest"}, "Img2ImgRequest"),
        ({"request_type": "NativeInfillingRequest"}, "NativeInfillingRequest"),
        ({"prompt": "a {lion"}, "{ is not closed"),
        ({"uc": "a lion]"}, "] at character 7 closes nothing"),
        ({"prompt": "{a [b} c]"}, "closes nothing"),
        ({"prompt": "a lion|a fox:0.5"}, "mixes several"),
        ({"prompt": "a #1 lion"}, "has a #"),
        ({"prompt": "{" * 99 + "}" * 99}, "more than 50 brackets"),
        ({"sampler": "k_dpm_adaptive"}, "is not supported"),
        ({"prompt": {"a": 1}}, "expected a text as prompt"),
    ],
)
def test_what_of_novelai_cannot_be_used_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(PublishedError) as refused:
        read_published(novelai(tmp_path / "n.png", **change))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_of_novelai_is_not_repeated_is_told(tmp_path: Path) -> None:
    caption = {"base_caption": "a", "char_captions": [{"char_caption": "girl", "centers": []}]}
    changes: dict[str, Any] = {
        "cfg_rescale": 0.4,
        "reference_strength_multiple": [0.6],
        "v4_prompt": {"caption": caption},
    }
    said = "; ".join(read_published(novelai(tmp_path / "n.png", **changes)).notes)
    for part in ("CFG rescaling", "vibe transfer", "the prompts of its characters"):
        assert part in said


@pytest.mark.parametrize(
    ("written", "text", "weights"),
    [
        ("a {b} c", "a b c", {"b": 1.05}),
        ("[[a]]", "a", {"a": 1 / 1.05**2}),
        ("{a [b] {c}}", "a b c", {"a": 1.05, "c": 1.05**2}),
        ("1.5::a, b::, c", "a, b, c", {"a, b": 1.5}),
        ("{2::a:: b}", "a b", {"a": 2.1, "b": 1.05}),
        ("-1::a::", "a", {"a": -1.0}),
        ("artist:{x (y)}", "artist:x (y)", {"x (y)": 1.05}),
        ("a:: b", "a b", {}),
        ("(a:1.5)", "(a:1.5)", {}),
    ],
)
def test_weights_of_novelai_are_those_that_a1111_reads(written: str, text: str, weights: dict[str, float]) -> None:
    pieces = weighted_pieces(with_weights(written, "prompt"))
    found = {piece.text.strip(" ,"): piece.weight for piece in pieces if piece.weight != 1}
    assert found == pytest.approx(weights, abs=1e-4)
    assert "".join(piece.text for piece in pieces) == text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text("a{}[]:|1.", max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["caption", "char_captions"]), inner),
    max_leaves=4,
)


@given(st.data())
def test_values_of_other_kinds_are_refused_and_nothing_worse(data: st.DataObject) -> None:
    for settings in (FOOOCUS, NOVELAI | {"v4_prompt": {}}):
        changed = {**settings, data.draw(st.sampled_from(sorted(settings))): data.draw(JSON)}
        with suppress(PublishedError):
            raw = parse_fooocus(changed) if settings is FOOOCUS else parse_novelai({}, changed, (64, 64))
            assert checked(raw).prompt
