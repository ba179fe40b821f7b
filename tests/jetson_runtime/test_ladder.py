from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetson_runtime.errors import ConfigError, InputError
from jetson_runtime.ladder import POINTS, Budget, Depth, Ladder, Schedule

exits = st.tuples(st.integers(1, 40), st.integers(1, 40))


def ladder_of(pairs: list[tuple[int, int]]) -> Ladder:
    return Ladder(tuple(Depth(f"d{n}", *pair) for n, pair in enumerate(pairs)))


@given(st.lists(exits, min_size=1, max_size=6))
def test_a_ladder_is_accepted_exactly_when_each_step_goes_deeper(pairs: list[tuple[int, int]]) -> None:
    increasing = all(a[0] <= b[0] and a[1] <= b[1] and a != b for a, b in itertools.pairwise(pairs))
    if increasing:
        ladder = ladder_of(pairs)
        assert ladder.full == ladder.depths[-1]
        assert Ladder.from_dicts(ladder.to_dicts()) == ladder
    else:
        with pytest.raises(ConfigError, match="not increasing"):
            ladder_of(pairs)


def test_names_are_unique_and_unknown_ones_are_answered_with_the_known() -> None:
    with pytest.raises(ConfigError, match="same name"):
        Ladder((Depth("a", 1, 1), Depth("a", 2, 2)))
    with pytest.raises(InputError, match="d0, d1"):
        ladder_of([(1, 1), (2, 2)])["d9"]


def test_exits_are_listed_once_and_in_order() -> None:
    ladder = ladder_of([(4, 12), (8, 20), (8, 30)])
    assert ladder.vision_exits() == (4, 8)
    assert ladder.decoder_exits() == (12, 20, 30)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_a_budget_that_is_no_time_is_refused(value: float) -> None:
    with pytest.raises(InputError, match="answer_ms"):
        Budget(answer_ms=value)


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"first_token_ms": 100.0},
        {"per_token_ms": 10.0},
        {"answer_ms": 100.0, "first_token_ms": 100.0, "per_token_ms": 10.0},
        {"answer_ms": 100.0, "per_token_ms": 10.0},
    ],
)
def test_a_budget_has_one_complete_form(parts: dict[str, float]) -> None:
    with pytest.raises(InputError, match="not complete"):
        Budget(**parts)


def test_the_deadline_of_a_per_token_budget_grows_with_the_tokens() -> None:
    budget = Budget(first_token_ms=300, per_token_ms=20)
    assert [budget.total_ms(tokens) for tokens in (1, 2, 11)] == [300, 320, 500]


@given(st.lists(exits, min_size=2, max_size=4), st.integers(0, 30))
def test_a_schedule_only_ever_leaves_earlier(pairs: list[tuple[int, int]], given_tokens: int) -> None:
    steps = sorted(set(pairs))
    if len(steps) < 2 or any(a[1] > b[1] for a, b in itertools.pairwise(steps)):
        return
    for schedule in ladder_of(steps).schedules():
        assert schedule.decoder_exit(given_tokens + 1) <= schedule.decoder_exit(given_tokens) <= schedule.start.decoder


def test_a_schedule_names_the_token_from_which_the_shallower_exit_speaks() -> None:
    deep, low = Depth("d2", 8, 30), Depth("d1", 4, 20)
    at = {point: [Schedule(deep, low, point).decoder_exit(n) for n in range(7)] for point in ("vision", "prefill", 4)}
    assert at["vision"] == [20] * 7
    assert at["prefill"] == [30] + [20] * 6
    assert at[4] == [30] * 5 + [20] * 2
    assert Schedule(deep, low, 4).name == "d2>d1@4"
    assert len(ladder_of([(1, 1), (2, 2), (3, 3)]).schedules()) == 3 * len(POINTS)


def test_operations_are_equal_where_the_answers_must_be() -> None:
    low, middle, deep = Depth("d1", 4, 20), Depth("d2", 8, 20), Depth("d3", 8, 30)
    assert Schedule(middle, low, 4).operation == middle.operation  # the decoder's exit is the same
    assert Schedule(deep, low, "vision").operation == middle.operation
    assert Schedule(deep, low, 1).operation == Schedule(deep, middle, 1).operation != deep.operation
