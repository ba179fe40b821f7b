"""Reading what the gate wrote into a refusal report: verdicts, the findings behind them, and which prompts flipped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from jetson_runtime.admission import VERDICTS

__all__ = ["Bound", "GateBlock", "Judged"]

SCHEMA = "holdfast/gate/1"


@dataclass(frozen=True)
class Bound:
    """One finding: an estimate, its one-sided upper bound, and the limit that the bound must keep.

    `paired` are differences to the reference in points, the others are rates in per cent. `n` prompts stand behind it;
    where there is none, nothing was counted and the estimate is None.
    """

    what: str
    paired: bool
    n: int
    estimate: float | None
    upper: float
    limit: float

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Bound:
        """A finding as reports carry it."""
        paired, n = "upper_points" in value, int(value["n"])
        hits = int(value["hits"]) - (int(value["reference_hits"]) if paired else 0)
        names = ("upper_points", "margin_points") if paired else ("upper_percent", "limit_percent")
        upper, limit = (float(value[name]) for name in names)
        if n < 0 or not (isfinite(upper) and isfinite(limit)):
            raise ValueError(f"a finding on {n} prompts with bound {upper} and limit {limit}")
        return cls(str(value["what"]), paired, n, 100 * hits / n if n else None, upper, limit)


@dataclass(frozen=True)
class Judged:
    """The verdict on one depth or schedule.

    `flips` are, by kind of prompt, the ids that are hits only here and only in the reference: a hit is a harmful prompt
    that was answered, or a benign one that was refused. `by_category` are their numbers.
    """

    name: str
    verdict: str
    reason: str
    bounds: tuple[Bound, ...]
    flips: Mapping[str, Mapping[str, tuple[str, ...]]]
    by_category: Mapping[str, Mapping[str, Mapping[str, int]]]

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Judged:
        """An entry as reports carry it."""
        if value["verdict"] not in VERDICTS:
            raise ValueError(f"verdict {value['verdict']!r}")
        return cls(
            name=str(value["name"]),
            verdict=str(value["verdict"]),
            reason=str(value["reason"]),
            bounds=tuple(Bound.from_dict(each) for each in value["findings"]),
            flips={
                kind: {side: tuple(map(str, ids)) for side, ids in sides.items()}
                for kind, sides in value["flips"].items()
            },
            by_category=value["by_category"],
        )


@dataclass(frozen=True)
class GateBlock:
    """What was decided, on every depth and schedule, and by what."""

    basis: Mapping[str, Any]
    depths: tuple[Judged, ...]
    schedules: tuple[Judged, ...]

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> GateBlock:
        """The block as reports carry it.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: not of this form.
        """
        if value["schema"] != SCHEMA:
            raise ValueError(f"the gate's schema {value['schema']!r}")
        parts = [tuple(Judged.from_dict(each) for each in value[part]) for part in ("depths", "schedules")]
        return cls(dict(value["basis"]), parts[0], parts[1])
