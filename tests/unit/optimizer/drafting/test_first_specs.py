"""The parts of a first spec: names, scorers, size."""

from __future__ import annotations

from pathlib import Path

import pytest

from optimizer.drafting.names import lora_names, seen_from, study_name
from optimizer.drafting.scorers import choose_scorers
from optimizer.drafting.sizing import LEAST_TRIALS, MOST_TRIALS, seed_counts, size_for_hours, unmeasured
from optimizer.runtime.timing import StudyTiming
from scorers.distances.kinds import FID_INCEPTION
from scorers.registry import kinds_here


def timing(trial_seconds: float, final_seconds: float = 0.0) -> StudyTiming:
    return StudyTiming(
        image_seconds=1.0,
        trial_seconds=trial_seconds,
        trials=1,
        final_seconds=final_seconds,
        stored_bytes=0,
        export_bytes=0,
    )


def test_a_study_fits_into_its_hours() -> None:
    found = size_for_hours(4, 2.0, lambda seeds: timing(20.0 * seeds, final_seconds=720))
    assert (found.seeds, found.trials, found.seconds) == (4, 81, 81 * 80 + 720)
    assert found.granularity == "blocks"


def test_seeds_are_given_up_before_trials() -> None:
    found = size_for_hours(4, 1.0, lambda seeds: timing(20.0 * seeds))
    assert (found.seeds, found.trials) == (3, 60)


@pytest.mark.parametrize(("hours", "trials"), [(0.01, LEAST_TRIALS), (1000.0, MOST_TRIALS)])
def test_there_are_neither_too_few_nor_too_many_trials(hours: float, trials: int) -> None:
    assert size_for_hours(8, hours, lambda seeds: timing(60.0 * seeds)).trials == trials


@pytest.mark.parametrize(
    ("prompts", "counts"), [(1, (4,)), (2, (4,)), (4, (4, 3, 2)), (8, (4, 3, 2, 1)), (20, (1,)), (500, (1,))]
)
def test_a_trial_has_enough_images_and_no_more_than_are_useful(prompts: int, counts: tuple[int, ...]) -> None:
    assert seed_counts(prompts) == counts
    assert unmeasured(prompts).seeds in counts


def test_the_distance_to_reference_images_needs_its_network_and_enough_images() -> None:
    here = frozenset({"clip_score", "kid"})
    chosen = choose_scorers(here, refs="refs", images=8)
    assert [scorer.kind for scorer in chosen.chosen] == ["clip_score", "kid"]
    assert chosen.chosen[1].options == {"reference": "refs"}
    assert [line.split(":")[0] for line in chosen.lacking] == ["aesthetic"]
    few = choose_scorers(here, refs="refs", images=4)
    assert [scorer.kind for scorer in few.chosen] == ["clip_score"]
    assert "needs 8 images" in few.lacking[-1]


def test_a_machine_without_weights_gets_a_placeholder_that_is_called_one() -> None:
    chosen = choose_scorers(frozenset(), refs=None, images=8)
    assert [scorer.kind for scorer in chosen.chosen] == ["sharpness"]
    assert not chosen.judges


def test_a_network_in_the_cache_makes_its_scorers_usable(tmp_path: Path) -> None:
    assert "kid" not in kinds_here(tmp_path)
    (tmp_path / FID_INCEPTION.name).touch()
    assert {"fid", "kid", "sharpness"} <= kinds_here(tmp_path)


@pytest.mark.parametrize(
    ("stem", "name"), [("first", "first"), ("my study 2", "my study 2"), ("_a/b", "study_a_b"), ("x" * 99, "x" * 60)]
)
def test_a_study_has_a_name_that_a_spec_allows(stem: str, name: str) -> None:
    assert study_name(stem) == name


def test_loras_have_names_of_their_own() -> None:
    assert lora_names(["style", "style", "1 x", "1.x"]) == ("style", "style_2", "lora_1_x", "lora_1_x_2")


def test_files_beside_the_spec_may_move_with_it() -> None:
    folder = Path("/models/sd")
    assert seen_from(folder, folder / "a.safetensors") == "a.safetensors"
    assert seen_from(folder, folder / "deep" / "a.safetensors") == str(Path("deep", "a.safetensors"))
    assert seen_from(folder, Path("/models/a.safetensors")) == "/models/a.safetensors"
