"""Intervals for rates."""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist

__all__ = ["CONFIDENCE", "wilson"]

CONFIDENCE = 0.95


def wilson(hits: int, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The two-sided Wilson score interval (1927) of a rate of `hits` in `n`, within 0..1; `n` is positive."""
    z, rate = NormalDist().inv_cdf(0.5 + confidence / 2), hits / n
    middle = rate + z * z / (2 * n)
    half = z * sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # At the ends the interval touches 0 or 1 exactly; rounding would put it a little inside.
    return (0.0 if hits == 0 else (middle - half) / scale), (1.0 if hits == n else (middle + half) / scale)
