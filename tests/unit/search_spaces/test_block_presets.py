"""Named block weights, checked against the formulas their authors give."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from search_spaces.block_presets import block_preset, block_preset_names, preset_ratios
from search_spaces.block_weights import parse_block_weights
from search_spaces.blocks import VAE, Architecture, blocks, places, text_encoders
from search_spaces.errors import UnknownPresetError

LAST = 24  # index of the last of 25 block weights
CLOSE = 1e-9  # the published digits end after the tenth


def smooth(x: float) -> float:
    return x * x * (3 - 2 * x)


def folded(y: float) -> float:
    """What exceeds 1 comes back down, and what would then fall below 0 goes up again."""
    y %= 2
    return min(y, 2 - y)


FORMULAS: dict[str, Callable[[float], float]] = {
    "GRAD_V": lambda x: abs(1 - 2 * x),
    "GRAD_A": lambda x: 1 - abs(1 - 2 * x),
    "SMOOTHSTEP": smooth,
    "REVERSE-SMOOTHSTEP": lambda x: 1 - smooth(x),
    "SMOOTHSTEP*2": lambda x: folded(2 * smooth(x)),
    "R_SMOOTHSTEP*2": lambda x: 1 - folded(2 * smooth(x)),
    "SMOOTHSTEP*3": lambda x: folded(3 * smooth(x)),
    "R_SMOOTHSTEP*3": lambda x: 1 - folded(3 * smooth(x)),
    "SMOOTHSTEP*4": lambda x: folded(4 * smooth(x)),
    "R_SMOOTHSTEP*4": lambda x: 1 - folded(4 * smooth(x)),
    "SMOOTHSTEP/2": lambda x: smooth(folded(2 * x)),
    "R_SMOOTHSTEP/2": lambda x: 1 - smooth(folded(2 * x)),
    "SMOOTHSTEP/3": lambda x: smooth(folded(3 * x)),
    "R_SMOOTHSTEP/3": lambda x: 1 - smooth(folded(3 * x)),
    "SMOOTHSTEP/4": lambda x: smooth(folded(4 * x)),
    "R_SMOOTHSTEP/4": lambda x: 1 - smooth(folded(4 * x)),
    "COSINE": lambda x: (1 + math.cos(math.pi * x)) / 2,
    "REVERSE_COSINE": lambda x: (1 - math.cos(math.pi * x)) / 2,
}


@pytest.mark.parametrize("name", FORMULAS)
def test_presets_that_are_curves_follow_their_formula(name: str) -> None:
    wanted = [FORMULAS[name](index / LAST) for index in range(LAST + 1)]
    assert block_preset(name)[1:] == pytest.approx(wanted, abs=CLOSE)


@pytest.mark.parametrize(("name", "ratio"), [("FLAT_25", 0.25), ("FLAT_75", 0.75), ("ALL_A", 0), ("ALL_B", 1)])
def test_flat_presets_have_one_ratio_in_all_blocks(name: str, ratio: float) -> None:
    assert set(block_preset(name)[1:]) == {ratio}


@pytest.mark.parametrize(("name", "count"), [("WRAP08", 8), ("WRAP12", 12), ("WRAP14", 14), ("WRAP16", 16)])
def test_wraps_take_b_at_both_ends_only(name: str, count: int) -> None:
    _, *weights = block_preset(name)
    half = count // 2
    assert weights == [1] * half + [0] * (25 - count) + [1] * half


@pytest.mark.parametrize(("name", "count"), [("OUT07", 7), ("OUT12", 12)])
def test_outs_take_b_in_the_last_blocks_only(name: str, count: int) -> None:
    assert list(block_preset(name)[1:]) == [0] * (25 - count) + [1] * count


@pytest.mark.parametrize("name", [name for name in block_preset_names() if name.startswith(("RING", "WRAP", "MID"))])
def test_rings_wraps_and_middles_are_alike_on_both_sides_of_m00(name: str) -> None:
    weights = block_preset(name)[1:]
    if name != "MID12_50":  # its authors end it one block earlier on the way out
        assert weights == weights[::-1]
    assert 0 < sum(weights) < 25


@pytest.mark.parametrize(
    ("name", "reverse"),
    [
        ("TRUE_CUBIC_HERMITE", "TRUE_REVERSE_CUBIC_HERMITE"),
        ("FAKE_CUBIC_HERMITE", "FAKE_REVERSE_CUBIC_HERMITE"),
        ("SMOOTHSTEP", "REVERSE-SMOOTHSTEP"),
        ("GRAD_A", "GRAD_V"),
        ("COSINE", "REVERSE_COSINE"),
    ],
)
def test_a_preset_and_its_reverse_share_every_block(name: str, reverse: str) -> None:
    pairs = zip(block_preset(name)[1:], block_preset(reverse)[1:], strict=True)
    assert [one + other for one, other in pairs] == pytest.approx([1] * 25, abs=CLOSE)


@pytest.mark.parametrize("name", block_preset_names())
def test_every_preset_gives_a_ratio_of_0_to_1_for_every_place_of_both_architectures(name: str) -> None:
    numbers = block_preset(name)
    assert len(numbers) == 26
    for architecture in Architecture:
        ratios = preset_ratios(name, architecture)
        assert list(ratios) == list(places(architecture))
        assert all(0 <= ratio <= 1 for ratio in ratios.values())
        assert ratios[VAE] == 0
        assert ratios["M00"] == numbers[13]
        assert ratios == parse_block_weights(",".join(f"{number!r}" for number in numbers), architecture)


def test_on_sdxl_the_innermost_in_blocks_and_the_outermost_out_blocks_are_left_out() -> None:
    ratios = preset_ratios("SMOOTHSTEP", Architecture.SDXL)
    full = preset_ratios("SMOOTHSTEP", Architecture.SD15)
    assert {block: ratios[block] for block in blocks(Architecture.SDXL)} == {
        block: full[block] for block in blocks(Architecture.SDXL)
    }


def test_a_base_of_ones_own_goes_to_every_text_encoder_and_nothing_else() -> None:
    plain, own = preset_ratios("GRAD_V", Architecture.SDXL), preset_ratios("GRAD_V", Architecture.SDXL, base=0.3)
    assert {place for place in plain if plain[place] != own[place]} == set(text_encoders(Architecture.SDXL))
    assert {own[place] for place in text_encoders(Architecture.SDXL)} == {0.3}


def test_a_misspelt_preset_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UnknownPresetError, match="did you mean 'GRAD_V'"):
        block_preset("grad_v")
