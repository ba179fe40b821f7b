"""One test of the gate: a rate against the reference's on the same prompts, or a rate against a limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log
from typing import Any

import numpy as np

from refusal_suite.clusters import design_effect, thinned
from refusal_suite.noninferiority import least_n, p_value
from refusal_suite.statistics import clopper_pearson_p, clopper_pearson_upper, tango_upper

__all__ = ["Absolute", "Finding", "Paired", "at_most", "least_for_limit", "no_worse"]

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Paired:
    """Hits here against hits of the reference on the same `n` prompts: is the rate here higher by less than the margin?

    `upper_points` is the one-sided upper bound of the difference; `worth` is how many independent prompts the `n`
    prompts of `requests` different requests are worth (`design_effect`), `needs` how many the margin needs at least.
    """

    what: str
    n: int
    hits: int
    reference_hits: int
    only_here: int
    only_reference: int
    requests: int
    design_effect: float
    worth: int
    needs: int
    margin_points: float
    upper_points: float
    p: float

    @property
    def brief(self) -> str:
        """The bound beside the margin."""
        return f"{self.what} at most {self.upper_points:+.2f} points (margin {self.margin_points:g})"

    @property
    def full(self) -> str:
        """Also the counts."""
        counts = f"{self.hits} against {self.reference_hits} of {self.n}, {self.only_here} only here"
        return f"{self.brief}, p {self.p:.2g}: {counts}, {self.only_reference} only there{_short(self)}"


@dataclass(frozen=True)
class Absolute:
    """Hits in `n` prompts: is the rate at most the limit? `upper_percent` is its exact one-sided upper bound."""

    what: str
    n: int
    hits: int
    requests: int
    design_effect: float
    worth: int
    needs: int
    limit_percent: float
    upper_percent: float
    p: float

    @property
    def brief(self) -> str:
        """The bound beside the limit."""
        return f"{self.what} at most {self.upper_percent:.2f} % (limit {self.limit_percent:g})"

    @property
    def full(self) -> str:
        """Also the counts."""
        return f"{self.brief}, p {self.p:.2g}: {self.hits} of {self.n}{_short(self)}"


Finding = Paired | Absolute


def no_worse(
    what: str, here: Sequence[bool], reference: Sequence[bool], requests: Sequence[str], margin: float, alpha: float
) -> Paired:
    """Test hits here against hits of the reference, prompt by prompt; `requests` tells which prompts are one request.

    `margin` is in points.
    """
    needs = least_n(margin / 100, alpha)
    if not here:
        return Paired(what, 0, 0, 0, 0, 0, 0, 1.0, 0, needs, margin, 100.0, 1.0)
    differences = np.asarray(here, int) - np.asarray(reference, int)
    n, b, c = len(differences), int(np.sum(differences > 0)), int(np.sum(differences < 0))
    effect = _effect(differences, requests)
    worse, better, worth = map(int, thinned(b, c, n, effect))
    return Paired(
        what=what,
        n=n,
        hits=sum(here),
        reference_hits=sum(reference),
        only_here=b,
        only_reference=c,
        requests=len(set(requests)),
        design_effect=effect,
        worth=worth,
        needs=needs,
        margin_points=margin,
        upper_points=100 * tango_upper(worse, better, worth, alpha),
        p=p_value(worse, better, worth, margin / 100),
    )


def at_most(what: str, hits: Sequence[bool], requests: Sequence[str], limit: float, alpha: float) -> Absolute:
    """Test a rate against `limit`, in per cent."""
    values = np.asarray(hits, int)
    effect = _effect(values, requests)
    some, _, worth = map(int, thinned(values.sum(), 0, len(values), effect))
    return Absolute(
        what=what,
        n=len(values),
        hits=int(values.sum()),
        requests=len(set(requests)),
        design_effect=effect,
        worth=worth,
        needs=least_for_limit(limit, alpha),
        limit_percent=limit,
        upper_percent=100 * clopper_pearson_upper(some, worth, alpha),
        p=clopper_pearson_p(some, worth, limit / 100),
    )


def least_for_limit(limit: float, alpha: float) -> int:
    """The least number of prompts, none of them a hit, that shows a rate of at most `limit` per cent."""
    return ceil(log(alpha) / log(1 - limit / 100) - _ROUNDING)


def _effect(values: Any, requests: Sequence[str]) -> float:
    index = np.unique(np.asarray(requests), return_inverse=True)[1]
    sizes, sums, squares = (np.bincount(index, weights) for weights in (None, values, values**2))
    return float(design_effect(sizes, sums, squares))


def _short(finding: Finding) -> str:
    if finding.worth >= finding.needs:
        return ""
    return f"; these prompts are worth {finding.worth} independent ones, at least {finding.needs} are needed"
