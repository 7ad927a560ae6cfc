"""A1111's text of a picture, and ours in its form: what is read of it, and that ours gives back all that we wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studies.errors import SpecError
from studies.spec.hires import UPSCALERS, HiresSettings
from studies.spec.published.infotext import ModelNames, parse_infotext, write_infotext
from studies.spec.published.settings import SUITE_WIDE, PublishedError, PublishedSettings, checked
from studies.spec.published.suites import one_suite, prompt_settings, suite_section
from studies.spec.samplers import SAMPLERS, SCHEDULES
from studies.spec.suite import SizeConditioning, SuiteSettings
from studies.system.documents import parse_yaml

LINE = "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512, RNG: CPU"
NUMBERS = st.tuples(st.integers(0, 8192), st.integers(0, 8192))
# Everything that is written but control characters, and often what the form of the text gives a meaning.
CHARACTERS = st.one_of(
    st.sampled_from("\n \t,:\"\\#()[]{}|'"), st.characters(exclude_categories=["Cc", "Cs"], include_characters="\n\t")
)
WORDS = st.sampled_from(
    ["Negative prompt: x", "Negative prompt:", "Steps: 3, Sampler: Euler, Seed: 2", "\n", "Version: mergetune", ", "]
)
TEXTS = st.lists(st.one_of(st.text(CHARACTERS, max_size=20), WORDS), max_size=6).map("".join)


def read(text: str) -> PublishedSettings:
    return checked(parse_infotext(text))


LATENT = "Hires upscale: 2, Hires upscaler: Latent"
HIRES = st.one_of(
    st.just(False),
    st.fixed_dictionaries(
        {
            "scale": st.sampled_from([1, 2]),
            "denoise": st.floats(0.9, 1),
            "steps": st.integers(1, 900),
            "upscaler": st.sampled_from(UPSCALERS),
        }
    ),
)
LAYERS = st.sampled_from(["mid", "up_blocks.1", "down_blocks.2.attentions.0"])


@st.composite
def suites(draw: st.DrawFn) -> SuiteSettings:
    syntax = draw(st.sampled_from(["a1111", "comfyui", "plain"]))
    emphases = ["original", "no_norm", "none", "ignore"]
    size = draw(st.tuples(st.integers(1, 64), st.integers(1, 64)))
    return SuiteSettings.model_validate(
        {
            "prompts": [{"prompt": draw(TEXTS.filter(bool)), "negative": draw(TEXTS)}],
            "seeds": [draw(st.integers(0, 2**64 - 1))],
            "sizes": [[64 * size[0], 64 * size[1]]],
            "steps": draw(st.integers(1, 1000)),
            "cfg": draw(st.floats(0, 100)),
            "cfg_rescale": draw(st.floats(0, 1)),
            "hires": draw(HIRES) if max(size) <= 32 else False,
            "pag": {"scale": draw(st.floats(0, 100)), "layers": draw(st.sets(LAYERS, min_size=1))},
            "sampler": draw(st.sampled_from(SAMPLERS)),
            "schedule": draw(st.sampled_from(SCHEDULES)),
            "clip_skip": draw(st.integers(1, 11)),
            "syntax": syntax,
            "emphasis": draw(st.sampled_from(emphases)) if syntax == "a1111" else None,
            "program": draw(st.sampled_from(["a1111", "comfyui"])),
            "ensd": draw(st.integers(1 - 2**63, 2**63 - 1)),
            "sgm_noise_multiplier": draw(st.booleans()),
            "size_conditioning": {
                "original": draw(st.none() | NUMBERS), "crop": draw(NUMBERS), "target": draw(st.none() | NUMBERS),
            },
        }
    )  # fmt: skip


@given(suites())
def test_a_render_of_ours_gives_back_all_of_its_settings(suite: SuiteSettings) -> None:
    found = read(write_infotext(suite.items()[0], suite))
    assert found.notes == ()
    again = {name: getattr(found, name) for name in SUITE_WIDE}
    assert SuiteSettings.model_validate({**again, "prompts": [prompt_settings(found)]}).items() == suite.items()
    assert again == {name: getattr(suite, name) for name in SUITE_WIDE}


@given(suites(), st.text(min_size=1), st.booleans())
def test_the_name_of_a_model_changes_no_other_setting(suite: SuiteSettings, name: str, has_file: bool) -> None:
    item = suite.items()[0]
    model = ModelNames(name=name, sha256="a" * 10) if has_file else ModelNames(name=name, recipe="b" * 10)
    assert read(write_infotext(item, suite, model)) == read(write_infotext(item, suite))


def test_a_model_is_named_as_a1111_names_it() -> None:
    suite = SuiteSettings.model_validate({"prompts": ["a lion"]})
    file = ModelNames(name="dreamshaper_8", sha256="879db523c3")
    assert "Size: 512x512, Clip skip: 1, Model hash: 879db523c3, Model: dreamshaper_8, RNG: CPU" in write_infotext(
        suite.items()[0], suite, file
    )
    merge = ModelNames(name="cats, dogs: 2-trial-7", recipe="0123456789")
    assert 'Model: "cats, dogs: 2-trial-7", Recipe hash: 0123456789' in write_infotext(suite.items()[0], suite, merge)


@given(suites())
def test_a_suite_that_is_written_as_yaml_reads_back(suite: SuiteSettings) -> None:
    found = read(write_infotext(suite.items()[0], suite))
    chosen = one_suite([("a.png", found)])
    section = parse_yaml(suite_section(chosen.settings, chosen.pictures), "suite", SpecError)["suite"]
    assert SuiteSettings.model_validate(section).items() == suite.items()
    assert {name: section.get(name) for name in ("ensd", "program")} == {
        "ensd": suite.ensd or None, "program": suite.program if suite.program == "comfyui" else None,
    }  # fmt: skip


def test_the_usual_render_is_written_as_a1111_writes_it() -> None:
    suite = SuiteSettings.model_validate({"prompts": ["a (red:1.2) lion,\nbig"], "negative": "dark"})
    assert write_infotext(suite.items()[0], suite) == (
        "a (red:1.2) lion,\nbig\nNegative prompt: dark\nSteps: 20, Sampler: DPM++ 2M, Schedule type: Karras, "
        "CFG scale: 7.0, Seed: 0, Size: 512x512, Clip skip: 1, RNG: CPU, Version: mergetune"
    )


@pytest.mark.parametrize("program", ["a1111", "comfyui"])
@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"sampler": "euler_ancestral"}, "Sampler: Euler a, Schedule type: Uniform, "),
        ({"sampler": "dpmpp_2m_sde", "schedule": "exponential"}, "Sampler: DPM++ 2M SDE, Schedule type: Exponential, "),
        ({"sampler": "ddim_a1111"}, "Sampler: DDIM, CFG scale: "),
        ({"sampler": "ddim_comfyui"}, "Sampler: DDIM, Schedule type: DDIM, "),
        ({"sampler": "uni_pc_a1111"}, "Sampler: UniPC, CFG scale: "),
        ({"sampler": "lms_a1111", "schedule": "align_your_steps"}, "Sampler: LMS, Schedule type: Align Your Steps, "),
        ({"sampler": "res_multistep", "schedule": "turbo"}, "Sampler: res_multistep, Schedule type: turbo, "),
    ],
)
def test_samplers_have_the_names_that_a1111_knows(written: Mapping[str, str], said: str, program: str) -> None:
    suite = SuiteSettings.model_validate({"prompts": ["a lion"], "program": program, "schedule": None, **written})
    text = write_infotext(suite.items()[0], suite)
    assert said in text
    assert read(text).sampler == suite.items()[0].sampling.sampler
    is_other = (
        written["sampler"] in {"ddim_comfyui", "uni_pc_a1111", "ddim_a1111"} and f"_{program}" not in written["sampler"]
    )
    assert not is_other or "Sampler form" in text  # the menu's name means the program's own


def test_loras_stay_in_the_prompt_and_other_tags_do_not() -> None:
    found = read(f"a <lora:x:0.8> lion <hypernet:net:1>\nNegative prompt: dark <lora:y:1>\n{LINE}")
    assert (found.prompt, found.negative) == ("a <lora:x:0.8> lion", "dark")
    said = "; ".join(found.notes)
    assert "its prompt names LoRAs: x (" in said
    assert "taken out of the prompt, as A1111 does: <hypernet:net:1>" in said
    assert "taken out of the prompt, as A1111 does: <lora:y:1>" in said


def test_a_render_of_ours_names_the_loras_of_its_suite() -> None:
    loras = [{"path": "/loras/ink, old.safetensors", "strength": 0.8}, {"path": "/loras/x.pt", "text_strength": 0}]
    suite = SuiteSettings.model_validate({"prompts": ["a <lora:y:0.5> lion"], "loras": loras})
    text = write_infotext(suite.items()[0], suite)
    assert 'Suite LoRAs: "ink, old 0.8; x 1 (text 0)"' in text
    found = read(text)
    assert found.prompt == "a <lora:y:0.5> lion"
    assert "`loras` of its suite: ink, old 0.8; x 1 (text 0)" in "; ".join(found.notes)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("CFG Rescale: 0.7", "its CFG rescale (see `cfg_rescale` of a suite)"),
        ("PAG Active: True, PAG Scale: 3.0", "perturbed-attention guidance (see `pag` of a suite)"),
        ("pagi_enabled: True, pagi_scale: 3.0", "perturbed-attention guidance (see `pag` of a suite)"),
    ],
)
def test_guidance_of_extensions_of_a1111_is_told(more: str, told: str) -> None:
    assert f"not repeated: {told}" in read(f"a lion\n{LINE}, {more}").notes


def test_lines_of_a_prompt_stay_lines() -> None:
    found = read(f"a lion, # the king\n  a fox <lora:x:1>\r\n\nNegative prompt: dark, # night\nfog\n{LINE}")
    assert (found.prompt, found.negative) == ("a lion, # the king\na fox <lora:x:1>", "dark, # night\nfog")
    chosen = one_suite([("a.png", found)])
    section = parse_yaml(suite_section(chosen.settings, chosen.pictures), "suite", SpecError)["suite"]
    assert section["prompts"][0]["prompt"] == found.prompt


@pytest.mark.parametrize(
    ("more", "setting", "value"),
    [
        (", Emphasis: No norm", "emphasis", "no_norm"),
        (", Emphasis: None", "emphasis", "none"),
        (", Emphasis: Ignore", "emphasis", "ignore"),
        ("", "emphasis", "original"),
        (", SGM noise multiplier: True", "sgm_noise_multiplier", True),
        ("", "sgm_noise_multiplier", False),
        (", ENSD: 31337", "ensd", 31337),
        ("", "ensd", 0),
    ],
)
def test_settings_of_a_whole_suite_are_taken(more: str, setting: str, value: object) -> None:
    found = read(f"a (red) lion\n{LINE}{more}")
    assert getattr(found, setting) == value
    assert found.notes == ()
    assert (found.syntax, found.program, found.size_conditioning) == ("a1111", "a1111", SizeConditioning())


def test_what_plays_no_part_in_a_picture_is_not_said() -> None:
    plain = read(f"a lion\n{LINE.replace('Euler a', 'DPM++ 2M')}")
    assert (plain.emphasis, plain.ensd, plain.sgm_noise_multiplier) == (None, None, False)
    assert read(f"a lion\n{LINE.replace('Euler a', 'DDIM')}").sgm_noise_multiplier is None


def test_pictures_that_no_suite_can_have_together_are_left_out_with_what_they_have() -> None:
    usual = read(f"a (red) lion\n{LINE}")
    pictures = [
        ("a", usual),
        ("b", replace(usual, seed=2)),
        ("c", replace(usual, ensd=5)),
        ("d", replace(usual, ensd=None)),
    ]
    chosen = one_suite([*pictures, ("e", replace(usual, emphasis="none")), ("f", replace(usual, syntax="plain"))])
    assert [name for name, _ in chosen.pictures] == ["a", "b", "d"]
    assert {name: why.split(",")[0] for name, why in chosen.left_out} == {
        "c": "it was made with `ensd: 5`",
        "e": "it was made with `emphasis: none`",
        "f": "it was made with `syntax: plain`",
    }


@pytest.mark.parametrize("more", ["Noise: foobar", "Syntax: foobar", "Crop: big", "Emphasis: foobar"])
def test_a_picture_that_says_it_is_ours_and_is_not_is_refused(more: str) -> None:
    with pytest.raises(PublishedError, match="expected"):
        read(f"a lion\n{LINE}, Version: mergetune, {more}")


@pytest.mark.parametrize(
    "sampler", ["DPM++ 2M", "DPM++ SDE", "DPM2", "DPM2 a", "DPM++ 2S a", "DPM++ 2M SDE", "DPM++ 3M SDE"]
)
def test_a_sampler_that_names_no_schedule_has_the_levels_of_its_time(sampler: str) -> None:
    line = LINE.replace("Euler a", sampler)
    old = read(f"a lion\n{line}, Version: v1.6.0")
    assert (old.schedule, old.notes) == ("normal", ())
    unknown = read(f"a lion\n{line}")
    assert unknown.schedule == "normal"
    assert "names no schedule" in unknown.notes[0]
    assert read(f"a lion\n{line}, Version: f0.0.17v1.8.0rc-latest-276-g29be1da7").notes == ()
    for named in (f"{line}, Schedule type: Automatic, Version: v1.9.4", line.replace(sampler, f"{sampler} Automatic")):
        assert (read(f"a lion\n{named}").schedule, read(f"a lion\n{named}").notes) == (None, ())
    joint = read(f"a lion\n{line.replace(sampler, f'{sampler} Karras')}")
    assert (joint.schedule, joint.notes) == ("karras", ())


@pytest.mark.parametrize("sampler", ["Euler", "Heun", "LMS", "DDIM", "UniPC", "LCM"])
def test_a_sampler_whose_usual_levels_are_those_of_any_time_has_no_note(sampler: str) -> None:
    found = read(f"a lion\n{LINE.replace('Euler a', sampler)}")
    assert (found.schedule, found.notes) == (None, ())


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("Beta schedule alpha: 0.3, Beta schedule beta: 0.9", "levels of the schedule Beta"),
        ("Downcast alphas_cumprod: True", "half precision"),
        ("Old prompt editing timelines: True", "prompt editing"),
        ("Hypernet: ink, Hypernet strength: 0.5", "a hypernetwork"),
        ("Extra noise: 0.3", "extra noise"),
        ("Use old emphasis implementation: True", "old way of emphasis"),
        ("UniPC variant: bh2", "its own UniPC"),
        ("UniPC order: 2", "its own UniPC"),
        ("UniPC skip type: logSNR", "its own UniPC"),
        ("UniPC lower order final: False", "its own UniPC"),
        ("Image CFG scale: 1.5", "an image"),
        ("FP8 weight: Enable", "8 bits"),
        ("VAE Decoder: TAESD", "a decoder"),
        ("AddNet Enabled: True, AddNet Model 1: ink(abc)", "Additional Networks"),
        ("Hypertile U-Net: True", "HyperTile"),
        ("Sigma noise: 1.01", "churn"),
        (
            "Somebodys strength: 3, Another Key: x",
            "not known here, and so not repeated: Somebodys strength, Another Key",
        ),
        ("Clip skip: 4", "SDXL"),
    ],
)
def test_what_shapes_a_picture_and_is_no_setting_of_a_suite_is_told(more: str, told: str) -> None:
    (note,) = read(f"a lion\n{LINE}, {more}").notes
    assert told in note


@pytest.mark.parametrize(
    "more",
    [
        "Beta schedule alpha: 0.6, Beta schedule beta: 0.60",
        "UniPC variant: bh1, UniPC order: 3, UniPC skip type: time_uniform, UniPC lower order final: True",
        "Tiling: False, Downcast alphas_cumprod: False",
        "Sigma churn: 0, Sigma tmin: 0, Sigma noise: 1.0",
        "Noise Schedule: Default, FP8 weight: Disable",
        'Model: x, Model hash: 6ce0161689, VAE: y.pt, Clip skip: 2, TI hashes: "bad: 12", Version: v1.10.1',
    ],
)
def test_a_setting_with_its_usual_value_is_not_told(more: str) -> None:
    assert read(f"a lion\n{LINE}, {more}").notes == ()


@pytest.mark.parametrize(
    ("size", "first", "rendered"),
    [
        ("1024x768", "512x384", (512, 384)),
        ("1024x1024", "0x0", (512, 512)),
        ("640x960", "0x0", (448, 640)),
        ("1024x768", "0x0", (640, 448)),
        ("768x768", "512x0", (512, 512)),
    ],
)
def test_the_first_pass_of_the_first_hires_fix_is_rendered(size: str, first: str, rendered: tuple[int, int]) -> None:
    line = LINE.replace("512x512", size)
    found = read(f"a lion\n{line}, Denoising strength: 0.7, First pass size: {first}")
    assert (found.width, found.height) == rendered
    assert found.notes == ("not repeated: hires fix (the first pass alone is rendered)",)


class TestSecondPasses:
    @pytest.mark.parametrize(
        ("more", "expected"),
        [
            ("Hires upscale: 2, Hires upscaler: Latent", HiresSettings(denoise=0.45)),
            ("Hires upscale: 1.5, Hires steps: 12, Hires upscaler: Lanczos",
             HiresSettings(scale=1.5, steps=12, denoise=0.45, upscaler="lanczos")),
            ("Hires resize: 1024x1024, Hires steps: 0, Hires upscaler: Latent (nearest-exact)",
             HiresSettings(denoise=0.45, upscaler="latent_nearest_exact")),
            ("Hires resize: 0x768, Hires upscaler: None", HiresSettings(scale=1.5, denoise=0.45, upscaler="lanczos")),
            (f"{LATENT}, Hires CFG Scale: 7, Hires sampler: Euler a", HiresSettings(denoise=0.45)),
            (f"{LATENT}, Hires schedule type: Use same scheduler, Hires Module 1: Use same choices",
             HiresSettings(denoise=0.45)),
        ],
    )  # fmt: skip
    def test_are_read(self, more: str, expected: HiresSettings) -> None:
        found = read(f"a lion\n{LINE}, Denoising strength: 0.45, {more}")
        assert (found.hires, found.notes) == (expected, ())

    def test_a_resize_is_a_scale_of_the_size_that_the_picture_has(self) -> None:
        line = LINE.replace("512x512", "600x904")
        found = read(f"a lion\n{line}, Denoising strength: 0.5, Hires resize: 1200x1808, Hires upscaler: Latent")
        assert found.hires == HiresSettings(scale=2, denoise=0.5)
        assert found.notes == ("size 600x904 is rendered as 576x896: multiples of 64",)

    @pytest.mark.parametrize(
        ("more", "told"),
        [
            ("Hires upscale: 2, Hires upscaler: R-ESRGAN 4x+", "`upscaler`: 'R-ESRGAN 4x+' is no upscaler of a suite"),
            ("Hires upscale: 2, Hires upscaler: 4x_foolhardy_Remacri", "ESRGAN, are not read"),
            ("Hires resize: 768x1024, Hires upscaler: Latent", "its size 768x1024 is no scale of the first's"),
            ("Hires upscale: 8.5, Hires upscaler: Latent", "`scale`: input should be less than or equal to 8"),
            ("Hires upscale: nan, Hires upscaler: Latent", "its size nan is no scale"),
            ("Hires upscale: 1e400, Hires upscaler: Latent", "its size 1e400 is no scale"),
            ("Hires upscale: 0, Hires upscaler: Latent", "`scale`: input should be greater than or equal to 1"),
            ("Hires steps: 12, Hires upscaler: Latent", "its size is not named, which is no scale"),
            ("Hires upscale: 8, Hires resize: 6144x6144, Hires upscaler: Latent", "`scale`: input should be less"),
            ("Hires upscale: 2, Hires steps: 900, Hires upscaler: Latent", "the last of 2,000, and a model has 1000"),
            ("Hires upscale: lots, Hires upscaler: Latent", "its size lots is no scale of the first's"),
            ("Hires upscale: 2, Hires steps: many, Hires upscaler: Latent", "`steps`: input should be a valid integer"),
        ],
    )
    def test_what_cannot_be_had_is_told_and_the_first_pass_rendered(self, more: str, told: str) -> None:
        found = read(f"a lion\n{LINE}, Denoising strength: 0.45, {more}")
        assert found.hires is None
        (note,) = found.notes
        assert told in note
        assert note.endswith("the first pass alone is rendered")

    @pytest.mark.parametrize(
        ("was", "given", "told"),
        [
            ("Steps: 20", "Steps: 800", "hires makes 800 steps at denoise 0.45, the last of 1,778"),
            ("512x512", "1030x1030", "hires of 1024x1024 gives 6144x6144, and at most 4096 are rendered"),
            ("512x512", "680x680", "hires of 704x704 gives 4224x4224"),  # 680 times 6 would be 4080
        ],
    )
    def test_one_that_no_suite_can_have_is_told_by_the_suites_limits(self, was: str, given: str, told: str) -> None:
        hires = "Denoising strength: 0.45, Hires upscale: 6, Hires upscaler: None"
        found = read(f"a lion\n{LINE.replace(was, given)}, {hires}")
        assert told in found.notes[0]
        SuiteSettings.model_validate({"prompts": [prompt_settings(found)]})

    def test_without_a_strength_there_is_none(self) -> None:
        found = read(f"a lion\n{LINE}, Hires upscale: 2, Hires upscaler: Latent")
        assert found.hires is None
        assert "it names no `Denoising strength`" in found.notes[0]

    @pytest.mark.parametrize(
        ("more", "told"),
        [
            ("Hires prompt: other", "the second pass's own prompt"),
            ("Hires CFG Scale: 3", "the second pass's own CFG"),
            ("Hires checkpoint: x.safetensors [123]", "the second pass's own checkpoint"),
            ("Hires wonder: 1", "the second pass's own settings"),
        ],
    )
    def test_settings_of_its_own_are_told(self, more: str, told: str) -> None:
        found = read(f"a lion\n{LINE}, Denoising strength: 0.4, Hires upscale: 2, Hires upscaler: Latent, {more}")
        assert found.hires == HiresSettings(denoise=0.4)
        assert found.notes == (f"not repeated: {told}",)


@pytest.mark.parametrize("more", ["Denoising strength: 0.7", "Denoising strength: 0.7, Mask blur: 4"])
def test_a_picture_that_was_made_from_another_is_refused(more: str) -> None:
    with pytest.raises(PublishedError, match="img2img"):
        read(f"a lion\n{LINE}, {more}")
