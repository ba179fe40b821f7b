"""Tango's paired interval: published values, its defining equation, and how often it covers the truth."""

from __future__ import annotations

import math
import random
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refusal_suite.statistics import tango

TABLES = st.integers(1, 600).flatmap(
    lambda n: st.integers(0, n).flatmap(lambda b: st.tuples(st.just(b), st.integers(0, n - b), st.just(n)))
)


@pytest.mark.parametrize(
    ("b", "c", "n", "confidence", "expected"),
    [
        # Airway reactivity before and after a transplantation, as in Fagerland, Lydersen and Laake (2014).
        (1, 7, 21, 0.95, (-0.517, -0.026)),
        # R's PropCIs 0.3-0, scoreci.mp(25, 28, 618, 0.90): there the second count comes first.
        (28, 25, 618, 0.90, (-0.0148, 0.0247)),
    ],
)
def test_tango_matches_published_values(
    b: int, c: int, n: int, confidence: float, expected: tuple[float, float]
) -> None:
    assert tango(b, c, n, confidence) == pytest.approx(expected, abs=6e-4 if n == 21 else 6e-5)


def test_without_any_difference_the_interval_is_the_closed_form() -> None:
    z = NormalDist().inv_cdf(0.975)
    assert tango(0, 0, 264) == pytest.approx((-z * z / (264 + z * z), z * z / (264 + z * z)))


def likelihood(q: float, difference: float, b: int, c: int, n: int) -> float:
    """Of the table, with q the rate behind c and q + difference the one behind b."""
    shares = ((q + difference, b), (q, c), (1 - 2 * q - difference, n - b - c))
    return sum(count * math.log(share) for share, count in shares if count)


@pytest.mark.parametrize(("b", "c", "n"), [(12, 3, 264), (3, 12, 264), (5, 5, 96), (30, 60, 300)])
def test_at_both_ends_the_score_under_the_likeliest_table_is_the_quantile(b: int, c: int, n: int) -> None:
    for end, sign in zip(tango(b, c, n), (1, -1), strict=True):
        low, high = max(0.0, -end) + 1e-12, (1 - end) / 2 - 1e-12
        for _ in range(200):
            third = (high - low) / 3
            if likelihood(low + third, end, b, c, n) < likelihood(high - third, end, b, c, n):
                low += third
            else:
                high -= third
        variance = n * (2 * low + end - end * end)
        assert sign * (b - c - n * end) / math.sqrt(variance) == pytest.approx(NormalDist().inv_cdf(0.975), rel=1e-4)


@given(TABLES)
def test_tango_holds_the_difference_and_mirrors(table: tuple[int, int, int]) -> None:
    b, c, n = table
    low, high = tango(b, c, n)
    assert -1 <= low <= (b - c) / n <= high <= 1
    assert low < high
    assert tango(c, b, n) == pytest.approx((-high, -low), abs=1e-9)
    wider = tango(b, c, n, 0.99)
    assert wider[0] <= low and high <= wider[1]


def test_tango_covers_the_truth_about_as_often_as_it_says() -> None:
    chance, covered, draws = random.Random(4), 0, 1500
    for _ in range(draws):
        outcomes = chance.choices("bc-", (0.06, 0.03, 0.91), k=200)
        low, high = tango(outcomes.count("b"), outcomes.count("c"), 200)
        covered += low <= 0.03 <= high
    assert 0.93 < covered / draws < 0.97
