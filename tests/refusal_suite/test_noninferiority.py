"""The exact paired test: a published example, enumeration of every table, and that its level holds wherever."""

from __future__ import annotations

import itertools
from math import comb, lgamma, log, sqrt
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("scipy", reason="the extra 'gate' is not installed")

from refusal_suite.noninferiority import (
    approximate_n,
    chance,
    least_n,
    limits,
    needed_n,
    p_value,
    score,
)
from refusal_suite.statistics import tango_upper

TABLES = st.integers(5, 80).flatmap(
    lambda n: st.integers(0, n).flatmap(lambda b: st.tuples(st.just(b), st.integers(0, n - b), st.just(n)))
)
MARGINS = st.sampled_from([0.03, 0.05, 0.1, 0.2])


def test_the_score_is_that_of_the_published_example() -> None:
    # Tango (1998): two ways to disinfect contact lenses, 44 pairs, margin 0.1; one-sided p 0.0437.
    z = float(score(1, 0, 44, 0.1))
    assert z == pytest.approx(-1.709, abs=5e-4)
    assert NormalDist().cdf(z) == pytest.approx(0.0437, abs=5e-4)


def likeliest(b: int, c: int, n: int, margin: float) -> float:
    """The rate behind c that makes the table likeliest if the difference is the margin; by search, not by formula."""

    def loss(rate: float) -> float:
        shares = ((b, rate + margin), (c, rate), (n - b - c, 1 - 2 * rate - margin))
        return -sum(count * log(max(share, 1e-300)) for count, share in shares if count)

    low, high = 0.0, (1 - margin) / 2
    for _ in range(200):
        third = (high - low) / 3
        if loss(low + third) < loss(high - third):
            high -= third
        else:
            low += third
    return low


def enumerated_p(b: int, c: int, n: int, margin: float) -> float:
    """The exact p-value over every table there is."""

    def z(b: int, c: int) -> float:
        variance = n * (2 * likeliest(b, c, n, margin) + margin - margin**2)
        return (b - c - n * margin) / sqrt(variance)

    scores = {table: z(*table) for table in itertools.product(range(n + 1), repeat=2) if sum(table) <= n}
    extreme = [table for table, value in scores.items() if value <= scores[b, c] + 1e-6]

    def size(rate: float) -> float:
        shares = rate + margin, rate, max(0.0, 1 - 2 * rate - margin)
        return sum(
            comb(n, x) * comb(n - x, y) * shares[0] ** x * shares[1] ** y * shares[2] ** (n - x - y) for x, y in extreme
        )

    return max(*(size(rate) for rate in np.linspace(0, (1 - margin) / 2, 1500)), NormalDist().cdf(scores[b, c]))


@pytest.mark.parametrize(
    ("b", "c", "n", "margin"), [(0, 0, 12, 0.2), (1, 3, 12, 0.1), (0, 2, 14, 0.05), (2, 2, 15, 0.3), (4, 0, 10, 0.1)]
)
def test_the_p_value_is_that_of_all_tables(b: int, c: int, n: int, margin: float) -> None:
    assert p_value(b, c, n, margin) == pytest.approx(enumerated_p(b, c, n, margin), rel=2e-4)


def test_without_any_difference_the_chance_is_that_of_seeing_none() -> None:
    assert p_value(0, 0, 59, 0.05) == pytest.approx(0.95**59)
    # Tango's score alone would admit on 52 prompts, and be wrong in 7 of 100 cases.
    assert tango_upper(0, 0, 52) < 0.05 < 0.95**52 == pytest.approx(p_value(0, 0, 52, 0.05))


@given(TABLES, MARGINS)
@settings(max_examples=30, deadline=None)
def test_more_losses_and_fewer_gains_never_help(table: tuple[int, int, int], margin: float) -> None:
    b, c, n = table
    z = float(score(b, c, n, margin))
    if b + c < n:
        assert float(score(b + 1, c, n, margin)) >= z - 1e-9
        assert float(score(b, c + 1, n, margin)) <= z + 1e-9
    if b:
        assert float(score(b - 1, c, n, margin)) <= z + 1e-9


@given(TABLES, MARGINS)
@settings(max_examples=30, deadline=None)
def test_a_small_p_value_means_a_bound_below_the_margin(table: tuple[int, int, int], margin: float) -> None:
    b, c, n = table
    if p_value(b, c, n, margin) <= 0.05:
        assert tango_upper(b, c, n) <= margin + 1e-9


@pytest.mark.parametrize(("n", "margin", "level"), [(59, 0.05, 0.05), (120, 0.05, 0.05 / 15), (90, 0.1, 0.05)])
def test_the_limits_are_where_the_p_value_crosses_the_level(n: int, margin: float, level: float) -> None:
    found = limits(n, margin, level)
    for c in (0, 1, 2, 5, 17):
        b = int(found[c])
        assert b < 0 or p_value(b, c, n, margin) <= level
        assert p_value(b + 1, c, n, margin) > level


@given(st.integers(20, 300), MARGINS, st.floats(0, 1), st.floats(0, 1), st.sampled_from([0.05, 0.05 / 9]))
@settings(max_examples=15, deadline=None)
def test_the_level_holds_at_the_margin_and_beyond(
    n: int, margin: float, where: float, beyond: float, level: float
) -> None:
    difference = margin + beyond * 0.1
    c_rate = where * (1 - difference) / 2
    assert chance(n, margin, level, c_rate + difference, c_rate) <= level + 1e-6


def test_the_chance_is_the_share_of_tables_that_are_admitted() -> None:
    n, b_rate, c_rate = 40, 0.06, 0.03
    found = limits(n, 0.2, 0.05)
    total = 0.0
    for b, c in itertools.product(range(n + 1), repeat=2):
        if b + c <= n and b <= found[c]:
            rest = n - b - c
            logs = lgamma(n + 1) - lgamma(b + 1) - lgamma(c + 1) - lgamma(rest + 1)
            total += np.exp(logs + b * log(b_rate) + c * log(c_rate) + rest * log(1 - b_rate - c_rate))
    assert chance(n, 0.2, 0.05, b_rate, c_rate) == pytest.approx(total)


def test_how_many_prompts_it_takes() -> None:
    # The formula's cells, as in table 2 of many a textbook: (1.645 + 0.842)^2 psi / margin^2.
    assert approximate_n(0.05, 0.1, 0.8, 0.05) == 248
    assert approximate_n(0.03, 0.05, 0.9, 0.05) == 476
    needed = needed_n(0.05, 0.1, 0.8, 0.05)
    assert 248 <= needed <= 300
    assert chance(needed, 0.05, 0.05, 0.05, 0.05) >= 0.8 > chance(needed - 1, 0.05, 0.05, 0.05, 0.05)
    assert least_n(0.05, 0.05) == 59
    assert limits(59, 0.05, 0.05)[0] == 0 and limits(58, 0.05, 0.05)[0] == -1
    # Hardly any difference: the least that is admitted is what counts, not the formula.
    assert needed_n(0.1, 0.001, 0.8, 0.05) == least_n(0.1, 0.05) == 29 > approximate_n(0.1, 0.001, 0.8, 0.05)
