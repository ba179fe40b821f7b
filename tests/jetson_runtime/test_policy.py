"""The depth policy on made-up ladders, profiles and budgets."""

from __future__ import annotations

import pytest
from admitting import verdicts
from hypothesis import given
from hypothesis import strategies as st

from jetson_runtime.enforcement import Enforcement
from jetson_runtime.errors import BudgetError, InputError
from jetson_runtime.ladder import Budget, Depth, Ladder
from jetson_runtime.policy import choose
from jetson_runtime.profile import LatencyProfile, Row

TIMES = st.floats(0.01, 1e5)
BUDGETS = st.one_of(
    st.builds(Budget, answer_ms=TIMES), st.builds(Budget, first_token_ms=TIMES, per_token_ms=TIMES)
)  # fmt: skip


@st.composite
def ladders(draw: st.DrawFn) -> tuple[list[Depth], LatencyProfile]:
    """One to five depths, and times that need not grow with them: a measured tail may fall on any exit."""
    count = draw(st.integers(1, 5))
    depths, rows = [Depth(f"d{n}", n, 10 * n) for n in range(1, count + 1)], []
    for depth in depths:
        for phase, layer, tokens in (
            ("vision", depth.vision, 257), ("prefill", depth.decoder, 16), ("prefill", depth.decoder, 300),
            ("decode", depth.decoder, 1),
        ):  # fmt: skip
            ms = draw(TIMES)
            rows.append(Row(phase, "exit", "", layer, tokens, "warm", 9, ms, ms, ms))
    return depths, LatencyProfile(tuple(rows), "digest", "onnxruntime", {})


REQUESTS = st.fixed_dictionaries(
    {"prompt_tokens": st.integers(1, 512), "image": st.booleans(), "tokens": st.integers(1, 64)}
)


def picked(made: tuple[list[Depth], LatencyProfile], budget: Budget, **request: object) -> int:
    """The place of the chosen depth on the ladder, -1 where none fits."""
    try:
        return made[0].index(choose(made[0], made[1], budget, **request).depth)  # type: ignore[arg-type]
    except BudgetError:
        return -1


@given(ladders(), BUDGETS, REQUESTS, st.floats(0, 1e4))
def test_the_choice_fits_and_nothing_deeper_does(
    made: tuple[list[Depth], LatencyProfile], budget: Budget, request: dict[str, object], spent_ms: float
) -> None:
    depths, profile = made

    def fits(depth: Depth) -> bool:
        first = spent_ms + profile.first_token_ms(depth, prompt_tokens=request["prompt_tokens"], image=request["image"])
        if budget.answer_ms is not None:
            return spent_ms + profile.answer_ms(depth, **request) <= budget.answer_ms
        slow = request["tokens"] > 1 and profile.step_ms(depth.decoder) > budget.per_token_ms
        return first <= budget.first_token_ms and not slow

    place = picked(made, budget, spent_ms=spent_ms, **request)
    assert place == -1 or fits(depths[place])
    assert not any(fits(depth) for depth in depths[place + 1 :])


@given(ladders(), TIMES, st.floats(0, 1e5), REQUESTS)
def test_more_time_never_gives_a_shallower_depth(
    made: tuple[list[Depth], LatencyProfile], answer_ms: float, more_ms: float, request: dict[str, object]
) -> None:
    less, more = (picked(made, Budget(answer_ms=ms), **request) for ms in (answer_ms, answer_ms + more_ms))
    assert less <= more


@given(ladders(), TIMES, TIMES, st.floats(0, 1e5), st.floats(0, 1e5), REQUESTS)
def test_more_time_per_phase_never_gives_a_shallower_depth(
    made: tuple[list[Depth], LatencyProfile], first: float, each: float, more_first: float, more_each: float,
    request: dict[str, object],
) -> None:  # fmt: skip
    less = picked(made, Budget(first_token_ms=first, per_token_ms=each), **request)
    assert less <= picked(made, Budget(first_token_ms=first + more_first, per_token_ms=each + more_each), **request)


@given(ladders(), BUDGETS, REQUESTS, st.floats(0, 1e4), st.floats(0, 1e4))
def test_time_that_has_passed_never_gives_a_deeper_depth(
    made: tuple[list[Depth], LatencyProfile], budget: Budget, request: dict[str, object], spent: float, more: float
) -> None:
    assert picked(made, budget, spent_ms=spent + more, **request) <= picked(made, budget, spent_ms=spent, **request)


