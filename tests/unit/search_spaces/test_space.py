"""The search space: round trips for random settings, and one clear line for each contradiction."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from search_spaces.blocks import Architecture, blocks, places, section_of, text_encoders
from search_spaces.errors import (
    BoundsError,
    EmptySpaceError,
    FrozenError,
    GroupError,
    OutsideSpaceError,
    RatioError,
    SlotError,
    SpaceError,
    UnmatchedPatternError,
)
from search_spaces.settings import Granularity
from search_spaces.slots import Slot
from search_spaces.space import SearchSpace, SpaceSettings

SD15, SDXL = Architecture.SD15, Architecture.SDXL


def _space(
    architecture: Architecture = SD15,
    slots: tuple[str, ...] = ("B",),
    **settings: Any,
) -> SearchSpace:
    return SearchSpace.build(SpaceSettings(**settings), architecture, _slots(slots))


def _slots(names: tuple[str, ...]) -> tuple[Slot, ...]:
    return tuple(Slot(name=name, kind="ratio", default=0.0) for name in names)


def _fixed(space: SearchSpace) -> dict[str, float]:
    """Place -> value of the fixed places, which is the same in every slot."""
    assert {index for _, index, _ in space.fixed} <= set(range(len(space.slots)))
    rows: dict[str, set[float]] = {}
    for place, _, value in space.fixed:
        rows.setdefault(place, set()).add(value)
    assert all(len(values) == 1 for values in rows.values())
    return {place: values.pop() for place, values in rows.items()}


def _names(space: SearchSpace) -> list[str]:
    return [parameter.name for parameter in space.parameters]


# --- properties, for settings whose meaning is known because they were made from it ----------------------


@dataclass(frozen=True, kw_only=True)
class Case:
    """Settings, and what they must mean."""

    settings: SpaceSettings
    architecture: Architecture
    slots: tuple[str, ...]
    members: dict[str, tuple[str, ...]]  # name without slot -> places
    bounds: dict[str, tuple[float, float]]  # name without slot -> range
    frozen: dict[str, float]


_numbers = st.floats(-2, 2, allow_nan=False)
_ranges = st.tuples(_numbers, _numbers).filter(lambda pair: pair[0] != pair[1]).map(lambda pair: (min(pair), max(pair)))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    architecture = draw(st.sampled_from(Architecture))
    granularity: Granularity = draw(st.sampled_from(("uniform", "sections", "blocks", "auto")))
    merge_vae = draw(st.booleans())
    every_place = places(architecture)
    roles = draw(
        st.lists(
            st.sampled_from(("own", "own", "own", "frozen", "g1", "g2")),
            min_size=len(every_place),
            max_size=len(every_place),
        ).filter(lambda roles: any(role != "frozen" for role in roles[:-1])),
    )
    role_of = dict(zip(every_place, roles, strict=True))
    role_of["vae"] = "own" if merge_vae else "frozen"
    frozen = {place: draw(_numbers) for place in every_place if role_of[place] == "frozen"}

    members: dict[str, tuple[str, ...]] = {}
    for place in every_place:
        role = role_of[place]
        if role != "frozen":
            name = role if role in ("g1", "g2") else _own_name(place, granularity, architecture)
            members[name] = (*members.get(name, ()), place)
    ranges = {name: draw(st.none() | _ranges) for name in members}
    return Case(
        settings=SpaceSettings(
            granularity=granularity,
            merge_vae=merge_vae,
            frozen=frozen,
            groups={name: members[name] for name in ("g1", "g2") if name in members},
            bounds={place: own for name, own in ranges.items() if own for place in members[name]},
        ),
        architecture=architecture,
        slots=draw(st.sampled_from((("B",), ("B", "C"), ("difference",)))),
        members=members,
        bounds={name: own or (0.0, 1.0) for name, own in ranges.items()},
        frozen=frozen,
    )


def _own_name(place: str, granularity: Granularity, architecture: Architecture) -> str:
    if place not in blocks(architecture) or granularity in {"blocks", "auto"}:
        return place
    return "unet" if granularity == "uniform" else section_of(place)


def _build(case: Case) -> SearchSpace:
    return SearchSpace.build(case.settings, case.architecture, _slots(case.slots))


def _draw_params(data: st.DataObject, space: SearchSpace) -> dict[str, float]:
    return {p.name: data.draw(st.floats(p.low, p.high, allow_nan=False)) for p in space.parameters}


@given(case=cases())
def test_parameters_are_the_places_that_settings_leave_to_search(case: Case) -> None:
    space = _build(case)
    expected = [
        (name if len(case.slots) == 1 else f"{name}.{label}", case.members[name], case.bounds[name], slot)
        for name in case.members
        for slot, label in enumerate(case.slots)
    ]
    assert [(p.name, p.places, (p.low, p.high), p.slot) for p in space.parameters] == expected
    assert _fixed(space) == case.frozen


@given(case=cases(), data=st.data())
def test_ratios_cover_every_place_with_one_ratio_per_slot(case: Case, data: st.DataObject) -> None:
    space = _build(case)
    ratios = space.numbers_by_place(_draw_params(data, space))
    assert tuple(ratios) == places(case.architecture)
    assert {len(row) for row in ratios.values()} == {len(case.slots)}
    assert {place: ratios[place] for place in case.frozen} == {
        place: (ratio,) * len(case.slots) for place, ratio in case.frozen.items()
    }


@given(case=cases(), data=st.data())
def test_params_undo_ratios_exactly(case: Case, data: st.DataObject) -> None:
    space = _build(case)
    params = _draw_params(data, space)
    assert space.params(space.numbers_by_place(params)) == params


@given(case=cases(), data=st.data())
def test_the_nearest_to_ratios_of_the_space_are_their_own_params(case: Case, data: st.DataObject) -> None:
    space = _build(case)
    params = _draw_params(data, space)
    assert space.nearest(space.numbers_by_place(params)) == pytest.approx(params, rel=0, abs=1e-12)


@given(case=cases(), data=st.data())
def test_the_nearest_are_always_valid_params(case: Case, data: st.DataObject) -> None:
    space = _build(case)
    row = st.tuples(*[_numbers] * len(case.slots))
    nearest = space.nearest({place: data.draw(row) for place in places(case.architecture)})
    assert space.params(space.numbers_by_place(nearest)) == nearest


@given(case=cases())
def test_the_settings_a_space_keeps_build_the_same_space(case: Case) -> None:
    space = _build(case)
    stored = SpaceSettings.model_validate_json(space.settings.model_dump_json())
    again = SearchSpace.build(stored, case.architecture, _slots(case.slots))
    assert again == space
    assert hash(again) == hash(space)


# --- examples -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", Architecture)
def test_by_default_all_but_the_vae_is_searched_in_the_order_of_the_places(
    architecture: Architecture,
) -> None:
    space = _space(architecture)
    assert _names(space) == [*text_encoders(architecture), *blocks(architecture)]
    assert {(p.low, p.high) for p in space.parameters} == {(0.0, 1.0)}
    assert space.fixed == (("vae", 0, 0.0),)


@pytest.mark.parametrize(
    ("granularity", "names"),
    [
        ("uniform", ["text_encoder", "text_encoder_2", "unet", "vae"]),
        ("sections", ["text_encoder", "text_encoder_2", "IN", "MID", "OUT", "vae"]),
    ],
)
def test_coarse_granularities_keep_one_ratio_per_text_encoder(granularity: str, names: list[str]) -> None:
    assert _names(_space(SDXL, granularity=granularity, merge_vae=True)) == names


def test_slots_of_one_place_stand_together() -> None:
    space = _space(slots=("B", "C"), granularity="uniform")
    assert _names(space) == ["text_encoder.B", "text_encoder.C", "unet.B", "unet.C"]
    ratios = space.numbers_by_place({"text_encoder.B": 0.1, "text_encoder.C": 0.2, "unet.B": 0.3, "unet.C": 0.4})
    assert (ratios["text_encoder"], ratios["IN05"], ratios["vae"]) == ((0.1, 0.2), (0.3, 0.4), (0.0, 0.0))


def test_a_group_stands_where_its_first_place_does() -> None:
    space = _space(granularity="sections", groups={"ends": ("OUT11", "IN00")})
    assert _names(space) == ["text_encoder", "ends", "IN", "MID", "OUT"]
    assert space.parameters[1].places == ("IN00", "OUT11")


def test_a_later_bound_wins_over_an_earlier_one() -> None:
    space = _space(bounds={"unet": (0, 0.5), "OUT": (0.2, 0.4), "OUT1?": (-0.5, 1.5)})
    ranges = {p.name: (p.low, p.high) for p in space.parameters}
    assert (ranges["text_encoder"], ranges["IN00"]) == ((0, 1), (0, 0.5))
    assert (ranges["OUT00"], ranges["OUT10"]) == ((0.2, 0.4), (-0.5, 1.5))


def test_a_later_frozen_ratio_wins_over_an_earlier_one() -> None:
    fixed = _fixed(_space(frozen={"IN": 0.5, "IN0?": 1, "vae": 1}))
    assert (fixed["IN00"], fixed["IN11"], fixed["vae"]) == (1.0, 0.5, 1.0)


def test_broad_bounds_may_cover_frozen_places_beside_searched_ones() -> None:
    space = _space(bounds={"*": (0, 0.5)}, frozen={"IN": 0})
    assert {(p.low, p.high) for p in space.parameters} == {(0, 0.5)}


def test_a_section_covers_what_is_neither_frozen_nor_grouped() -> None:
    space = _space(granularity="sections", frozen={"IN0?": 0}, groups={"g": ("IN10",)})
    assert {p.name: p.places for p in space.parameters if p.name in ("IN", "g")} == {
        "IN": ("IN11",),
        "g": ("IN10",),
    }


def test_a_group_may_have_the_name_of_exactly_what_it_holds() -> None:
    space = _space(groups={"IN": ("IN",), "M00": ("MID",)})
    assert _names(space)[:3] == ["text_encoder", "IN", "M00"]


# --- contradictions -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "error", "essentials"),
    [
        (
            {"bounds": {"in00": (0, 1)}},
            UnmatchedPatternError,
            ["bounds", "'in00'", "did you mean 'IN00'?", "OUT11"],
        ),
        ({"frozen": {"IN12": 0}}, UnmatchedPatternError, ["frozen", "'IN12'", "did you mean 'IN1", "unet"]),
        (
            {"frozen": {"text_encoder_2": 0}},
            UnmatchedPatternError,
            ["'text_encoder_2'", "did you mean 'text_encoder'"],
        ),
        (
            {"groups": {"g": ("IN00", "qqq")}},
            UnmatchedPatternError,
            ["groups, 'g'", "'qqq'", "Known: IN, MID, OUT"],
        ),
        ({"bounds": {"IN": (0.7, 0.3)}}, BoundsError, ["'IN'", "low < high", "[0.7, 0.3]"]),
        ({"bounds": {"IN": (0.3, 0.3)}}, BoundsError, ["low < high", "use frozen"]),
        ({"bounds": {"IN": (0, math.inf)}}, BoundsError, ["finite", "[0.0, inf]"]),
        ({"bounds": {"IN": (math.nan, 1)}}, BoundsError, ["finite", "nan"]),
        ({"bounds": {"IN00": (0, 0.5)}, "frozen": {"IN": 0.2}}, BoundsError, ["'IN00'", "frozen to 0.2"]),
        ({"bounds": {"vae": (0, 0.5)}}, BoundsError, ["'vae'", "merge_vae"]),
        (
            {"bounds": {"OUT11": (0, 0.5)}, "granularity": "sections"},
            BoundsError,
            ["OUT00 has [0.0, 1.0]", "OUT11 has [0.0, 0.5]", "'OUT'"],
        ),
        (
            {"bounds": {"IN": (0, 0.5)}, "groups": {"g": ("IN00", "M00")}},
            BoundsError,
            ["IN00 has [0.0, 0.5]", "M00 has [0.0, 1.0]", "'g'"],
        ),
        ({"frozen": {"IN": math.nan}}, FrozenError, ["'IN'", "finite", "nan"]),
        ({"frozen": {"vae": 0.3}, "merge_vae": True}, FrozenError, ["merge_vae", "0.3", "remove one"]),
        ({"groups": {"g": ("IN",), "h": ("IN0?",)}}, GroupError, ["IN00", "'g'", "'h'", "one group"]),
        ({"groups": {"g": ("IN",)}, "frozen": {"IN05": 1}}, GroupError, ["'g'", "IN05", "frozen to 1.0"]),
        ({"groups": {"g": ("vae", "M00")}}, GroupError, ["'g'", "vae", "merge_vae"]),
        ({"groups": {"IN": ("IN00", "IN01")}}, GroupError, ["'IN' means IN00, IN01, IN02", "another name"]),
        ({"groups": {"M00": ("IN00",)}}, GroupError, ["'M00' means M00, but the group holds IN00"]),
        ({"groups": {"unet": ("IN",)}}, GroupError, ["'unet' means"]),
        ({"groups": {"g": ()}}, GroupError, ["'g' is empty"]),
        ({"groups": {"a.b": ("IN",)}}, GroupError, ["begins with a letter", "'a.b'"]),
        ({"frozen": {"*": 0}}, EmptySpaceError, ["every place is frozen", "free at least one"]),
    ],
)
def test_settings_that_contradict_themselves_are_refused_in_one_line(
    settings: dict[str, Any],
    error: type[SpaceError],
    essentials: list[str],
) -> None:
    with pytest.raises(error) as caught:
        _space(**settings)
    message = str(caught.value)
    assert [essential for essential in essentials if essential not in message] == []
    assert "\n" not in message


@pytest.mark.parametrize("slots", [("B", "B"), ("B.C",), ("",), ("1B",), ("B*",)])
def test_slots_that_cannot_name_parameters_are_refused(slots: tuple[str, ...]) -> None:
    with pytest.raises(SlotError, match="all different"):
        _space(slots=slots)


@pytest.mark.parametrize("name", ["unet", "IN", "M00", "text_encoder", "vae"])
def test_a_slot_that_is_called_as_a_place_is_refused_because_both_would_name_parameters(name: str) -> None:
    with pytest.raises(SlotError, match=f"'{name}' is the name of a place: choose another"):
        _space(slots=("B", name))


# --- parameters of methods, and LoRAs --------------------------------------------------------------------

RATIO = Slot(name="B", kind="ratio", default=0.0)
DENSITY = Slot(name="density", kind="parameter", default=0.5, low=0.1, high=0.9, least=0.0, most=1.0)
STYLE = Slot(name="style", kind="lora", default=1.0)
MIXED = (RATIO, DENSITY, STYLE)


def _mixed(slots: tuple[Slot, ...] = MIXED, **settings: Any) -> SearchSpace:
    return SearchSpace.build(SpaceSettings(**settings), SD15, slots)


def test_parameters_and_loras_stay_at_their_default_unless_the_settings_say_otherwise() -> None:
    space = _mixed(granularity="uniform")
    assert _names(space) == ["text_encoder", "unet"]
    assert set(space.numbers_by_place({"text_encoder": 0.2, "unet": 0.7}).values()) == {
        (0.2, 0.5, 1.0),
        (0.7, 0.5, 1.0),
        (0.0, 0.5, 1.0),
    }


def test_a_number_holds_them_and_bounds_search_them_as_one_number_for_everything() -> None:
    space = _mixed(granularity="uniform", parameters={"density": 0.3, "style": [-1, 1.5]})
    assert [(p.name, p.low, p.high) for p in space.parameters][-1] == ("style", -1, 1.5)
    assert space.parameters[-1].places == places(SD15)
    rows = space.numbers_by_place({"text_encoder": 0.2, "unet": 0.7, "style": -0.5})
    assert set(rows.values()) == {(0.2, 0.3, -0.5), (0.7, 0.3, -0.5), (0.0, 0.3, -0.5)}


@pytest.mark.parametrize(
    ("granularity", "names"),
    [
        ("one", ["density"]),
        ("uniform", ["text_encoder.density", "unet.density"]),
        ("sections", ["text_encoder.density", "IN.density", "MID.density", "OUT.density"]),
        ("blocks", ["text_encoder.density", *(f"{block}.density" for block in blocks(SD15))]),
    ],
)
def test_a_parameter_may_be_searched_finer_than_as_one_number(granularity: str, names: list[str]) -> None:
    space = _mixed(granularity="uniform", parameters={"density": {"bounds": [0.2, 0.8], "granularity": granularity}})
    found = [p for p in space.parameters if p.slot == 1]
    assert [p.name for p in found] == names
    assert {(p.low, p.high) for p in found} == {(0.2, 0.8)}
    assert [p.name for p in space.parameters if p.slot == 0] == ["text_encoder", "unet"]


def test_a_parameter_is_not_searched_where_no_ratio_ever_is_and_a_lora_not_in_the_vae() -> None:
    finer = {"bounds": [0.2, 0.8], "granularity": "blocks"}
    space = _mixed(parameters={"density": finer, "style": finer}, frozen={"IN": 0, "OUT": 0.5})
    searched = {slot: {place for p in space.parameters if p.slot == slot for place in p.places} for slot in (1, 2)}
    inputs = {block for block in blocks(SD15) if section_of(block) == "IN"}
    assert searched[1] == set(places(SD15)) - inputs - {"vae"}
    assert searched[2] == set(places(SD15)) - {"vae"}


def test_a_group_and_a_pattern_hold_for_the_ratio_slots() -> None:
    finer = {"bounds": [0.2, 0.8], "granularity": "blocks"}
    space = _mixed(parameters={"density": finer}, frozen={"IN": 0.5}, bounds={"MID": (0, 0.25)})
    ranges = {p.name: (p.low, p.high) for p in space.parameters}
    wanted = {"M00": (0, 0.25), "OUT00": (0, 1), "M00.density": (0.2, 0.8), "IN00.density": (0.2, 0.8)}
    assert {name: ranges[name] for name in wanted} == wanted
    assert "IN00" not in ranges


def test_a_pattern_with_a_slot_behind_its_dot_means_that_slot_only() -> None:
    space = _space(slots=("B", "C"), bounds={"IN*.C": (0, 0.5), "M00": (0.1, 0.2)}, frozen={"OUT.B": 0.25})
    ranges = {p.name: (p.low, p.high) for p in space.parameters}
    wanted = {"IN00.B": (0, 1), "IN00.C": (0, 0.5), "M00.B": (0.1, 0.2), "M00.C": (0.1, 0.2), "OUT00.C": (0, 1)}
    assert {name: ranges[name] for name in wanted} == wanted
    assert "OUT00.B" not in ranges
    assert ("OUT00", 0, 0.25) in space.fixed


def test_a_slots_parameter_can_be_held_in_some_places() -> None:
    finer = {"bounds": [0.2, 0.8], "granularity": "blocks"}
    space = _mixed(parameters={"style": finer}, frozen={"IN.style": 0.0}, bounds={"M00.style": (-1, 1)})
    assert {place for place, index, value in space.fixed if index == 2 and value == 0.0} == set(blocks(SD15)[:12])
    assert {(p.low, p.high) for p in space.parameters if p.name == "M00.style"} == {(-1, 1)}


def test_ratios_take_the_bounds_their_method_suggests() -> None:
    narrow = Slot(name="alpha", kind="ratio", default=0.0, high=0.5, least=0.0, most=1.0)
    space = SearchSpace.build(SpaceSettings(), SD15, (narrow,))
    assert {(p.low, p.high) for p in space.parameters} == {(0.0, 0.5)}


def test_a_method_without_ratios_leaves_nothing_to_search_but_its_parameters_and_loras() -> None:
    for slots in ((), (DENSITY,), (STYLE,)):
        with pytest.raises(EmptySpaceError, match=r"no ratios.*second step \(`inputs: \[A, result-1\]`\).*bounds"):
            _mixed(slots)
    space = _mixed((DENSITY, STYLE), parameters={"style": [0, 1]})
    assert _names(space) == ["style"]
    assert set(space.numbers_by_place({"style": 0.25}).values()) == {(0.5, 0.25)}


def test_a_profiles_rows_have_its_ratios_and_leave_the_rest_as_it_is_set() -> None:
    space = _mixed(parameters={"density": 0.3, "style": [0, 1]})
    assert space.profile_numbers({"IN00": 0.7, "M00": 0.2}) == {"IN00": (0.7, 0.3, 1.0), "M00": (0.2, 0.3, 1.0)}
    assert space.ratio_slots == (0,)


@given(
    granularities=st.tuples(*[st.sampled_from(["one", "uniform", "sections", "blocks"])] * 2),
    held=st.tuples(st.booleans(), st.booleans()),
    frozen=st.dictionaries(st.sampled_from(places(SD15)[:-1]), st.sampled_from([0.0, 0.5]), max_size=5),
    data=st.data(),
)
def test_every_number_is_fixed_or_of_one_parameter_and_params_undo_rows(
    granularities: tuple[str, str], held: tuple[bool, bool], frozen: dict[str, float], data: st.DataObject
) -> None:
    settings = {
        name: 0.25 if hold else {"bounds": [0.2, 0.8], "granularity": granularity}
        for name, hold, granularity in zip(("density", "style"), held, granularities, strict=True)
    }
    space = _mixed(parameters=settings, frozen=frozen)
    cells = [(place, index) for place, index, _ in space.fixed]
    cells += [(place, p.slot) for p in space.parameters for place in p.places]
    assert sorted(cells) == sorted((place, index) for place in places(SD15) for index in range(len(MIXED)))
    assert len(set(_names(space))) == len(space.parameters)
    params = _draw_params(data, space)
    rows = space.numbers_by_place(params)
    assert space.params(rows) == params
    for index, slot in enumerate(MIXED):
        assert all(slot.allows(row[index]) for row in rows.values())


@pytest.mark.parametrize(
    ("settings", "error", "essentials"),
    [
        ({"parameters": {"densty": 0.5}}, SlotError, ["parameters", "'densty'", "'density'"]),
        ({"parameters": {"B": 0.5}}, SlotError, ["'B' is a ratio", "bounds and frozen"]),
        ({"parameters": {"density": 1.5}}, BoundsError, ["density is 1.5", "0 to 1"]),
        ({"parameters": {"density": [0.5, 1.5]}}, BoundsError, ["density is 1.5", "0 to 1"]),
        ({"parameters": {"density": [0.8, 0.2]}}, BoundsError, ["low < high", "'density'", "[0.8, 0.2]"]),
        ({"parameters": {"density": [0.5, 0.5]}}, BoundsError, ["low < high"]),
        ({"frozen": {"IN.densty": 0.5}}, SlotError, ["frozen", "'IN.densty'", "'density'"]),
        ({"frozen": {"IN.density": 0.5}}, SlotError, ["frozen", "'density' is one number for all", "parameters"]),
        ({"bounds": {"IN.style": (0, 1)}}, SlotError, ["bounds", "'style' is one number for all", "parameters"]),
        ({"bounds": {"XX.B": (0, 1)}}, UnmatchedPatternError, ["'XX'"]),
        (
            {
                "parameters": {"density": {"bounds": [0.2, 0.8], "granularity": "blocks"}},
                "bounds": {"M00.density": (0.5, 2)},
            },
            BoundsError,
            ["'M00.density'", "density takes 0 to 1"],
        ),
        (
            {
                "parameters": {"density": {"bounds": [0.2, 0.8], "granularity": "blocks"}},
                "frozen": {"M00.density": -0.5},
            },
            FrozenError,
            ["'M00.density' is -0.5", "density takes 0 to 1"],
        ),
    ],
)
def test_settings_that_contradict_the_merge_are_refused_in_one_line(
    settings: dict[str, Any], error: type[SpaceError], essentials: list[str]
) -> None:
    with pytest.raises(error) as caught:
        _mixed(**settings)
    message = str(caught.value)
    assert [essential for essential in essentials if essential not in message] == []
    assert "\n" not in message


@pytest.mark.parametrize("written", [{}, {"value": 0.5, "bounds": [0, 1]}, {"value": math.nan}, [0.5], {"step": 0.1}])
def test_a_parameter_is_either_held_or_searched(written: Any) -> None:
    with pytest.raises(ValidationError):
        SpaceSettings(parameters={"density": written})


def test_what_was_written_short_is_kept_short_enough_to_be_read_again() -> None:
    settings = SpaceSettings(parameters={"density": 0.3, "style": [0, 1]})
    assert SpaceSettings.model_validate_json(settings.model_dump_json()) == settings


# --- values that do not fit -----------------------------------------------------------------------------


def _uniform(**settings: Any) -> SearchSpace:
    return _space(granularity="uniform", **settings)


@pytest.mark.parametrize(
    ("params", "essentials"),
    [
        ({"unet": 0.5}, ["missing text_encoder"]),
        ({"unet": 0.5, "text_encoder": 0.5, "IN00": 0.5}, ["unknown IN00"]),
        ({"IN00": 0.5, "text_encoder": 0.5}, ["missing unet", "unknown IN00"]),
        ({"unet": math.nan, "text_encoder": 0.5}, ["unet", "[0.0, 1.0]", "nan"]),
        ({"unet": math.inf, "text_encoder": 0.5}, ["unet", "inf"]),
        ({"unet": 0.5, "text_encoder": 1.0000001}, ["text_encoder", "[0.0, 1.0]", "1.0000001"]),
        ({"unet": 0.5, "text_encoder": -0.1}, ["text_encoder", "-0.1"]),
    ],
)
def test_params_that_are_not_of_the_space_are_refused(params: dict[str, float], essentials: list[str]) -> None:
    with pytest.raises(RatioError) as caught:
        _uniform().numbers_by_place(params)
    assert [essential for essential in essentials if essential not in str(caught.value)] == []


def _ratios(**different: tuple[float, ...]) -> dict[str, tuple[float, ...]]:
    """Return ratios of SD1.5: 0.5 everywhere but the VAE."""
    return {**dict.fromkeys(places(SD15), (0.5,)), "vae": (0.0,), **different}


@pytest.mark.parametrize(
    ("ratios", "match"),
    [
        (_ratios(IN00=(0.6,)), "unet: IN00 and IN01 share one ratio, got 0.6 and 0.5"),
        (_ratios(vae=(0.5,)), "vae is frozen to 0.0"),
        (_ratios(text_encoder=(1.5,)), r"text_encoder: expected a number in \[0.0, 1.0\], got 1.5"),
    ],
)
def test_ratios_outside_the_space_have_no_params_but_a_nearest(
    ratios: dict[str, tuple[float, ...]],
    match: str,
) -> None:
    with pytest.raises(OutsideSpaceError, match=match):
        _uniform().params(ratios)
    assert set(_uniform().nearest(ratios)) == {"text_encoder", "unet"}


def test_a_frozen_place_that_differs_in_one_slot_is_outside_the_space() -> None:
    space = _space(slots=("B", "C"))
    ratios = {**dict.fromkeys(places(SD15), (0.5, 0.5)), "vae": (0.0, 0.1)}
    with pytest.raises(OutsideSpaceError, match=r"vae is frozen to 0\.0"):
        space.params(ratios)


@pytest.mark.parametrize(
    ("ratios", "match"),
    [
        ({"IN00": (0.5,)}, "missing IN01, "),
        (_ratios(IN12=(0.5,)), "unknown IN12"),
        (_ratios(IN00=(0.5, 0.5)), r"IN00: expected one number per slot \(B\), got \(0.5, 0.5\)"),
        (_ratios(IN00=(math.nan,)), "IN00: expected finite numbers"),
    ],
)
@pytest.mark.parametrize("method", ["params", "nearest"])
def test_ratios_that_are_no_ratios_are_refused(
    ratios: dict[str, tuple[float, ...]],
    match: str,
    method: str,
) -> None:
    with pytest.raises(RatioError, match=match):
        getattr(_uniform(), method)(ratios)


def test_the_nearest_is_the_mean_over_the_places_within_the_bounds() -> None:
    ramp = {block: (position / 24,) for position, block in enumerate(blocks(SD15))}
    ratios = {**_ratios(text_encoder=(1.7,)), **ramp}
    assert _uniform().nearest(ratios) == pytest.approx({"text_encoder": 1.0, "unet": 0.5})
    assert _uniform(bounds={"unet": (0.1, 0.3)}).nearest(ratios)["unet"] == 0.3
