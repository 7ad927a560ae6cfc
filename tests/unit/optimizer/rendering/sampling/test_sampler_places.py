"""Every sampler and schedule stands in all places that a name needs, and in no others."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from optimizer.rendering.sampling import schedules
from optimizer.rendering.sampling.methods import METHODS
from studies.spec.sampler_names import read_sampler, read_schedule
from studies.spec.samplers import (
    A1111_FORMS,
    COMFYUI_FORMS,
    FLOW_SAMPLERS,
    FLOW_SCHEDULES,
    SAMPLER_INFOS,
    SAMPLERS,
    SCHEDULE_INFOS,
    SCHEDULES,
    SamplerName,
    ScheduleName,
)

ROOT = Path(__file__).parents[5]
REFERENCE = (ROOT / "docs" / "reference" / "spec.md").read_text()
SECTION = REFERENCE.partition("### Samplers")[2].partition("\n## ")[0]
PLAIN = [name for name, info in SAMPLER_INFOS.items() if info.form_of is None]
CLOSE_SAMPLERS = [(each, name) for name, info in SAMPLER_INFOS.items() for each in info.closest_to]
CLOSE_SCHEDULES = [(each, name) for name, info in SCHEDULE_INFOS.items() for each in info.closest_to]
TABLES = {"studies/spec/samplers.py", "optimizer/rendering/sampling/methods.py"}
# Modules that name samplers for a reason of their own, which another sampler does not touch.
OTHERS = {
    "studies/spec/former.py",  # what a key of former specs meant
    "studies/spec/presets.py",  # what model cards say
    "studies/spec/suite.py",  # the default
    # What names mean in other programs, or in the absence of one.
    "studies/spec/published/invokeai.py",
    "studies/spec/published/novelai.py",
    "studies/spec/published/swarmui.py",
}


def rows(name: str) -> list[list[str]]:
    """Return the cells of the rows of the reference's tables that begin with a name."""
    found = re.findall(rf"^\| `{re.escape(name)}` \|(.*)\|$", SECTION, re.MULTILINE)
    return [[cell.strip() for cell in row.split("|")] for row in found]


def names_of_flows(key: str) -> list[str]:
    """Return the names in the reference's row of what is defined for a flow."""
    table = REFERENCE.partition("| | defined for a flow |")[2].partition("\n\n")[0]
    (cell,) = re.findall(rf"^\| `{key}` \|(.*)\|$", table, re.MULTILINE)
    return re.findall(r"`(\w+)`", cell)


def test_every_sampler_has_a_record_and_a_method() -> None:
    assert set(SAMPLER_INFOS) == set(METHODS) == set(SAMPLERS)


def test_every_schedule_has_a_record_and_levels() -> None:
    assert set(SCHEDULE_INFOS) == set(SCHEDULES)
    assert {*schedules.SCHEDULES, "align_your_steps"} == set(SCHEDULES)
    assert set(schedules.A1111_SCHEDULES) == set(schedules.SCHEDULES)


def test_what_is_known_of_a_sampler_stands_in_two_tables() -> None:
    naming = set()
    for package in ("studies", "optimizer"):
        for path in (ROOT / package).rglob("*.py"):
            constants = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
            if constants & set(SAMPLERS):
                naming.add(path.relative_to(ROOT).as_posix())
    assert naming == TABLES | OTHERS


def test_a_form_of_a_program_has_its_counterpart_in_the_other() -> None:
    assert set(A1111_FORMS) == set(COMFYUI_FORMS)
    for name, info in SAMPLER_INFOS.items():
        assert (info.form_of is None) == (info.program is None), name


def test_samplers_of_stochastic_equations_take_brownian_noise() -> None:
    for name, info in SAMPLER_INFOS.items():
        assert info.is_brownian == ("sde" in name.split("_")), name


def test_only_samplers_that_are_defined_for_a_flow_say_how_they_sample_one() -> None:
    assert {name for name, method in METHODS.items() if method.sample_flow is not None} <= set(FLOW_SAMPLERS)


# ------------------------------------------------------------------------------------------ the reference


@pytest.mark.parametrize("name", PLAIN)
def test_the_reference_has_a_sampler_with_a1111s_name_and_its_usual_schedule(name: SamplerName) -> None:
    info = SAMPLER_INFOS[name]
    schedule, in_a1111 = info.usual, SAMPLER_INFOS[A1111_FORMS.get(name, name)].usual
    usual = f"`{schedule}`" if schedule == in_a1111 else f"`{schedule}`; in A1111 `{in_a1111}`"
    assert rows(name)[0] == [info.a1111, usual]
    if info.a1111:
        assert read_sampler(info.a1111) == (name, None)


@pytest.mark.parametrize("name", A1111_FORMS)
def test_the_reference_says_how_the_programs_differ(name: SamplerName) -> None:
    *_, a1111, comfyui = rows(name)[1]
    assert (a1111, comfyui) == (f"`{A1111_FORMS[name]}`", f"`{COMFYUI_FORMS[name]}`")


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_reference_has_a_schedule(name: str) -> None:
    assert rows(name)


def test_the_reference_says_what_is_defined_for_a_flow() -> None:
    refused = names_of_flows("sampler")
    assert set(refused) - {*A1111_FORMS, "a1111"} == set(SAMPLERS) - set(FLOW_SAMPLERS)
    assert set(names_of_flows("schedule")) == set(FLOW_SCHEDULES)


def test_the_reference_has_what_is_not_offered_with_the_closest_one() -> None:
    listed = re.findall(r"^\| ([^`|]+) \| `(\w+)` \|$", SECTION, re.MULTILINE)
    found = {(name, close) for names, close in listed for name in names.split(", ")}
    assert found == {*CLOSE_SAMPLERS, *CLOSE_SCHEDULES}


@pytest.mark.parametrize(("name", "close"), CLOSE_SAMPLERS)
def test_a_sampler_that_is_not_offered_is_none_that_is(name: str, close: SamplerName) -> None:
    with pytest.raises(ValueError, match=f"is not supported: {close} comes closest"):
        read_sampler(name)


@pytest.mark.parametrize(("name", "close"), CLOSE_SCHEDULES)
def test_a_schedule_that_is_not_offered_is_none_that_is(name: str, close: ScheduleName) -> None:
    with pytest.raises(ValueError, match=f"is not supported: {close} comes closest"):
        read_schedule(name)
