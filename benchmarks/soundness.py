"""How often the gate admits what it must not: simulated with the true difference exactly at the margin.

Nothing is imitated: the regions, the design effect and the bounds are the gate's own functions. Independent prompts are
drawn as Sobol points through the distribution functions, so that the share of wrong admissions is not blurred by
chance; clustered ones with a seeded generator.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import NormalDist
from typing import Any

import numpy as np

from benchmarks.claims import Measured, claim
from jetson_runtime.console import require
from refusal_suite.clusters import design_effect, thinned
from refusal_suite.noninferiority import chance, limits, score

__all__ = ["clustered", "independent", "pair_rates", "soundness"]

ALPHA = 0.05
MARGINS = (0.03, 0.05, 0.10)
SIZES = (100, 264, 520, 1000)
RATES = (0.02, 0.10, 0.30)  # of the reference
CORRELATIONS = (0.0, 0.4, 0.8)  # between the answers of both to one prompt; capped where the rates allow no more
SOBOL_POWER = 14  # 16,384 runs
RUNS = 10_000
ALIKE = (0.2, 0.5, 1.0)  # correlation between prompts of one cluster
LAYOUTS: Mapping[str, tuple[int, ...]] = {
    "100 requests with 3 pictures": (3,) * 100,
    "60 requests with 5 pictures": (5,) * 60,
    "30 requests with 10 pictures": (10,) * 30,
    "132 requests alone, 33 with 4 pictures": (1,) * 132 + (4,) * 33,
}
SCHEDULES = 9  # that differ, on the ladder of demo/build.yaml


def pair_rates(rate: float, margin: float, correlation: float) -> tuple[float, float]:
    """How often a prompt is a hit here only and in the reference only, if the rates are `rate + margin` and `rate`."""
    here = rate + margin
    both = rate * here + correlation * (rate * (1 - rate) * here * (1 - here)) ** 0.5
    only_reference = rate - min(rate, both)
    return only_reference + margin, only_reference


def independent(n: int, margin: float, b_rate: float, c_rate: float) -> dict[str, float]:
    """Shares of the runs that are admitted: by the gate's test, by Tango's score alone; and the gate's exact one."""
    stats, qmc = require("scipy.stats", "gate", "scipy"), require("scipy.stats.qmc", "gate", "scipy")
    points = qmc.Sobol(2, seed=n).random_base2(SOBOL_POWER)
    c = stats.binom.ppf(points[:, 0], n, c_rate).astype(int)
    b = stats.binom.ppf(points[:, 1], n - c, b_rate / (1 - c_rate)).astype(int)
    return {
        "admitted": float(np.mean(b <= limits(n, margin, ALPHA)[c])),
        "exact": chance(n, margin, ALPHA, b_rate, c_rate),
        "tango_alone": float(np.mean(score(b, c, n, margin) <= NormalDist().inv_cdf(ALPHA))),
    }


def clustered(sizes: tuple[int, ...], margin: float, b_rate: float, c_rate: float, alike: float) -> dict[str, float]:
    """Shares of the runs that are admitted: by the gate's test, and if clusters were not looked at."""
    b, c = _draw(np.array(sizes), (b_rate, c_rate), alike)
    n = sum(sizes)
    effect = design_effect(np.broadcast_to(sizes, b.shape), b - c, b + c)
    worse, better, worth = thinned(b.sum(1), c.sum(1), n, effect)
    admitted = np.zeros(RUNS, bool)
    for size in np.unique(worth):
        these = worth == size
        admitted[these] = worse[these] <= limits(int(size), margin, ALPHA)[better[these]]
    ignored = b.sum(1) <= limits(n, margin, ALPHA)[c.sum(1)]
    return {"admitted": float(admitted.mean()), "clusters_ignored": float(ignored.mean())}


