"""Names of samplers and schedules as people write them, and stored specs of the time when one name meant both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from studies.errors import StudyChangedError
from studies.spec.former import as_now, former_scheduler, refuse_other_renders
from studies.spec.sampler_names import read_sampler, read_schedule
from studies.spec.samplers import PROGRAMS, SAMPLERS, SCHEDULES, usual_schedule
from studies.spec.study import StudySpec, parse_spec
from studies.spec.suite import SuiteSettings


def suite(**changes: Any) -> SuiteSettings:
    return SuiteSettings.model_validate({"prompts": ["a cat"]} | changes)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Euler a", ("euler_ancestral", None)),
        ("Euler", ("euler", None)),
        ("LMS", ("lms", None)),
        ("Heun", ("heun", None)),
        ("DPM2", ("dpm_2", None)),
        ("DPM2 a Karras", ("dpm_2_ancestral", "karras")),
        ("DPM++ 2S a", ("dpmpp_2s_ancestral", None)),
        ("DPM++ 2M", ("dpmpp_2m", None)),
        ("DPM++ 2M Karras", ("dpmpp_2m", "karras")),
        ("dpm++ 2m sde karras", ("dpmpp_2m_sde", "karras")),
        ("DPM++ 2M SDE Heun Exponential", ("dpmpp_2m_sde_heun", "exponential")),
        ("DPM++ 3M SDE", ("dpmpp_3m_sde", None)),
        ("DPM++ SDE", ("dpmpp_sde", None)),
        ("DDIM", ("ddim", None)),
        ("UniPC", ("uni_pc", None)),
        ("LCM", ("lcm", None)),
        ("Euler SGM Uniform", ("euler", "sgm_uniform")),
        ("Euler Automatic", ("euler", None)),
        ("k_euler_a", ("euler_ancestral", None)),
        ("dpmpp_2m_sde_gpu", ("dpmpp_2m_sde", None)),
        ("dpmpp_2m_sde_gpu_karras", ("dpmpp_2m_sde", "karras")),
        ("DPM++ 2M SDE GPU Karras", ("dpmpp_2m_sde", "karras")),
        ("dpmpp_3m_sde_gpu exponential", ("dpmpp_3m_sde", "exponential")),
        ("dpmpp_sde_k", ("dpmpp_sde", "karras")),
        ("RES-multistep", ("res_multistep", None)),
    ],
)
def test_samplers_are_known_by_the_names_of_other_programs(text: str, expected: tuple[str, str | None]) -> None:
    assert read_sampler(text) == expected


def test_every_name_is_its_own_and_every_pair_is_understood() -> None:
    for sampler in SAMPLERS:
        assert read_sampler(sampler) == read_sampler(sampler.upper().replace("_", " ")) == (sampler, None)
        assert usual_schedule(sampler) in SCHEDULES
        for schedule in SCHEDULES:
            assert read_sampler(f"{sampler} {schedule}") == (sampler, schedule)
    assert [read_schedule(name.replace("_", " ").title()) for name in SCHEDULES] == list(SCHEDULES)
    assert read_schedule("Automatic") is None
    assert read_schedule("Uniform") == "normal"


@pytest.mark.parametrize(
    ("text", "advice"),
    [("eulr", "did you mean euler"), ("dpmpp2", "did you mean dpm"), ("xyz", "docs/reference/spec.md lists all")],
)
def test_an_unknown_name_is_refused_with_those_that_are_close(text: str, advice: str) -> None:
    with pytest.raises(ValueError, match=f"there is no sampler '{text}': {advice}"):
        read_sampler(text)


@pytest.mark.parametrize(
    ("text", "schedule"),
    [
        ("DPM++ 2M SDE Karas", "'karas' that there is not: did you mean karras"),
        ("Euler a exponental", "'exponental' that there is not: did you mean exponential"),
        ("ddim_sgm_unifrom", "'sgmunifrom' that there is not: did you mean sgm_uniform"),
    ],
)
def test_a_misspelt_schedule_of_a_joint_name_is_told_apart_from_its_sampler(text: str, schedule: str) -> None:
    with pytest.raises(ValueError, match=schedule):
        read_sampler(text)


@pytest.mark.parametrize("text", ["ddim_uniform", "karras", "SGM Uniform", "Align Your Steps", "beta"])
def test_a_schedule_in_the_place_of_a_sampler_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"is a schedule: write it as `schedule: {read_schedule(text)}`"):
        read_sampler(text)


@pytest.mark.parametrize("text", ["Euler a", "dpmpp_2m", "UniPC"])
def test_a_sampler_in_the_place_of_a_schedule_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"is a sampler: write it as `sampler: {read_sampler(text)[0]}`"):
        read_schedule(text)


@pytest.mark.parametrize(
    ("text", "close"),
    [
        ("DPM fast", "dpmpp_2m"),
        ("DPM adaptive", "dpmpp_2m"),
        ("k_dpm_fast", "dpmpp_2m"),
        ("Restart Karras", "heun"),
        ("DEIS", "dpmpp_2m"),
        ("heunpp2", "heun"),
        ("ipndm_v", "lms"),
        ("Euler CFG++", "euler"),
        ("euler_ancestral_cfg_pp", "euler_ancestral"),
        ("TCD", "lcm"),
        ("gradient_estimation", "euler"),
        ("er_sde", "dpmpp_3m_sde"),
        ("sa_solver_pece", "dpmpp_2m_sde"),
    ],
)
def test_a_sampler_of_other_programs_that_is_not_offered_is_told_with_the_closest_one(text: str, close: str) -> None:
    with pytest.raises(ValueError, match=f"is not supported: {close} comes closest"):
        read_sampler(text)


@pytest.mark.parametrize("text", ["linear_quadratic", "Align Your Steps GITS"])
def test_a_schedule_that_is_not_offered_is_told_with_the_closest_one(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not supported: (simple|align_your_steps) comes closest"):
        read_schedule(text)


@pytest.mark.parametrize("text", ["ddmi", "unipcc", "lcmm", "lmss", "dpmpp"])
def test_no_form_of_one_program_is_suggested(text: str) -> None:
    with pytest.raises(ValueError, match="did you mean") as caught:
        read_sampler(text)
    assert not any(f"_{program}" in str(caught.value) for program in PROGRAMS)


@pytest.mark.parametrize("text", ["karas", "sgm_unifrom"])
def test_an_unknown_schedule_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"there is no schedule '{text}': did you mean (karras|sgm_uniform)?"):
        read_schedule(text)


class TestSuites:
    def test_automatic_is_written_out_when_parsed(self) -> None:
        assert (suite().sampler, suite().schedule) == ("dpmpp_2m", "karras")
        assert suite(sampler="Euler", schedule="auto").schedule == "normal"
        assert suite(sampler="DPM++ 2M SDE").schedule == "exponential"
        assert suite(sampler="DPM++ 2M SDE Karras").schedule == "karras"

    def test_a_stored_suite_is_read_as_it_was(self) -> None:
        written = suite(sampler="DPM2 a", program="comfyui", prompts=[{"prompt": "x", "sampler": "lms karras"}])
        assert SuiteSettings.model_validate_json(written.model_dump_json()) == written

    def test_two_schedules_are_refused_unless_they_are_the_same(self) -> None:
        assert suite(sampler="DPM++ 2M Karras", schedule="karras").schedule == "karras"
        with pytest.raises(ValidationError, match="has the schedule karras in its name, and `schedule` says simple"):
            suite(sampler="DPM++ 2M Karras", schedule="simple")

    def test_a_prompts_own_settings_come_first(self) -> None:
        rows = [
            {"prompt": "a"},
            {"prompt": "b", "sampler": "Euler a", "steps": 30},
            {"prompt": "c", "schedule": "simple", "cfg": 0, "clip_skip": 3},
        ]
        items = suite(prompts=rows, steps=8, cfg=4).items()
        assert [(each.sampling.sampler, each.sampling.schedule, each.sampling.steps) for each in items] == [
            ("dpmpp_2m", "karras", 8),
            ("euler_ancestral", "normal", 30),
            ("dpmpp_2m", "simple", 8),
        ]
        assert [each.sampling.cfg for each in items] == [4, 4, 0]
        assert [each.clip_skip for each in items] == [1, 1, 3]

    def test_one_prompt_may_be_rendered_in_two_ways_but_not_twice_in_one(self) -> None:
        assert len(suite(prompts=["x", {"prompt": "x", "steps": 9}]).items()) == 2
        with pytest.raises(ValidationError, match="the same render twice"):
            suite(prompts=["x", {"prompt": "x", "steps": 20}])


class TestForms:
    """A1111's and ComfyUI's samplers of one name."""

    @pytest.mark.parametrize(
        ("text", "a1111", "comfyui"),
        [
            ("DDIM", ("ddim_a1111", "ddim_uniform"), ("ddim", "ddim_uniform")),
            ("ddim karras", ("ddim_a1111", "ddim_uniform"), ("ddim", "karras")),
            ("UniPC", ("uni_pc_a1111", "time_uniform"), ("uni_pc", "normal")),
            ("uni_pc Simple", ("uni_pc_a1111", "time_uniform"), ("uni_pc", "simple")),
            ("LMS", ("lms_a1111", "normal"), ("lms", "normal")),
            ("LMS Karras", ("lms_a1111", "karras"), ("lms", "karras")),
            ("LCM", ("lcm_a1111", "normal"), ("lcm", "sgm_uniform")),
            ("lcm sgm_uniform", ("lcm_a1111", "sgm_uniform"), ("lcm", "sgm_uniform")),
            ("Euler a", ("euler_ancestral", "normal"), ("euler_ancestral", "normal")),
            ("ddim_comfyui karras", ("ddim_comfyui", "karras"), ("ddim_comfyui", "karras")),
            ("uni_pc_a1111", ("uni_pc_a1111", "time_uniform"), ("uni_pc_a1111", "time_uniform")),
        ],
    )
    def test_a_name_means_the_programs_own(self, text: str, a1111: tuple[str, str], comfyui: tuple[str, str]) -> None:
        for program, expected in (("a1111", a1111), ("comfyui", comfyui)):
            whole = suite(sampler=text, program=program)
            assert (whole.sampler, whole.schedule) == expected
            (item,) = suite(prompts=[{"prompt": "x", "sampler": text}], program=program).items()
            assert (item.sampling.sampler, item.sampling.schedule) == expected

    @pytest.mark.parametrize("program", ["a1111", "comfyui"])
    def test_what_is_written_out_is_read_as_it_was(self, program: str) -> None:
        rows = [{"prompt": name, "sampler": name} for name in SAMPLERS]
        written = suite(prompts=rows, sampler="UniPC", program=program)
        assert SuiteSettings.model_validate_json(written.model_dump_json()) == written
        assert SuiteSettings.model_validate(written.model_dump()) == written

    @pytest.mark.parametrize("sampler", ["DDIM", "UniPC"])
    def test_a_schedule_that_its_program_does_not_read_changes_nothing(self, sampler: str) -> None:
        """Whether suite or prompt names the schedule, and whether suite or prompt names the sampler."""
        (expected,) = {item.sampling for item in suite(sampler=sampler).items()}
        for settings in (
            {"sampler": sampler, "schedule": "karras"},
            {"sampler": sampler, "prompts": [{"prompt": "a", "schedule": "karras"}]},
            {"prompts": [{"prompt": "a", "sampler": sampler, "schedule": "karras"}]},
            {"schedule": "karras", "prompts": [{"prompt": "a", "sampler": sampler}]},
        ):
            assert {item.sampling for item in suite(**settings).items()} == {expected}, settings

    @pytest.mark.parametrize("name", ["DDIM", "LCM", "LMS", "UniPC", "lcm_comfyui", "DPM++ 2M Karras", "Euler a"])
    def test_the_finals_own_prompts_mean_the_same_once_they_are_stored(self, name: str) -> None:
        spec = parse_spec(
            "{study: x, parents: [A.safetensors, B.safetensors], suite: {prompts: [a], sampler: euler}, "
            f"scorers: {{sharpness: {{}}}}, final: {{prompts: [{{prompt: b, sampler: {name}}}]}}}}",
            base_dir=Path("/"),
        )
        stored = StudySpec.from_json(spec.to_json())
        assert stored == spec
        assert stored.held_out == spec.held_out
        assert spec.held_out.prompts[0] == suite(prompts=[{"prompt": "b", "sampler": name}]).prompts[0]

    @pytest.mark.parametrize("changes", [{"schedule": "karas"}, {"program": "a111"}, {"program": ["a1111"]}])
    def test_a_slip_beside_it_is_refused(self, changes: dict[str, Any]) -> None:
        with pytest.raises(ValidationError):
            suite(sampler="DDIM", **changes)

    def test_a_stored_spec_of_before_keeps_comfyuis(self) -> None:
        rows = [{"prompt": "a"}, {"prompt": "b", "sampler": "uni_pc", "schedule": "karras"}, "c"]
        before = {"prompts": rows, "sampler": "lcm", "schedule": "sgm_uniform", "noise": "a1111", "syntax": "plain"}
        text = json.dumps({"study": "x", "suite": before, "final": {"prompts": [{"prompt": "d", "sampler": "lms"}]}})
        now = json.loads(as_now(text))
        found = SuiteSettings.model_validate(now["suite"])
        assert (found.sampler, found.schedule) == ("lcm_comfyui", "sgm_uniform")
        assert (found.prompts[1].sampler, found.prompts[1].schedule) == ("uni_pc_comfyui", "karras")
        assert now["final"]["prompts"][0]["sampler"] == "lms_comfyui"
        assert as_now(as_now(text)) == as_now(text)

    def test_a_stored_spec_for_comfyui_stays(self) -> None:
        stored = {
            "prompts": ["a"],
            "sampler": "lcm",
            "schedule": "sgm_uniform",
            "program": "comfyui",
            "syntax": "plain",
        }
        text = json.dumps({"study": "x", "suite": stored})
        assert as_now(text) == text

    @pytest.mark.parametrize("program", ["a1111", "comfyui"])
    def test_a_stored_program_may_be_called_noise(self, program: str) -> None:
        rest = {"prompts": ["a"], "sampler": "euler", "schedule": "karras", "syntax": "plain"}
        now = json.loads(as_now(json.dumps({"study": "x", "suite": {**rest, "noise": program}})))
        assert now["suite"] == {**rest, "program": program}


FORMER = ["ddim", "dpmpp_2m", "dpmpp_2m_karras", "dpmpp_2m_sde_karras", "euler", "euler_a", "heun", "lcm", "unipc"]


class TestFormerSpecs:
    @pytest.mark.parametrize("scheduler", FORMER)
    def test_are_read_as_sampler_and_schedule(self, scheduler: str) -> None:
        text = json.dumps({"study": "x", "suite": {"prompts": [{"prompt": "a"}], "scheduler": scheduler}})
        assert former_scheduler(text) == scheduler
        now = json.loads(as_now(text))["suite"]
        assert "scheduler" not in now
        assert SuiteSettings.model_validate(now).sampler in SAMPLERS
        assert former_scheduler(as_now(text)) is None
        assert as_now(as_now(text)) == as_now(text)

    def test_a_spec_that_left_the_default_out_had_it(self) -> None:
        assert former_scheduler('{"suite": {"prompts": ["a"]}}') == "dpmpp_2m"

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"suite": 3}', "null", "[" * 100_000])
    def test_what_is_no_spec_is_left_to_its_reader(self, text: str) -> None:
        assert as_now(text) == text

    @pytest.mark.parametrize(
        ("scheduler", "steps", "plain_levels"),
        [
            ("lcm", 20, True),
            ("dpmpp_2m_sde_karras", 20, True),
            ("unipc", 20, True),
            ("euler", 30, True),
            ("dpmpp_2m", 20, False),
        ],
    )
    def test_a_study_whose_images_would_differ_does_not_go_on(
        self, scheduler: str, steps: int, plain_levels: bool
    ) -> None:
        with pytest.raises(StudyChangedError, match=f"began with `scheduler: {scheduler}`.*start a new study"):
            refuse_other_renders(scheduler, suite(steps=steps), plain_levels=plain_levels)

    @pytest.mark.parametrize(("scheduler", "steps"), [("dpmpp_2m", 30), ("euler_a", 20), ("heun", 25), (None, 20)])
    def test_others_go_on(self, scheduler: str | None, steps: int) -> None:
        refuse_other_renders(scheduler, suite(steps=steps), plain_levels=scheduler is not None)


@pytest.mark.parametrize("text", ["auto", "Automatic"])
def test_automatic_is_no_sampler(text: str) -> None:
    with pytest.raises(ValueError, match="there is no sampler"):
        read_sampler(text)
