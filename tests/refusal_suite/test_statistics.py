"""Tango's paired interval: published values, its defining equation, and how often it covers the truth."""

from __future__ import annotations

import math
import random
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refusal_suite.statistics import (
    clopper_pearson_p,
    clopper_pearson_upper,
    tango,
    tango_upper,
    tango_variance,
    wilson,
)

COUNTS = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
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


def test_the_one_sided_end_is_where_the_score_is_the_quantile() -> None:
    upper = tango_upper(12, 3, 264)
    variance = tango_variance(12, 3, 264, upper)
    assert (12 - 3 - 264 * upper) / math.sqrt(variance) == pytest.approx(NormalDist().inv_cdf(0.05), rel=1e-6)
    assert tango_upper(12, 3, 264, 0.025) == tango(12, 3, 264)[1]


def test_the_exact_bound_is_r_s() -> None:
    pytest.importorskip("scipy", reason="the extra 'gate' is not installed")
    # The example of R's binom.test: 682 of 925, 95 % from 0.7076683 to 0.7654066.
    assert clopper_pearson_upper(682, 925, 0.025) == pytest.approx(0.7654066, abs=5e-8)
    assert 1 - clopper_pearson_upper(243, 925, 0.025) == pytest.approx(0.7076683, abs=5e-8)
    assert [clopper_pearson_upper(0, n) for n in (60, 300)] == pytest.approx([1 - 0.05 ** (1 / n) for n in (60, 300)])
    assert clopper_pearson_upper(7, 7) == 1


@given(COUNTS, st.sampled_from([0.1, 0.05, 0.01]))
def test_the_bounds_are_those_of_statsmodels(case: tuple[int, int], alpha: float) -> None:
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    hits, n = case
    theirs = proportion.proportion_confint(hits, n, alpha=2 * alpha, method="beta")[1]
    assert clopper_pearson_upper(hits, n, alpha) == pytest.approx(theirs, abs=1e-9)
    theirs = proportion.proportion_confint(hits, n, alpha=alpha, method="wilson")
    assert wilson(hits, n, 1 - alpha) == pytest.approx(theirs, abs=1e-9)


@given(COUNTS, st.floats(0.01, 0.6))
def test_the_chance_of_so_few_is_the_binomial_s(case: tuple[int, int], limit: float) -> None:
    pytest.importorskip("scipy", reason="the extra 'gate' is not installed")
    hits, n = case
    p = clopper_pearson_p(hits, n, limit)
    assert p == pytest.approx(
        sum(math.comb(n, k) * limit**k * (1 - limit) ** (n - k) for k in range(hits + 1)), abs=1e-9
    )
    upper = clopper_pearson_upper(hits, n)
    if abs(upper - limit) > 1e-9:
        assert (upper < limit) == (p < 0.05)
