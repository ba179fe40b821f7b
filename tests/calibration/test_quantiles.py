"""Quantiles against numpy, and what every row must keep."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from calibration.quantiles import nearest_rank, summarise

TIMES = st.lists(st.floats(0, 1e6), min_size=1, max_size=300)
KEY = ("decode", "exit", "", 4, 1, "warm")


@given(TIMES, st.sampled_from([1, 50, 90, 99, 100]))
def test_nearest_rank_is_numpys_inverted_cdf(times: list[float], percent: int) -> None:
    # numpy multiplies 0.9 by the count in binary; in hundredths the product is exact where it matters.
    rank = np.quantile(np.arange(1, len(times) + 1), percent / 100 - 1e-12, method="inverted_cdf")
    assert nearest_rank(times, percent) == sorted(times)[int(rank) - 1]


@given(TIMES)
def test_quantiles_are_in_order_and_never_zero(times: list[float]) -> None:
    row = summarise(KEY, times)
    assert 0 < row.p50_ms <= row.p90_ms <= row.p99_ms
    assert (row.count, row.key) == (len(times), KEY)


@given(st.lists(st.floats(0.1, 1e6), min_size=1, max_size=99))
def test_below_a_hundred_runs_the_p99_is_the_longest(times: list[float]) -> None:
    assert summarise(KEY, times).p99_ms == round(max(times), 6)


def test_an_outlier_is_kept() -> None:
    assert summarise(KEY, [1.0] * 29 + [500.0]).p99_ms == 500.0
