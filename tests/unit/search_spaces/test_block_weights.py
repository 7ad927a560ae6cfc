"""Block-weight strings of the community."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces.block_weights import format_block_weights, parse_block_weights
from search_spaces.blocks import Architecture, blocks, places
from search_spaces.errors import BlockWeightsError
from search_spaces.slots import Slot
from search_spaces.space import SearchSpace, SpaceSettings

SD15, SDXL = Architecture.SD15, Architecture.SDXL


def _numbered(count: int) -> str:
    """Return "0.01,0.02,..": each number tells its position."""
    return ",".join(f"{position / 100}" for position in range(1, count + 1))


@pytest.mark.parametrize(("architecture", "count"), [(SD15, 26), (SDXL, 20)])
def test_the_first_number_is_the_text_encoders_then_come_blocks_by_depth(
    architecture: Architecture,
    count: int,
) -> None:
    weights = parse_block_weights(_numbered(count), architecture)
    assert {weights[place] for place in weights if place.startswith("text_encoder")} == {0.01}
    assert [weights[block] for block in blocks(architecture)] == [n / 100 for n in range(2, count + 1)]


@pytest.mark.parametrize(("architecture", "count"), [(SD15, 25), (SDXL, 19)])
def test_without_base_the_text_encoders_stay_a(architecture: Architecture, count: int) -> None:
    weights = parse_block_weights(_numbered(count), architecture)
    assert {weights[place] for place in weights if place.startswith("text_encoder")} == {0.0}
    assert [weights[block] for block in blocks(architecture)] == [n / 100 for n in range(1, count + 1)]


@pytest.mark.parametrize(("count", "base"), [(26, 0.01), (25, 0.0)])
def test_an_sd15_string_loses_on_sdxl_the_blocks_sdxl_lacks(count: int, base: float) -> None:
    text = _numbered(count)
    sd15, sdxl = parse_block_weights(text, SD15), parse_block_weights(text, SDXL)
    assert (sdxl["text_encoder"], sdxl["text_encoder_2"]) == (base, base)
    assert {block: sdxl[block] for block in blocks(SDXL)} == {block: sd15[block] for block in blocks(SDXL)}


@pytest.mark.parametrize("architecture", Architecture)
def test_every_place_has_a_weight_so_that_a_space_takes_it(architecture: Architecture) -> None:
    weights = parse_block_weights(_numbered(26), architecture)
    assert tuple(weights) == places(architecture)
    assert weights["vae"] == 0.0
    space = SearchSpace.build(SpaceSettings(), architecture, (Slot(name="B", kind="ratio", default=0.0),))
    ratios = {place: (weight,) for place, weight in weights.items()}
    assert space.numbers_by_place(space.params(ratios)) == ratios


def test_spaces_and_line_breaks_between_numbers_do_not_matter() -> None:
    spaced = _numbered(26).replace(",", " ,\n ")
    assert parse_block_weights(spaced, SD15) == parse_block_weights(_numbered(26), SD15)


@pytest.mark.parametrize(
    ("architecture", "count", "expected"),
    [
        (SD15, 20, "expected 26 numbers for sd15 .* or 25 without BASE; got 20"),
        (SD15, 27, "got 27"),
        (SDXL, 21, "expected 20 numbers for sdxl .* 19 without BASE, or an SD1.5 string of 26 or 25; got 21"),
    ],
)
def test_another_count_is_refused(architecture: Architecture, count: int, expected: str) -> None:
    with pytest.raises(BlockWeightsError, match=expected):
        parse_block_weights(_numbered(count), architecture)


@pytest.mark.parametrize("wrong", ["", "half", "nan", "inf", "0.5;0.5"])
def test_what_is_no_finite_number_is_named_with_its_position(wrong: str) -> None:
    with pytest.raises(BlockWeightsError, match=f"got {wrong!r} as number 20"):
        parse_block_weights(f"{_numbered(19)}, {wrong}", SDXL)


@pytest.mark.parametrize(("architecture", "count"), [(SD15, 26), (SDXL, 20)])
@given(data=st.data())
def test_written_weights_have_a_number_for_each_block_and_are_read_back_exactly(
    data: st.DataObject, architecture: Architecture, count: int
) -> None:
    number = st.floats(allow_nan=False, allow_infinity=False)
    base = data.draw(number)
    ratios = {place: base if place.startswith("text") else data.draw(number) for place in places(architecture)}
    text = format_block_weights(ratios, architecture)
    assert len(text.split(",")) == count
    assert parse_block_weights(text, architecture) == ratios | {"vae": 0.0}


def test_text_encoders_that_differ_have_no_number() -> None:
    ratios = dict.fromkeys(places(SDXL), 0.5) | {"text_encoder_2": 0.25}
    with pytest.raises(
        BlockWeightsError, match=r"BASE, for all text encoders; the merge has 0.5 for CLIP-L and 0.25 for CLIP-G"
    ):
        format_block_weights(ratios, SDXL)
