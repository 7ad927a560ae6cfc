"""Settings out of pictures in the true formats of the programs that write them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from studies.errors import SpecError
from studies.files.png import encode_png
from studies.spec.hires import HiresSettings
from studies.spec.published.files import read_published
from studies.spec.published.infotext import parse_infotext, write_infotext
from studies.spec.published.invokeai import parse_invokeai
from studies.spec.published.settings import PublishedError, PublishedSettings, checked
from studies.spec.published.suites import one_suite, prompt_settings, suite_section
from studies.spec.study import StudySpec, parse_spec
from studies.spec.suite import SuiteSettings
from studies.system.documents import parse_yaml

A1111 = (
    "masterpiece, (1girl:1.2), \\(fate\\),\nlooking at viewer <lora:detail:0.6>\n"
    "Negative prompt: lowres, [bad hands],\nworst quality\n"
    "Steps: 26, Sampler: DPM++ 2M SDE, Schedule type: Karras, CFG scale: 6.5, Seed: 3519844861, Size: 512x768, "
    'Model hash: 6ce0161689, Clip skip: 2, ENSD: 31337, RNG: CPU, Lora hashes: "detail: 7c6bad76eb54, x: 1", '
    "Denoising strength: 0.4, Hires upscale: 2, Hires upscaler: Latent, ADetailer model: face.pt, Version: v1.9.4"
)
GRAPH: dict[str, Any] = {
    "3": {
        "class_type": "KSampler",
        "inputs": {
            "seed": ["20", 0], "steps": 28, "cfg": 6.5, "sampler_name": "dpmpp_2m_sde_gpu", "scheduler": "karras",
            "denoise": 1.0, "model": ["10", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0],
        },
    },
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "x.safetensors"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 832, "height": 1216, "batch_size": 1}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": ["21", 0], "clip": ["11", 0]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "bad quality", "clip": ["11", 0]}},
    "10": {"class_type": "LoraLoader", "inputs": {"lora_name": "ink.safetensors", "model": ["4", 0], "clip": ["4", 1]}},
    "11": {"class_type": "CLIPSetLastLayer", "inputs": {"stop_at_clip_layer": -2, "clip": ["10", 1]}},
    "20": {"class_type": "PrimitiveInt", "inputs": {"value": 123456789}},
    "21": {"class_type": "PrimitiveString", "inputs": {"value": "a (red:1.2) fox"}},
}  # fmt: skip
INVOKE = {
    "generation_mode": "txt2img", "positive_prompt": "a cat", "negative_prompt": "", "width": 640, "height": 384,
    "seed": 620742083, "rand_device": "cpu", "cfg_scale": 7.5, "steps": 50, "scheduler": "dpmpp_2m_k", "clip_skip": 1,
    "loras": [{"model": {"name": "ink"}, "weight": 0.7}],
}  # fmt: skip
SWARM = {
    "sui_image_params": {
        "prompt": "a photo of a cat", "negativeprompt": "dog", "model": "sd_xl_base_1.0", "seed": 1, "steps": 20,
        "cfgscale": 7.0, "width": 1024, "height": 1024, "sampler": "euler_ancestral", "scheduler": "karras",
        "swarm_version": "0.9.3.1",
    },
    "sui_extra_data": {"date": "2025-01-25"},
}  # fmt: skip


def png(path: Path, texts: Mapping[str, str], *, packed: bool = False) -> Path:
    info = PngInfo()
    for name, text in texts.items():
        info.add_text(name, text, zip=packed)
    Image.new("RGB", (64, 64)).save(path, pnginfo=info)
    return path


def with_comment(path: Path, comment: bytes) -> Path:
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = comment
    Image.new("RGB", (64, 64)).save(path, exif=exif)
    return path


def require_a1111(found: PublishedSettings) -> None:
    assert found.prompt == "masterpiece, (1girl:1.2), \\(fate\\),\nlooking at viewer <lora:detail:0.6>"
    assert found.negative == "lowres, [bad hands],\nworst quality"
    assert (found.seed, found.width, found.height, found.steps, found.cfg) == (3519844861, 512, 768, 26, 6.5)
    assert (found.sampler, found.schedule, found.clip_skip, found.ensd) == ("dpmpp_2m_sde", "karras", 2, 31337)
    assert found.syntax == "a1111"
    assert found.hires == HiresSettings(scale=2, denoise=0.4, upscaler="latent")
    said = "; ".join(found.notes)
    assert "hires fix" not in said
    assert "ADetailer" in said
    assert "its prompt names LoRAs: detail (their folder is `lora_folder`" in said
    assert "graphics card" not in said


@pytest.mark.parametrize("packed", [False, True], ids=["tEXt", "zTXt"])
def test_a1111_png(tmp_path: Path, packed: bool) -> None:
    require_a1111(read_published(png(tmp_path / "a.png", {"parameters": A1111}, packed=packed)))


def test_a1111_png_with_letters_beyond_latin_1_is_itxt(tmp_path: Path) -> None:
    text = A1111.replace("masterpiece", "傑作")
    assert read_published(png(tmp_path / "a.png", {"parameters": text})).prompt.startswith("傑作, (1girl")


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
@pytest.mark.parametrize("order", ["utf-16-be", "utf-16-le"])
def test_a1111_exif_comment(tmp_path: Path, suffix: str, order: str) -> None:
    path = with_comment(tmp_path / f"a.{suffix}", b"UNICODE\0" + A1111.encode(order))
    require_a1111(read_published(path))


def test_text_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(A1111)
    require_a1111(read_published(path))


def test_what_is_not_said_is_the_programs_default(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("cat\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 520x768, Model hash: 45dee52b")
    found = read_published(path)
    assert (found.sampler, found.schedule, found.clip_skip, found.negative) == ("euler_ancestral", None, 1, "")
    assert found.width == 512
    said = "; ".join(found.notes)
    assert "RNG: GPU" in said
    assert "520x768 is rendered as 512x768" in said


def test_comfyui_png_follows_links(tmp_path: Path) -> None:
    found = read_published(png(tmp_path / "c.png", {"prompt": json.dumps(GRAPH), "workflow": "{}"}))
    assert (found.prompt, found.negative, found.seed) == ("a (red:1.2) fox", "bad quality", 123456789)
    assert (found.width, found.height, found.steps, found.cfg, found.clip_skip) == (832, 1216, 28, 6.5, 2)
    assert (found.sampler, found.schedule, found.syntax) == ("dpmpp_2m_sde", "karras", "comfyui")
    assert "ink.safetensors" in "; ".join(found.notes)


def test_comfyui_sampler_of_separate_nodes(tmp_path: Path) -> None:
    graph = {key: node for key, node in GRAPH.items() if key != "3"} | {
        "3": {
            "class_type": "SamplerCustomAdvanced",
            "inputs": {
                "noise": ["30", 0], "guider": ["31", 0], "sampler": ["32", 0], "sigmas": ["33", 0],
                "latent_image": ["5", 0],
            },
        },
        "30": {"class_type": "RandomNoise", "inputs": {"noise_seed": 7}},
        "31": {
            "class_type": "CFGGuider",
            "inputs": {"cfg": 4.0, "model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0]},
        },
        "32": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}},
        "33": {"class_type": "BasicScheduler", "inputs": {"scheduler": "beta", "steps": 12, "denoise": 1.0}},
    }  # fmt: skip
    found = read_published(png(tmp_path / "c.png", {"prompt": json.dumps(graph)}))
    assert (found.seed, found.cfg, found.steps, found.sampler, found.schedule) == (7, 4.0, 12, "euler", "beta")


def test_invokeai_png(tmp_path: Path) -> None:
    found = read_published(png(tmp_path / "i.png", {"invokeai_metadata": json.dumps(INVOKE)}))
    assert (found.prompt, found.seed, found.width, found.height) == ("a cat", 620742083, 640, 384)
    assert (found.sampler, found.schedule, found.clip_skip, found.syntax) == ("dpmpp_2m", "karras", 2, "plain")
    assert "LoRAs" in "; ".join(found.notes)


@pytest.mark.parametrize(
    ("scheduler", "meant"),
    [
        ("euler", ("euler", "normal")),
        ("dpmpp_2m", ("dpmpp_2m", "normal")),
        ("dpmpp_2m_sde", ("dpmpp_2m_sde", "normal")),
        ("dpmpp_2m_sde_k", ("dpmpp_2m_sde", "karras")),
        ("dpmpp_sde", ("dpmpp_sde", "normal")),
        ("kdpm_2_a", ("dpm_2_ancestral", "normal")),
        ("kdpm_2_a_k", ("dpm_2_ancestral", "karras")),
        ("unipc_k", ("uni_pc_bh2", "karras")),
        ("ddim", ("ddim", None)),
        ("lcm", ("lcm", None)),
    ],
)
def test_only_names_of_invokeai_that_say_so_have_karras_levels(scheduler: str, meant: tuple[str, str | None]) -> None:
    found = checked(parse_invokeai(INVOKE | {"scheduler": scheduler}))
    assert (found.sampler, found.schedule) == meant
    assert any("diffusers" in note for note in found.notes)


@pytest.mark.parametrize(
    "scheduler", ["dpmpp_3m", "dpmpp_3m_k", "dpmpp_2s", "dpmpp_2s_k", "deis", "pndm", "tcd", "ddpm"]
)
def test_samplers_that_only_invokeai_has_are_refused(scheduler: str) -> None:
    with pytest.raises(PublishedError, match=f"InvokeAI's sampler {scheduler} .* is not done here"):
        parse_invokeai(INVOKE | {"scheduler": scheduler})


@pytest.mark.parametrize(
    ("version", "sampler", "steps", "meant"),
    [
        ("v2.2.5", "k_euler", 20, ("euler", "karras")),
        ("2.1.3", "k_dpmpp_2", 30, ("dpmpp_2m", "normal")),
        ("2.2.0", "k_dpmpp_2_a", 29, ("dpmpp_2s_ancestral", "karras")),
        ("2.3.0", "k_euler", 20, ("euler", "normal")),
        (None, "k_lms", 12, ("lms", "karras")),
        (None, "ddim", 12, ("ddim", None)),
    ],
)
def test_levels_of_older_invokeai(version: str | None, sampler: str, steps: int, meant: tuple[str, str | None]) -> None:
    image = {"prompt": "a cat", "steps": steps, "cfg_scale": 7.5, "seed": 3, "width": 512, "height": 512}
    found = checked(parse_invokeai({"app_version": version, "image": image | {"sampler": sampler}}))
    assert (found.sampler, found.schedule) == meant


@pytest.mark.parametrize("seed", [2**63, 2**64 - 1])
def test_seeds_of_comfyui_up_to_its_highest_are_taken(tmp_path: Path, seed: int) -> None:
    graph = json.loads(json.dumps(GRAPH))
    graph["20"]["inputs"]["value"] = seed
    found = read_published(png(tmp_path / "a.png", {"prompt": json.dumps(graph)}))
    suite = SuiteSettings.model_validate({"prompts": [prompt_settings(found)]})
    assert [item.seed for item in suite.items()] == [seed]
    assert SuiteSettings.model_validate_json(suite.model_dump_json()) == suite
    graph["20"]["inputs"]["value"] = 2**64
    with pytest.raises(PublishedError, match="as seed"):
        read_published(png(tmp_path / "b.png", {"prompt": json.dumps(graph)}))


def test_older_invokeai_png(tmp_path: Path) -> None:
    image = {"prompt": [{"prompt": "a cat [dog]", "weight": 1.0}], "steps": 30, "cfg_scale": 7.5, "seed": 3} | {
        "width": 512, "height": 512, "sampler": "k_euler_a",
    }  # fmt: skip
    found = read_published(png(tmp_path / "i.png", {"sd-metadata": json.dumps({"image": image})}))
    assert (found.prompt, found.negative, found.sampler, found.seed) == ("a cat", "dog", "euler_ancestral", 3)


def test_swarmui_png_and_jpeg(tmp_path: Path) -> None:
    text = json.dumps(SWARM)
    for path in (
        png(tmp_path / "s.png", {"parameters": text}),
        with_comment(tmp_path / "s.jpg", b"UNICODE\0" + text.encode("utf-16-le")),
    ):
        found = read_published(path)
        assert (found.prompt, found.negative, found.seed, found.cfg) == ("a photo of a cat", "dog", 1, 7.0)
        assert (found.width, found.sampler, found.schedule) == (1024, "euler_ancestral", "karras")


def test_a_setting_that_its_syntax_refuses_is_not_recommended_for_a_picture(tmp_path: Path) -> None:
    """`lora_folder` is for prompts of A1111 alone."""
    image = {**SWARM["sui_image_params"], "prompt": "a cat <lora:ink:0.8>"}  # type: ignore[dict-item]
    found = read_published(png(tmp_path / "s.png", {"parameters": json.dumps({"sui_image_params": image})}))
    assert (found.syntax, found.prompt) == ("comfyui", "a cat <lora:ink:0.8>")
    assert not [note for note in found.notes if "lora_folder" in note]


def test_our_own_pictures_say_how_they_were_made(tmp_path: Path) -> None:
    text = (
        "study: s\nparents: [a.safetensors, b.safetensors]\nscorers: {sharpness: }\nsuite: {ensd: 31337, prompts: ["
        "{prompt: 'a (cat:1.2), ひげ', negative: dog, seeds: [1099511627776], sizes: [[512, 640]], steps: 7, cfg: 4.5,"
        " sampler: DPM++ 2M SDE Karras, clip_skip: 2}]}"
    )
    suite = parse_spec(text, base_dir=tmp_path).suite
    path = tmp_path / "0000.png"
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 64), np.uint8)
    path.write_bytes(encode_png(pixels, {"parameters": write_infotext(suite.items()[0], suite)}))
    found = read_published(path)
    assert prompt_settings(found) == {
        "prompt": "a (cat:1.2), ひげ", "negative": "dog", "seeds": [2**40], "sizes": [[512, 640]], "steps": 7,
        "cfg": 4.5, "sampler": "dpmpp_2m_sde", "schedule": "karras", "clip_skip": 2,
    }  # fmt: skip
    assert (found.ensd, found.notes) == (31337, ())
    assert np.array_equal(np.array(Image.open(path)).transpose(2, 0, 1), pixels)


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ({}, "no generation settings"),
        ({"workflow": "{}"}, "without the `prompt`"),
        ({"prompt": "{"}, "is not JSON"),
        ({"prompt": "{}"}, "no KSampler"),
        ({"invokeai_metadata": "[]"}, "not a JSON object"),
        ({"parameters": A1111.replace("DPM++ 2M SDE", "DPM++ 2N")}, "there is no sampler"),
        ({"parameters": A1111.replace("Seed: 3519844861", "Seed: -1")}, "as seed, got '-1'"),
        ({"parameters": "cat\nSteps: 20, Sampler: Euler, Seed: 1, Denoising strength: 0.4"}, "img2img"),
        ({"parameters": "x" * 2_000_000}, "characters of text"),
        ({"parameters": "x" * 30_000 + "\nSteps: 1, Sampler: Euler, Seed: 1"}, "30,000 characters"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(tmp_path: Path, texts: Mapping[str, str], said: str) -> None:
    with pytest.raises(PublishedError, match=said) as refused:
        read_published(png(tmp_path / "a.png", texts))
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    whole = png(tmp_path / "a.png", {"parameters": A1111}).read_bytes()
    for length in (0, 5, 20, 60):
        (tmp_path / "cut.png").write_bytes(whole[:length])
        with pytest.raises(PublishedError):
            read_published(tmp_path / "cut.png")
    with pytest.raises(PublishedError, match="no such file"):
        read_published(tmp_path / "none.png")


def test_control_characters_do_not_get_through() -> None:
    found = checked(parse_infotext("a\x1b[31m cat\x07\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 64x64"))
    assert found.prompt == "a [31m cat"


def test_a_study_stores_the_settings_and_not_the_picture(tmp_path: Path) -> None:
    png(tmp_path / "a.png", {"parameters": A1111})
    text = (
        "study: s\nparents: [a.safetensors, b.safetensors]\nscorers: {sharpness: }\n"
        "suite: {prompts: [{image: a.png, cfg: 3, weight: 2}, plain]}\nfinal: {prompts: [{image: a.png, seeds: [77]}]}"
    )
    spec = parse_spec(text, base_dir=tmp_path)
    item, plain = spec.suite.items()
    assert (item.prompt, item.seed, item.width, item.height) == (
        read_published(tmp_path / "a.png").prompt, 3519844861, 512, 768,
    )  # fmt: skip
    assert (item.sampling.sampler, item.sampling.schedule) == ("dpmpp_2m_sde", "karras")
    assert (item.sampling.steps, item.sampling.cfg, item.clip_skip, item.weight) == (26, 3.0, 2, 2.0)
    assert plain.sampling.steps == 20
    assert [each.seed for each in spec.held_out.items()] == [77]
    (tmp_path / "a.png").unlink()
    assert StudySpec.from_json(spec.to_json()) == spec
    with pytest.raises(SpecError, match=r"image: a\.png: there is no such file") as refused:
        parse_spec(text, base_dir=tmp_path)
    assert "\n" not in str(refused.value)


def test_a_written_suite_reads_back(tmp_path: Path) -> None:
    found = read_published(png(tmp_path / "a.png", {"parameters": A1111.replace("masterpiece", "#1: {x} 'y' \"z\"")}))
    chosen = one_suite([("a\n.png", found)])
    section = parse_yaml(suite_section(chosen.settings, chosen.pictures), "suite", PublishedError)["suite"]
    assert section == {"syntax": "a1111", "ensd": 31337, "prompts": [prompt_settings(found)]}


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("DDIM", ("ddim_a1111", "ddim_uniform")),
        ("UniPC", ("uni_pc_a1111", "time_uniform")),
        ("LCM", ("lcm_a1111", "karras")),
        ("LMS", ("lms_a1111", "karras")),
    ],
)
def test_a_sampler_is_that_of_the_program_that_wrote_it(name: str, own: tuple[str, str]) -> None:
    """A1111 writes the schedule that was chosen even where its sampler has times of its own."""
    text = f"a lion\nSteps: 20, Sampler: {name}, Schedule type: Karras, CFG scale: 7, Seed: 1, Size: 512x512"
    found = checked(parse_infotext(text))
    there = replace(found, syntax="comfyui", program="comfyui")
    for published, sampling in ((found, own), (there, (found.sampler, "karras"))):
        chosen = one_suite([("a.png", published)])
        section = parse_yaml(suite_section(chosen.settings, chosen.pictures), "suite", SpecError)["suite"]
        (prompt,) = SuiteSettings.model_validate(section).prompts
        assert (prompt.sampler, prompt.schedule) == sampling


def test_pictures_of_comfyui_are_sampled_as_there() -> None:
    published = checked(parse_infotext("a\nSteps: 2, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 64x64"))
    for settings, program in ((replace(published, syntax="comfyui", program="comfyui"), "comfyui"), (published, None)):
        chosen = one_suite([("a.png", settings)])
        section = parse_yaml(suite_section(chosen.settings, chosen.pictures), "x", SpecError)["suite"]
        assert section.get("program") == program


def test_a_conditioning_that_comfyui_zeroes_has_no_text_and_a_prompt_may_hold_nan(tmp_path: Path) -> None:
    graph = {
        "1": {"class_type": "CLIPTextEncode", "inputs": {"text": "a red NaN fox", "clip": ["9", 1]}},
        "2": {"class_type": "ConditioningZeroOut", "inputs": {"conditioning": ["1", 0]}},
        "3": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "4": {
            "class_type": "KSampler",
            "inputs": {
                "seed": 3,
                "steps": 4,
                "cfg": 2.0,
                "sampler_name": "euler",
                "scheduler": "simple",
                "denoise": 1.0,
                "positive": ["1", 0],
                "negative": ["2", 0],
                "latent_image": ["3", 0],
            },
            "is_changed": [float("nan")],
        },
    }
    info = PngInfo()
    info.add_text("prompt", json.dumps(graph))
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png", pnginfo=info)
    found = read_published(tmp_path / "a.png")
    assert (found.prompt, found.negative) == ("a red NaN fox", "")


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("Emphasis: Loud", "emphasis (Loud)"),
        ("Eta: 0.5", "its eta"),
        ("NGMS: 3", "NGMS"),
        ("Pad conds: True", "padded"),
    ],
)
def test_settings_that_change_a_picture_are_told(setting: str, told: str) -> None:
    text = f"a lion\nSteps: 2, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 64x64, RNG: CPU, ENSD: 31337, {setting}"
    (note,) = checked(parse_infotext(text)).notes
    assert told in note
