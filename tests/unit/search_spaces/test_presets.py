"""Presets: every one builds, and what a user writes goes on top."""

from __future__ import annotations

from importlib import resources

import pytest
from pydantic import ValidationError

from search_spaces.blocks import Architecture, blocks, section_of, text_encoders
from search_spaces.errors import UnknownPresetError
from search_spaces.presets import load_preset, preset_names, resolved
from search_spaces.slots import Slot
from search_spaces.space import SearchSpace, SpaceSettings

RATIO = (Slot(name="B", kind="ratio", default=0.0),)

every_architecture = pytest.mark.parametrize("architecture", Architecture)
every_preset = pytest.mark.parametrize("name", preset_names())


def _searched(settings: SpaceSettings, architecture: Architecture) -> set[str]:
    space = SearchSpace.build(settings, architecture, RATIO)
    return {place for parameter in space.parameters for place in parameter.places}


def test_the_promised_presets_are_there() -> None:
    assert preset_names() == (
        *("blocks", "composition", "levels", "sections"),
        *("style", "text-encoders-only", "unet-only", "uniform"),
    )


@every_preset
def test_presets_are_data_of_the_package(name: str) -> None:
    assert resources.files("search_spaces").joinpath("presets", f"{name}.yaml").is_file()


@every_preset
def test_a_preset_has_a_one_line_description_and_needs_no_other_preset(name: str) -> None:
    preset = load_preset(name)
    assert preset.name == name
    assert preset.description
    assert "\n" not in preset.description
    assert all(preset.settings_for(architecture).preset is None for architecture in Architecture)


@every_preset
@every_architecture
@pytest.mark.parametrize("slots", [RATIO, (*RATIO, Slot(name="C", kind="ratio", default=0.0))])
def test_every_preset_builds(name: str, architecture: Architecture, slots: tuple[Slot, ...]) -> None:
    space = SearchSpace.build(SpaceSettings(preset=name), architecture, slots)
    assert space.parameters
    assert space.settings == resolved(load_preset(name).settings_for(architecture), architecture)


@every_architecture
def test_presets_search_what_their_name_says(architecture: Architecture) -> None:
    unet, encoders = set(blocks(architecture)), set(text_encoders(architecture))
    inputs = {block for block in unet if section_of(block) == "IN"}
    outputs = {block for block in unet if section_of(block) == "OUT"}
    expected = {
        "unet-only": unet,
        "text-encoders-only": encoders,
        "style": outputs,
        "composition": inputs | {"M00"},
        "levels": unet | encoders,
    }
    assert {name: _searched(SpaceSettings(preset=name), architecture) for name in expected} == expected


@every_architecture
def test_levels_has_the_same_eight_parameters_everywhere(architecture: Architecture) -> None:
    space = SearchSpace.build(SpaceSettings(preset="levels"), architecture, RATIO)
    assert [parameter.name for parameter in space.parameters] == [
        *("text", "IN_outer", "IN_centre", "IN_inner"),
        *("M00", "OUT_inner", "OUT_centre", "OUT_outer"),
    ]


def test_a_field_written_by_the_user_wins_over_the_preset() -> None:
    settings = SpaceSettings(preset="uniform", granularity="sections")
    assert resolved(settings, Architecture.SD15).granularity == "sections"


def test_a_field_the_user_left_out_comes_from_the_preset() -> None:
    assert resolved(SpaceSettings(preset="uniform"), Architecture.SD15).granularity == "uniform"


def test_an_entry_written_by_the_user_joins_those_of_the_preset() -> None:
    settings = SpaceSettings(preset="style", frozen={"OUT11": 0.5})
    frozen = resolved(settings, Architecture.SD15).frozen
    assert frozen == {"text_encoder*": 0, "IN": 0, "MID": 0, "OUT11": 0.5}


def test_a_pattern_in_both_has_the_users_value_and_place_in_the_order() -> None:
    settings = SpaceSettings(preset="style", frozen={"OUT00": 0.5, "IN": 1})
    frozen = resolved(settings, Architecture.SD15).frozen
    assert list(frozen.items()) == [("text_encoder*", 0), ("MID", 0), ("OUT00", 0.5), ("IN", 1)]


def test_a_resolved_preset_no_longer_depends_on_any_default() -> None:
    settings = resolved(SpaceSettings(preset="levels"), Architecture.SDXL)
    assert settings.preset is None
    assert settings.model_fields_set == set(SpaceSettings.model_fields)
    assert resolved(settings, Architecture.SDXL) == settings


@pytest.mark.parametrize("as_json", [True, False])
def test_a_preset_survives_a_round_trip_of_the_settings(*, as_json: bool) -> None:
    settings = SpaceSettings(preset="uniform", bounds={"unet": (0, 0.5)})
    if as_json:
        again = SpaceSettings.model_validate_json(settings.model_dump_json())
    else:
        again = SpaceSettings.model_validate(settings.model_dump())
    assert again == settings
    assert again.model_fields_set == settings.model_fields_set
    assert resolved(again, Architecture.SD15).granularity == "uniform"


def test_an_unknown_preset_names_the_nearest_and_all() -> None:
    with pytest.raises(UnknownPresetError) as caught:
        SearchSpace.build(SpaceSettings(preset="Styel"), Architecture.SD15, RATIO)
    assert "'Styel' is unknown: did you mean 'style'?" in str(caught.value)
    assert all(name in str(caught.value) for name in preset_names())


def test_a_path_is_no_preset_name() -> None:
    with pytest.raises(UnknownPresetError):
        load_preset("../presets/style")


def test_a_misspelt_setting_is_refused() -> None:
    with pytest.raises(ValidationError, match="frozn"):
        SpaceSettings.model_validate({"frozn": {"IN": 0}})
