"""Whether one condition is no worse than another on the same prompts, by more than a margin: an exact paired test.

Of `n` prompts, `b` show the bad outcome under the condition tested only, `c` under the reference only. The tables are
ordered by Tango's score (1998); how likely an outcome at least as good is, if the condition really is worse by the
margin, is computed exactly for the unfavourable rate behind `c` (Hsueh, Liu and Chen 2001, Biometrics 57:478-483).
Needs scipy, the extra `gate`.
"""

from __future__ import annotations

import functools
from math import ceil, log
from statistics import NormalDist
from typing import Any

import numpy as np

from jetson_runtime.console import require
from refusal_suite.statistics import tango_variance

__all__ = ["approximate_n", "chance", "least_n", "limits", "needed_n", "p_value", "score"]

_GRID = 160
_ROUNDING = 1e-9
_FAR = 9.0  # standard deviations; what lies beyond is below 1e-15
_HALVINGS = 26
_NORMAL = NormalDist()


def score(b: Any, c: Any, n: int, margin: float) -> Any:
    """Tango's score of tables: how far `b - c` lies above (below: negative) what the margin lets expect."""
    b, c = np.asarray(b, float), np.asarray(c, float)
    return (b - c - n * margin) / np.sqrt(tango_variance(b, c, n, margin))


def p_value(b: int, c: int, n: int, margin: float) -> float:
    """The chance of a table at least as good as this one if the true difference is the margin; small: not inferior.

    It is the larger of the exact chance and the one by the normal distribution, so that a small value also means that
    Tango's upper bound lies below the margin.
    """
    z = float(score(b, c, n, margin))
    return max(_worst(_boundary(z, n, margin), n, margin), _NORMAL.cdf(z))


@functools.lru_cache(maxsize=4096)
def limits(n: int, margin: float, alpha: float) -> Any:
    """For each `c` from 0 to `n` the largest `b` whose p-value is at most `alpha`, -1 where there is none."""
    lowest, highest = -2 * n * margin - 10 * n**0.5, _NORMAL.inv_cdf(alpha)
    if _worst(_boundary(highest, n, margin), n, margin) > alpha:
        for _ in range(_HALVINGS):
            middle = (lowest + highest) / 2
            if _worst(_boundary(middle, n, margin), n, margin) > alpha:
                highest = middle
            else:
                lowest = middle
        highest = lowest
    found = _boundary(highest, n, margin)
    found.setflags(write=False)
    return found


def chance(n: int, margin: float, alpha: float, b_rate: float, c_rate: float) -> float:
    """How likely the test is to admit when `b` and `c` come with these rates; exact.

    With `b_rate - c_rate` at the margin or above that is an error, below it is the test's power.
    """
    return _size(limits(n, margin, alpha), n, b_rate, c_rate)


@functools.lru_cache
def least_n(margin: float, alpha: float) -> int:
    """The least number of prompts with which the test can admit at all: when none of them differs."""
    n = ceil(log(alpha) / log(1 - margin))
    while p_value(0, 0, n, margin) > alpha:
        n += 1
    return n


def approximate_n(margin: float, discordant: float, power: float, alpha: float) -> int:
    """The usual formula: `(z_alpha + z_power)^2 * discordant / margin^2`, for a true difference of 0."""
    z = _NORMAL.inv_cdf(1 - alpha) + _NORMAL.inv_cdf(power)
    return ceil(z * z * discordant / margin**2)


def needed_n(margin: float, discordant: float, power: float, alpha: float) -> int:
    """How many prompts give the exact test that power, for a true difference of 0 and that share of differing prompts.

    Found by halving; power climbs in small saw teeth, so a few more prompts can have a little less of it.
    """

    def enough(n: int) -> bool:
        return chance(n, margin, alpha, discordant / 2, discordant / 2) >= power

    low, high = least_n(margin, alpha) - 1, max(least_n(margin, alpha), approximate_n(margin, discordant, power, alpha))
    while not enough(high):
        low, high = high, ceil(high * 1.1) + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _boundary(z: float, n: int, margin: float) -> Any:
    """For each `c` the largest `b` with a score of at most `z`, or -1; the score grows with `b`."""
    c = np.arange(n + 1)
    inside, outside = np.full(n + 1, -1), n + 1 - c
    while np.any(outside - inside > 1):
        middle = (inside + outside) // 2
        good = score(np.maximum(middle, 0), c, n, margin) <= z + _ROUNDING
        inside, outside = np.where(good & (middle >= 0), middle, inside), np.where(good, outside, middle)
    return inside


def _worst(boundary: Any, n: int, margin: float) -> float:
    """The largest chance of a table within the boundary over all rates behind `c`, the difference being the margin."""
    top = (1 - margin) / 2

    def sizes(rates: Any) -> Any:
        return np.array([_size(boundary, n, rate + margin, rate) for rate in rates])

    # Squared: near 0 the chance changes within rates of 1/n.
    rates = top * np.linspace(0, 1, _GRID) ** 2
    found = sizes(rates)
    at = int(found.argmax())
    between = np.linspace(rates[max(at - 1, 0)], rates[min(at + 1, _GRID - 1)], 24)
    return float(max(found.max(), sizes(between).max()))


def _size(boundary: Any, n: int, b_rate: float, c_rate: float) -> float:
    """The chance of a table within the boundary."""
    special = require("scipy.special", "gate", "scipy")
    spread = _FAR * (n * c_rate * (1 - c_rate)) ** 0.5 + _FAR
    c = np.arange(max(0, int(n * c_rate - spread)), min(n, int(n * c_rate + spread)) + 1)
    b = boundary[c]
    within = special.bdtr(np.minimum(np.maximum(b, 0), n - c), n - c, min(1.0, b_rate / (1 - c_rate)))
    if c_rate == 0:
        return float(within[0]) if b[0] >= 0 else 0.0
    log_c = special.gammaln(n + 1) - special.gammaln(c + 1) - special.gammaln(n - c + 1)
    weight = np.exp(log_c + c * log(c_rate) + (n - c) * np.log1p(-c_rate))
    return float(np.sum(weight * np.where(b >= 0, within, 0.0)))
