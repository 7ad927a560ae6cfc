"""Which study a worker of many turns to."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from optimizer.work.scheduling import SLICE_SECONDS, WaitingStudy, choose

STUDIES = st.lists(
    st.builds(WaitingStudy, study_id=st.integers(1, 9), priority=st.integers(-2, 2), others=st.integers(0, 5)),
    unique_by=lambda row: row.study_id,
    max_size=6,
).map(lambda rows: sorted(rows, key=lambda row: row.study_id))


@given(STUDIES, st.none() | st.integers(1, 9), st.floats(0, 3 * SLICE_SECONDS))
def test_something_of_the_highest_priority_is_chosen_while_there_is_anything(
    candidates: list[WaitingStudy], current: int | None, seconds: float
) -> None:
    chosen = choose(candidates, current, seconds)
    highest = [row for row in candidates if row.priority == max(row.priority for row in candidates)]
    assert (chosen is None) == (not candidates)
    assert chosen is None or chosen in {row.study_id for row in highest}
    if current in {row.study_id for row in highest} and seconds < SLICE_SECONDS:
        assert chosen == current


def at(study: int, others: int = 0, priority: int = 0) -> WaitingStudy:
    return WaitingStudy(study_id=study, priority=priority, others=others)


def test_a_new_worker_goes_where_the_fewest_are() -> None:
    assert choose([at(1, 2), at(2, 1), at(3, 1)], None, 0) == 2


def test_one_worker_of_several_studies_goes_round_and_round() -> None:
    here, seen = None, []
    for _ in range(7):
        here = choose([at(1), at(4), at(6)], here, SLICE_SECONDS)
        seen.append(here)
    assert seen == [1, 4, 6, 1, 4, 6, 1]


def test_a_higher_priority_is_not_made_to_wait_for_a_slice() -> None:
    assert choose([at(1), at(2, priority=1)], 1, 0) == 2


@given(st.integers(1, 6), st.integers(1, 6))
def test_workers_spread_over_studies_and_then_stay_where_they_are(workers: int, studies: int) -> None:
    """Each looks in turn, some slices long: no study waits for ever, and full houses do not swap for nothing."""
    places: list[int | None] = [None] * workers
    visited: set[int] = set()
    moves = 0
    for turn in range(4 * studies):
        for worker in range(workers):
            counts = Counter(place for index, place in enumerate(places) if index != worker)
            chosen = choose([at(study, counts[study]) for study in range(studies)], places[worker], SLICE_SECONDS)
            moves += chosen != places[worker] and turn > studies
            places[worker] = chosen
            assert chosen is not None
            visited.add(chosen)
    assert visited == set(range(studies))
    if workers >= studies:
        assert moves == 0
        sizes = Counter(places).values()
        assert max(sizes) - min(sizes) <= 1