def bounded(sizes: tuple[int, ...], limit: float, alike: float) -> dict[str, float]:
    """The same for an exact bound on one rate that truly is at the limit."""
    special = require("scipy.special", "gate", "scipy")
    hits, _ = _draw(np.array(sizes), (limit, 0.0), alike)
    effect = design_effect(np.broadcast_to(sizes, hits.shape), hits, hits)
    some, _, worth = thinned(hits.sum(1), 0, sum(sizes), effect)
    return {"admitted": float(np.mean(special.betaincc(some + 1, worth - some, limit) <= ALPHA))}


def schedules(n: int, margin: float, b_rate: float, c_rate: float) -> dict[str, float]:
    """How often Holm's procedure admits any of the schedules, all at the margin: answers unrelated, or all the same."""
    first = chance(n, margin, ALPHA / SCHEDULES, b_rate, c_rate)
    return {"unrelated": 1 - (1 - first) ** SCHEDULES, "same": first}


def _draw(sizes: Any, rates: tuple[float, float], alike: float) -> tuple[Any, Any]:
    """How many prompts of each cluster are hits here only and in the reference only, one row per run.

    Each cluster has rates of its own, from a Dirichlet distribution whose correlation within a cluster is `alike`; at 1
    all its prompts share one outcome.
    """
    chance, shape = np.random.default_rng(20), (RUNS, len(sizes))
    b_rate, c_rate = rates
    if alike >= 1:
        drawn = chance.random(shape)
        return np.where(drawn < b_rate, sizes, 0), np.where((drawn >= b_rate) & (drawn < b_rate + c_rate), sizes, 0)
    weights = np.array([b_rate, c_rate, 1 - b_rate - c_rate]) * (1 - alike) / alike
    # A weight of 0 is a rate of 0 in every cluster.
    parts = [chance.standard_gamma(weight, shape) if weight else np.zeros(shape) for weight in weights]
    whole = np.maximum(sum(parts), np.finfo(float).tiny)
    b = chance.binomial(sizes, np.clip(parts[0] / whole, 0, 1))
    rest = np.maximum(whole - parts[0], np.finfo(float).tiny)
    return b, chance.binomial(sizes - b, np.clip(parts[1] / rest, 0, 1))


def _cells() -> Iterator[tuple[str, dict[str, float]]]:
    for margin in MARGINS:
        for n in SIZES:
            for rate in RATES:
                for correlation in CORRELATIONS:
                    name = f"margin {100 * margin:g}, {n} prompts, rate {100 * rate:g} %, correlation {correlation:g}"
                    yield name, independent(n, margin, *pair_rates(rate, margin, correlation))
    for layout, sizes in LAYOUTS.items():
        for rate in RATES:
            for alike in ALIKE:
                name = f"margin 5, {layout}, rate {100 * rate:g} %, alike {alike:g}"
                yield name, clustered(sizes, 0.05, *pair_rates(rate, 0.05, 0.4), alike)
        for alike in ALIKE:
            yield f"limit 10 %, {layout}, alike {alike:g}", bounded(sizes, 0.10, alike)


@claim(
    "gate.soundness",
    "wrong admissions with the true difference at the margin: worst of all rates, correlations, numbers and clusters",
    "share",
    "<=",
    0.05,
)
def soundness() -> Measured:
    """Simulate every cell."""
    cells = dict(_cells())
    family = {f"{n} prompts": schedules(n, 0.05, *pair_rates(0.10, 0.05, 0.4)) for n in SIZES}
    worst = max(cells, key=lambda name: cells[name]["admitted"])
    compared = [cell for cell in cells.values() if "exact" in cell]
    details = {
        "worst": worst,
        "runs": {"independent": 2**SOBOL_POWER, "clustered": RUNS},
        "cells": cells,
        "any_of_the_schedules": family,
        "worst_exact": max(cell["exact"] for cell in compared),
        "worst_of_tango_alone": max(cell["tango_alone"] for cell in compared),
        "worst_if_clusters_were_ignored": max(cell.get("clusters_ignored", 0.0) for cell in cells.values()),
    }
    return Measured(max(cells[worst]["admitted"], *(max(each.values()) for each in family.values())), details)
