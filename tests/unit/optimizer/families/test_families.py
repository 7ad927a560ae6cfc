"""The two halves of every family agree with each other, and the families with one another."""

from __future__ import annotations

from collections import defaultdict

import pytest

from optimizer.families.registry import model_family
from search_spaces.families import sd15, sdxl
from search_spaces.families.family import Family
from search_spaces.families.registry import Architecture, family_of, titles

FAMILIES: tuple[Family, ...] = (sd15.FAMILY, sdxl.FAMILY)
EACH = pytest.mark.parametrize("architecture", Architecture)


def test_the_registry_finds_each_familys_module() -> None:
    assert tuple(map(family_of, Architecture)) == FAMILIES


@EACH
def test_both_halves_name_the_same_components(architecture: Architecture) -> None:
    names, models = family_of(architecture), model_family(architecture)
    assert tuple(models.pipeline_classes) == ("unet", "vae", *names.text_encoders)
    assert set(models.lora.prefixes) == {"unet", *names.text_encoders}
    assert set(names.labels) == set(names.text_encoders)


@EACH
def test_both_halves_read_keys_alike(architecture: Architecture) -> None:
    names, models = family_of(architecture), model_family(architecture)
    (first, *_), *_ = names.sections.values()
    assert models.keys.first_convolution is not None
    assert names.place_of(models.keys.first_convolution) == first
    assert [view.component for view in models.live_views(models.keys.first_convolution, 4)] == ["unet"]
    assert names.place_of(f"{models.keys.vae}encoder.conv_in.weight") == "vae"
    assert {names.place_of(f"{prefix}text_model.final_layer_norm.bias") for prefix in models.keys.clips} <= set(
        names.text_encoders
    )


def test_a_blocks_name_means_one_section_in_all_families() -> None:
    meanings = defaultdict(set)
    for architecture in Architecture:
        for section, members in family_of(architecture).sections.items():
            for block in members:
                meanings[block].add(section)
    assert all(len(found) == 1 for found in meanings.values())


@EACH
def test_borrowed_block_weights_give_each_block_one(architecture: Architecture) -> None:
    borrowed = family_of(architecture).borrowed_weights
    if borrowed is not None:
        count = sum(map(len, family_of(architecture).sections.values()))
        assert len(set(borrowed.taken)) == count
        assert max(borrowed.taken) < borrowed.blocks


def test_titles_are_listed_as_people_write_them() -> None:
    assert titles("or") == "SD1.5 or SDXL"
