"""How many independent prompts a set is worth in which one request stands several times, with different pictures.

Answers to one request tend to fall together, so counts of them say less than counts of independent ones. The variance
of a sum over prompts is estimated by the sums of whole clusters (Obuchowski 1998, Statistics in Medicine 17:1495-1507);
how much larger it is than without clusters is the design effect, and counts divided by it are used as if they were
independent (Rao and Scott 1992, Biometrics 48:577-585; for exact bounds Korn and Graubard 1998, Survey Methodology
24:193-201).
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["design_effect", "thinned"]

_ROUNDING = 1e-9
IMAGINED = 1
"""How many clusters of the usual size are imagined to fall together as a whole. Where no answer differs the variance
says nothing; then these alone decide, and each cluster counts as one prompt."""


def design_effect(sizes: Any, sums: Any, squares: Any) -> Any:
    """By what factor clusters thin out the prompts, 1 or more; exactly 1 if every cluster is a single prompt.

    The last axis runs over clusters: how many prompts each has, the sum of their values (0 or 1 for a hit; -1, 0 or 1
    for a difference of two hits), and the sum of the squares of these values.
    """
    sizes, sums, squares = (np.asarray(part, float) for part in (sizes, sums, squares))
    n = sizes.sum(-1)
    mean = sums.sum(-1) / n
    together = ((sums - mean[..., None] * sizes) ** 2).sum(-1)
    alone = squares.sum(-1) - n * mean**2
    usual = (sizes**2).sum(-1) / n
    return np.maximum(1.0, (together + IMAGINED * usual**2) / (alone + IMAGINED * usual))


def thinned(b: Any, c: Any, n: Any, effect: Any) -> tuple[Any, Any, Any]:
    """What `n` prompts, `b` of them worse and `c` better, are worth as independent ones: whole numbers.

    Where the effect is above 1 they are rounded against admission.
    """
    worth = np.floor(n / effect + _ROUNDING).astype(int)
    worse, better = np.ceil(b / effect - _ROUNDING), np.floor(c / effect + _ROUNDING)
    return worse.astype(int), np.minimum(better.astype(int), worth), worth
