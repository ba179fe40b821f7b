"""How many runs of what, and in which order."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from calibration.bench import Cell
from calibration.schedule import FEWEST, in_turn, runs_in_time

CELLS = st.dictionaries(st.integers(1, 40).map(lambda exit: Cell("decode", 1, exit)), st.floats(1e-3, 1e4), min_size=1)


@given(CELLS, st.integers(1, 50), st.floats(-1e3, 1e6))
def test_runs_stay_between_the_fewest_and_what_was_asked_for(
    estimates: dict[Cell, float], count: int, limit_ms: float
) -> None:
    runs = runs_in_time(estimates, count, limit_ms)
    least = min(count, FEWEST)
    assert all(least <= number <= count for number in runs.values())
    spent = sum(number * estimates[cell] for cell, number in runs.items())
    assert spent <= max(limit_ms, least * sum(estimates.values())) * (1 + 1e-9)


def test_without_a_limit_everything_runs_as_often_as_asked() -> None:
    estimates = {Cell("decode", 1, 4): 1.0, Cell("prefill", 300, 4): 1e4}
    assert set(runs_in_time(estimates, 30, float("inf")).values()) == {30}


def test_what_is_slow_runs_less_often() -> None:
    quick, slow = Cell("decode", 1, 4), Cell("prefill", 300, 4)
    runs = runs_in_time({quick: 1.0, slow: 1000.0}, 30, 10_000)
    assert runs[quick] == 30
    assert FEWEST <= runs[slow] < 12


@given(st.dictionaries(st.integers(1, 9).map(lambda exit: Cell("decode", 1, exit)), st.integers(0, 30), min_size=1))
def test_every_cell_gets_its_runs_and_none_runs_twice_in_a_round(runs: dict[Cell, int]) -> None:
    order = list(in_turn(runs))
    assert Counter(order) == Counter({cell: number for cell, number in runs.items() if number})
    for cell, number in runs.items():
        places = [place for place, other in enumerate(order) if other == cell]
        if number == max(runs.values()):
            assert all(later - sooner <= len(runs) for sooner, later in pairwise(places))


def test_depths_take_turns() -> None:
    cells = [Cell("decode", 1, exit) for exit in (1, 2, 3)]
    assert list(in_turn(dict.fromkeys(cells, 2))) == cells * 2