@given(ladders(), st.sets(st.integers(1, 5)), BUDGETS, REQUESTS, st.floats(0, 1e4), st.floats(1, 100))
def test_only_admitted_depths_are_chosen_and_the_deepest_that_fits_of_them(
    made: tuple[list[Depth], LatencyProfile], numbers: set[int], budget: Budget, request: dict[str, object],
    spent_ms: float, factor: float,
) -> None:  # fmt: skip
    depths, profile = made
    ladder = Ladder(tuple(depths))
    numbers |= {len(depths)}  # a bundle without any admitted depth is never loaded
    rule = Enforcement(ladder, verdicts(ladder, {f"d{number}" for number in numbers}), allow_unadmitted=False)
    admitted = rule.depths()
    place = picked((list(admitted), profile), budget, spent_ms=spent_ms, **request)
    fitting = [depth for depth in admitted if picked(([depth], profile), budget, spent_ms=spent_ms, **request) == 0]
    assert (admitted[place] if place >= 0 else None) == (fitting[-1] if fitting else None)
    assert place < 0 or int(admitted[place].name[1:]) in numbers
    times = {name: value and value * factor for name, value in vars(budget).items()}
    assert place <= picked((list(admitted), profile), Budget(**times), spent_ms=spent_ms, **request)


@given(ladders(), REQUESTS, st.floats(0, 100))
def test_the_prediction_is_the_profiles(
    made: tuple[list[Depth], LatencyProfile], request: dict[str, object], spent_ms: float
) -> None:
    choice = choose(made[0], made[1], Budget(answer_ms=1e9), spent_ms=spent_ms, **request)  # type: ignore[arg-type]
    assert choice.depth == made[0][-1]
    assert choice.predicted_ms == made[1].answer_ms(choice.depth, **request)
    first = {name: request[name] for name in ("prompt_tokens", "image")}
    assert choice.first_token_ms == made[1].first_token_ms(choice.depth, **first)


def flat(**times: float) -> LatencyProfile:
    rows = [
        Row(phase, "exit", "", layer, 1, "warm", 9, times[phase] * layer, times[phase] * layer, times[phase] * layer)
        for phase in ("vision", "prefill", "decode")
        for layer in (1, 2)
    ]
    return LatencyProfile(tuple(rows), "digest", "onnxruntime", {})


LADDER = [Depth("d1", 1, 1), Depth("d2", 2, 2)]


def test_none_fits_and_the_error_says_by_how_much() -> None:
    profile = flat(vision=100.0, prefill=300.0, decode=20.0)
    with pytest.raises(BudgetError, match="not even d1") as caught:
        choose(LADDER, profile, Budget(answer_ms=500.0), prompt_tokens=9, image=True, tokens=6, spent_ms=30.0)
    error = caught.value
    assert (error.budget_ms, error.predicted_ms) == (470.0, 100.0 + 300.0 + 5 * 20.0)
    assert error.exit_code == 4
    for text in ("500 ms predicted", "at most 470 ms", "(30 ms less)", "fewer tokens than 6"):
        assert text in str(error)


def test_exactly_enough_is_enough() -> None:
    profile = flat(vision=100.0, prefill=300.0, decode=20.0)
    request = {"prompt_tokens": 9, "image": True, "tokens": 6}
    assert choose(LADDER, profile, Budget(answer_ms=500.0), **request).depth.name == "d1"
    assert choose(LADDER, profile, Budget(answer_ms=1000.0), **request).depth.name == "d2"
    with pytest.raises(BudgetError):
        choose(LADDER, profile, Budget(answer_ms=499.999), **request)


def test_without_an_image_the_vision_tower_costs_nothing() -> None:
    profile = flat(vision=100.0, prefill=300.0, decode=20.0)
    assert choose(LADDER, profile, Budget(answer_ms=600.0), prompt_tokens=9, image=False, tokens=1).depth.name == "d2"


def test_one_token_does_not_look_at_the_time_per_token() -> None:
    profile = flat(vision=1.0, prefill=1.0, decode=1000.0)
    budget = Budget(first_token_ms=10.0, per_token_ms=1.0)
    assert choose(LADDER, profile, budget, prompt_tokens=9, image=True, tokens=1).depth.name == "d2"
    with pytest.raises(BudgetError):
        choose(LADDER, profile, budget, prompt_tokens=9, image=True, tokens=2)


@pytest.mark.parametrize(
    "times",
    [{}, {"first_token_ms": 5.0}, {"per_token_ms": 5.0}, {"answer_ms": 5.0, "per_token_ms": 5.0},
     {"answer_ms": 5.0, "first_token_ms": 5.0, "per_token_ms": 5.0}],
)  # fmt: skip
def test_a_budget_takes_one_form(times: dict[str, float]) -> None:
    with pytest.raises(InputError, match="not complete"):
        Budget(**times)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["answer_ms", "first_token_ms", "per_token_ms"])
def test_a_budget_is_a_time_that_can_be_kept(name: str, value: float) -> None:
    both = {} if name == "answer_ms" else {"first_token_ms": 5.0, "per_token_ms": 5.0}
    with pytest.raises(InputError, match=name):
        Budget(**{**both, name: value})


def test_the_total_of_a_budget_in_parts() -> None:
    assert Budget(first_token_ms=100.0, per_token_ms=10.0).total_ms(5) == 140.0
    assert Budget(answer_ms=70.0).total_ms(5) == 70.0
