"""Keys and values of a spec in the words of other programs, and what of a suite is not read as it looks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from studies.errors import SpecError
from studies.spec.study import StudySpec, load_spec_and_notes, parse_spec

HERE = Path("/")


def written(suite: dict[str, Any], **more: Any) -> str:
    data = {"study": "words", "parents": ["a.safetensors", "b.safetensors"], "scorers": {"sharpness": None}}
    return yaml.safe_dump({**data, "suite": {"prompts": ["a lion"], **suite}, **more}, sort_keys=False)


def parsed(suite: dict[str, Any], **more: Any) -> StudySpec:
    return parse_spec(written(suite, **more), base_dir=HERE)


def refusal(suite: dict[str, Any], **more: Any) -> str:
    with pytest.raises(SpecError) as caught:
        parsed(suite, **more)
    return str(caught.value)


class TestKeys:
    @pytest.mark.parametrize(
        ("key", "advice"),
        [
            ("cfg_scale", "did you mean `cfg`?"),
            ("guidance_scale", "did you mean `cfg`?"),
            ("CFG", "did you mean `cfg`?"),
            ("sampler_name", "did you mean `sampler`?"),
            ("scheduler", "did you mean `schedule`?"),
            ("negative_prompt", "did you mean `negative`?"),
            ("seed", "did you mean `seeds`?"),
            ("clipSkip", "did you mean `clip_skip`?"),
            ("CLIP_stop_at_last_layers", "did you mean `clip_skip`?"),
            ("num_inference_steps", "did you mean `steps`?"),
            ("width", "write `sizes: [512x768]`"),
            ("batch_size", "write several `seeds`"),
            ("n_iter", "write several `seeds`"),
            ("lora", "LoRAs on top of every render stand under `loras` of the suite"),
            ("denoising_strength", "it is `denoise` of `hires: "),
            ("enable_hr", "did you mean `hires`?"),
            ("refiner", "there is no such step here"),
        ],
    )
    def test_a_key_of_another_program_is_told_as_ours(self, key: str, advice: str) -> None:
        assert f"unknown key `suite.{key}`: {advice}" in refusal({key: 1})
        assert f"unknown key `suite.prompts.0.{key}`: {advice}" in refusal({"prompts": [{"prompt": "a", key: 1}]})

    def test_pictures_are_not_taken_for_sizes(self) -> None:
        assert "`sizes`" not in refusal({"images": 3})
        assert "did you mean `image`?" in refusal({"prompts": [{"images": "x.png"}]})
        assert "did you mean `image`?" in refusal({"prompts": [{"picture": "x.png"}]})

    @pytest.mark.parametrize(
        ("key", "advice"),
        [
            ("prompts", "`prompts` stands under `suite`"),
            ("cfg_scale", "`cfg` stands under `suite`"),
            ("negative_prompt", "`negative` stands under `suite`"),
            ("trials", "`trials` stands under `budget`"),
            ("name", "did you mean `study`?"),
            ("models", "did you mean `parents`?"),
        ],
    )
    def test_a_key_in_the_wrong_section_is_sent_to_the_right_one(self, key: str, advice: str) -> None:
        assert f"unknown key `{key}`: {advice}" in refusal({}, **{key: 1})

    @pytest.mark.parametrize("value", ["Euler a", "dpmpp_2m", {"name": "DPM++ 2M Karras"}, {"name": "ddim"}])
    def test_a_sampler_of_images_is_sent_to_the_suite(self, value: Any) -> None:
        message = refusal({}, sampler=value)
        assert "it proposes merges" in message
        assert "the sampler of images stands under `suite`" in message


class TestValues:
    @pytest.mark.parametrize(
        ("sizes", "expected"),
        [
            (512, ((512, 512),)),
            ("512x768", ((512, 768),)),
            (["512x768", 512, "640 X 512"], ((512, 768), (512, 512), (640, 512))),
        ],
    )
    def test_sizes_may_be_written_short(self, sizes: Any, expected: tuple[tuple[int, int], ...]) -> None:
        assert parsed({"sizes": sizes}).suite.sizes == expected
        assert parsed({"prompts": [{"prompt": "a lion", "sizes": sizes}]}).suite.prompts[0].sizes == expected

    @pytest.mark.parametrize("sizes", ["big", ["512 by 768"], "768"])
    def test_a_text_that_is_no_size_is_refused_with_how_to_write_one(self, sizes: Any) -> None:
        assert "write a size as 512x768" in refusal({"sizes": sizes})

    def test_one_seed_may_stand_without_a_list(self) -> None:
        spec = parsed({"seeds": 5}, final={"seeds": 9})
        assert (spec.suite.seeds, spec.final.seeds) == ((5,), (9,))

    @pytest.mark.parametrize(
        ("setting", "value", "expected"),
        [
            ("syntax", "A1111", "a1111"),
            ("syntax", "ComfyUI", "comfyui"),
            ("program", "Comfy UI", "comfyui"),
            ("program", "AUTOMATIC1111", "a1111"),
            ("emphasis", "No norm", "no_norm"),
            ("prediction", "V-prediction", "v_prediction"),
        ],
    )
    def test_capitals_and_signs_of_names_do_not_matter(self, setting: str, value: str, expected: str) -> None:
        suite = parsed({setting: value}).suite
        assert getattr(suite, setting) == expected
        assert suite == parsed({setting: expected}).suite

    @pytest.mark.parametrize(
        ("setting", "value", "advice"),
        [
            ("program", "forge", "write a1111, which comes closest"),
            ("syntax", "SD.Next", "write a1111, which comes closest"),
            ("program", "comfyiu", "did you mean comfyui?"),
            ("emphasis", "strong", "use one of original, no_norm, none, ignore"),
        ],
    )
    def test_an_unknown_name_is_refused_with_what_to_write_and_for_nothing_else(
        self, setting: str, value: str, advice: str
    ) -> None:
        message = refusal({setting: value})
        assert advice in message
        assert message.count(value) == 1
        assert "more)" not in message


@pytest.mark.parametrize("prompt", ["[cat|dog] in snow", "{red|blue} cat", "[cat:dog:0.5], x", "{2$$a|b} in rain"])
def test_brackets_that_yaml_takes_for_lists_and_mappings_are_among_what_needs_quotes(prompt: str) -> None:
    with pytest.raises(SpecError, match=r"put a text in quotes that begins with .*\[ \{"):
        parse_spec(f"suite:\n  prompts:\n    - {prompt}\n", base_dir=HERE)


class TestNotes:
    def notes(self, folder: Path, suite: dict[str, Any], **more: Any) -> tuple[str, ...]:
        (folder / "spec.yaml").write_text(written(suite, **more))
        return load_spec_and_notes(folder / "spec.yaml").notes

    @pytest.mark.parametrize(
        "suite",
        [
            {"sampler": "DDIM", "schedule": "karras"},
            {"sampler": "DDIM Karras"},
            {"sampler": "UniPC", "schedule": "exponential"},
            {"prompts": [{"prompt": "a", "sampler": "ddim_a1111", "schedule": "simple"}], "program": "ComfyUI"},
            {"sampler": "UniPC", "prompts": [{"prompt": "a", "schedule": "beta"}]},
        ],
    )
    def test_a_schedule_that_the_sampler_does_not_read_is_noted(self, tmp_path: Path, suite: dict[str, Any]) -> None:
        (note,) = self.notes(tmp_path, suite)
        assert "is not read, because" in note
        assert "_comfyui`" in note

    @pytest.mark.parametrize(
        "suite",
        [
            {"sampler": "DDIM"},
            {"sampler": "DDIM", "schedule": "ddim_uniform"},
            {"sampler": "DDIM", "schedule": "auto"},
            {"sampler": "DDIM", "schedule": "karras", "program": "comfyui"},
            {"sampler": "Euler a", "schedule": "karras"},
            {"prompts": [{"prompt": "a", "schedule": "karras"}]},
        ],
    )
    def test_a_schedule_that_is_read_is_not_noted(self, tmp_path: Path, suite: dict[str, Any]) -> None:
        assert self.notes(tmp_path, suite) == ()

    @pytest.mark.parametrize(
        ("suite", "advice"),
        [
            ({"prompts": ["{red|blue} cat"]}, "`dynamic: true`"),
            ({"prompts": ["a {red|blue} __animal__"]}, "`wildcards: FOLDER`"),
            ({"negative": "__bad/hands__"}, "`wildcards: FOLDER`"),
            ({"prompts": [{"prompt": "a", "negative": "{x|y}"}]}, "`dynamic: true`"),
        ],
    )
    def test_dynamic_prompts_that_are_off_are_noted(self, tmp_path: Path, suite: dict[str, Any], advice: str) -> None:
        (note,) = self.notes(tmp_path, suite)
        assert f"is read as words: set {advice}" in note

    def test_dynamic_prompts_of_the_final_are_noted_too(self, tmp_path: Path) -> None:
        (note,) = self.notes(tmp_path, {}, final={"prompts": ["{red|blue} cat"]})
        assert note.startswith("final.prompts.0: {red|blue}")

    @pytest.mark.parametrize("dynamic", [True, False])
    def test_a_spec_that_says_whether_prompts_are_dynamic_gets_no_note(self, tmp_path: Path, dynamic: bool) -> None:
        assert self.notes(tmp_path, {"prompts": ["{red|blue} cat"], "dynamic": dynamic}) == ()

    @pytest.mark.parametrize("prompt", ["pics/a.png", {"prompt": "pics/a.png"}])
    def test_a_prompt_that_is_the_name_of_a_file_is_noted(self, tmp_path: Path, prompt: Any) -> None:
        (tmp_path / "pics").mkdir()
        (tmp_path / "pics" / "a.png").touch()
        (note,) = self.notes(tmp_path, {"prompts": [prompt, "pics/b.png"]})
        assert "write `image: pics/a.png`" in note
