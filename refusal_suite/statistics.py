"""Intervals for rates, and for differences of rates on the same prompts."""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist
from typing import Any

import numpy as np

from jetson_runtime.console import require

__all__ = [
    "CONFIDENCE",
    "clopper_pearson_p",
    "clopper_pearson_upper",
    "tango",
    "tango_upper",
    "tango_variance",
    "wilson",
]


CONFIDENCE = 0.95
_HALVINGS = 60


def wilson(hits: int, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The two-sided Wilson score interval (1927) of a rate of `hits` in `n`, within 0..1; `n` is positive."""
    z, rate = NormalDist().inv_cdf(0.5 + confidence / 2), hits / n
    middle = rate + z * z / (2 * n)
    half = z * sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # At the ends the interval touches 0 or 1 exactly; rounding would put it a little inside.
    return (0.0 if hits == 0 else (middle - half) / scale), (1.0 if hits == n else (middle + half) / scale)


def clopper_pearson_upper(hits: int, n: int, alpha: float = 1 - CONFIDENCE) -> float:
    """The exact one-sided upper bound of a rate (Clopper and Pearson 1934).

    It is the largest rate with which `hits` or fewer in `n` still come with a chance of `alpha`.

    Raises:
        MissingExtraError: scipy (the extra `gate`) is not installed.
    """
    special = require("scipy.special", "gate", "scipy")
    return 1.0 if hits >= n else float(special.betaincinv(hits + 1, n - hits, 1 - alpha))


def clopper_pearson_p(hits: int, n: int, limit: float) -> float:
    """The chance of `hits` or fewer in `n` if the rate is `limit`: at most alpha exactly if the bound keeps the limit.

    Raises:
        MissingExtraError: scipy (the extra `gate`) is not installed.
    """
    special = require("scipy.special", "gate", "scipy")
    return 1.0 if hits >= n else float(special.betaincc(hits + 1, n - hits, limit))


def tango(b: int, c: int, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Tango's two-sided score interval (1998) of the difference `(b - c) / n` of two rates on the same `n` prompts.

    `b` counts the prompts that were hits under the first condition only, `c` those under the second only; `n` is
    positive. Within -1..1; it is of use also where `b` and `c` are 0.
    """
    z, estimate = NormalDist().inv_cdf(0.5 + confidence / 2), (b - c) / n

    def end(bound: float) -> float:
        # The score grows with the distance from the estimate: the end is where it reaches z.
        inside, outside = estimate, bound
        for _ in range(_HALVINGS):
            middle = (inside + outside) / 2
            if (b - c - n * middle) ** 2 > z * z * float(tango_variance(b, c, n, middle)):
                outside = middle
            else:
                inside = middle
        return inside

    return end(-1.0), end(1.0)


def tango_upper(b: int, c: int, n: int, alpha: float = 1 - CONFIDENCE) -> float:
    """The one-sided upper bound of the same difference: the end of the two-sided interval of confidence 1 - 2 alpha."""
    return tango(b, c, n, 1 - 2 * alpha)[1]


def tango_variance(b: Any, c: Any, n: float, difference: float) -> Any:
    """Of `b - c`, if `difference` is the true one; the rate behind `c` is its most likely value under it."""
    linear = (2 * n - b + c) * difference - b - c
    # Never negative but by rounding.
    root = np.sqrt(np.maximum(0.0, linear**2 + 8 * n * c * difference * (1 - difference)))
    rate = (root - linear) / (4 * n)
    return n * (2 * rate + difference * (1 - difference))
