"""Two refusal reports compared prompt by prompt at every depth that both measured: is the second non-inferior?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jetson_runtime.errors import InputError
from refusal_suite.margins import mean_shift
from refusal_suite.paired import HELD, WORSE, Difference, Rule, by_category, differences, points
from refusal_suite.prompts import BENIGN, HARMFUL
from refusal_suite.report_match import mismatches, not_comparable
from refusal_suite.reports import AnswerLabel, PointRefusals, RefusalReport

__all__ = ["SCHEMA", "Comparison", "PointComparison", "compare_reports", "comparison_table"]

SCHEMA = "holdfast/comparison/1"
_IDS_SHOWN = 6


@dataclass(frozen=True)
class PointComparison:
    """One depth or schedule of both reports: its measures, the same in each category, and by kind how margins moved."""

    name: str
    measures: tuple[Difference, ...]
    categories: Mapping[str, tuple[Difference, ...]]
    margin_shifts: Mapping[str, Mapping[str, Any]]

    @property
    def worse_categories(self) -> dict[str, tuple[Difference, ...]]:
        """Categories that are shown to be worse by more than the margin, and in what."""
        found = {name: tuple(one for one in each if one.outcome == WORSE) for name, each in self.categories.items()}
        return {name: each for name, each in found.items() if each}

    @property
    def held(self) -> bool:
        """Every measure is shown to be within the margin, and no category to be beyond it."""
        return all(one.outcome == HELD for one in self.measures) and not self.worse_categories

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "held": self.held,
            "measures": {one.measure.name: one.to_dict() for one in self.measures},
            "by_category": {
                name: {one.measure.name: one.to_dict() for one in each} for name, each in self.categories.items()
            },
            "margin_shift": {kind: dict(shift) for kind, shift in self.margin_shifts.items()},
        }


@dataclass(frozen=True)
class Comparison:
    """What `compare_reports` found; `only_first` and `only_second` are points that the other did not measure."""

    first: RefusalReport
    second: RefusalReport
    rule: Rule
    depths: tuple[PointComparison, ...]
    schedules: tuple[PointComparison, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]

    @property
    def points(self) -> tuple[PointComparison, ...]:
        """Depths, then schedules."""
        return self.depths + self.schedules

    @property
    def held(self) -> bool:
        """The second is non-inferior to the first at every depth and schedule that both measured."""
        return all(point.held for point in self.points)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "schema": SCHEMA,
            "held": self.held,
            "margin_points": self.rule.margin_points,
            "alpha": self.rule.alpha,
            "interval": "Tango score, each end one-sided",
            "first": _side(self.first),
            "second": _side(self.second),
            "depths": [depth.to_dict() for depth in self.depths],
            "schedules": [schedule.to_dict() for schedule in self.schedules],
            "only_first": list(self.only_first),
            "only_second": list(self.only_second),
        }


def _side(report: RefusalReport) -> dict[str, Any]:
    return {
        "file": report.file,
        "model": report.model,
        "bundle_digest": report.bundle_digest,
        "engines_digest": report.engines_digest,
        "backend": report.backend,
    }


def compare_reports(first: RefusalReport, second: RefusalReport, rule: Rule) -> Comparison:
    """Compare at every depth of the same name and exits, and at every schedule between such depths.

    Raises:
        InputError: other prompts, another judge or longest answer, or no depth in common.
    """
    depths = [(one, other) for one in first.depths for other in second.depths if str(one) == str(other)]
    common = {one.name for one, _ in depths}
    schedules = [
        (one, other)
        for one in first.schedules
        for other in second.schedules
        if one.name == other.name and {one.start, one.then} <= common
    ]
    differing = list(mismatches(first, second, [*depths, *schedules]))
    if differing:
        raise not_comparable(first.file, second.file, differing)
    if not depths:
        raise InputError(
            f"{first.file} and {second.file} have no depth in common",
            found=", ".join(map(str, second.depths)),
            expected=", ".join(map(str, first.depths)),
            remedy="measure both on the same ladder",
        )
    names = common | {one.name for one, _ in schedules}
    only = [
        tuple(point.name for point in (*report.depths, *report.schedules) if point.name not in names)
        for report in (first, second)
    ]
    return Comparison(
        first=first,
        second=second,
        rule=rule,
        depths=tuple(_compared(one, other, rule) for one, other in depths),
        schedules=tuple(_compared(one, other, rule) for one, other in schedules),
        only_first=only[0],
        only_second=only[1],
    )


def _compared(one: PointRefusals, other: PointRefusals, rule: Rule) -> PointComparison:
    first, second = one.answers or {}, other.answers or {}
    return PointComparison(
        name=one.name,
        measures=differences(first, second, rule),
        categories=by_category(first, second, rule),
        margin_shifts=_margin_shifts(first, second),
    )


def _margin_shifts(first: Mapping[str, AnswerLabel], second: Mapping[str, AnswerLabel]) -> dict[str, dict[str, Any]]:
    found = {}
    for kind in (HARMFUL, BENIGN):
        margins = [(answer.margin, second[id_].margin) for id_, answer in first.items() if answer.kind == kind]
        pairs = [(after, before) for before, after in margins if before is not None and after is not None]
        if pairs:
            found[kind] = mean_shift(*zip(*pairs, strict=True))
    return found


def comparison_table(comparison: Comparison) -> str:
    """Every depth and measure as lines of text, then what flipped for the worse, and what was not compared."""
    rows: list[tuple[str, ...]] = [("", "", "first", "second", "difference in points (bounds)", "flips", "")]
    for point in comparison.points:
        for number, one in enumerate(point.measures):
            head = point.name if number == 0 else ""
            rows.append((head, *_cells(one)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join([*lines, "", *_notes(comparison)])


def _cells(one: Difference) -> tuple[str, ...]:
    return (
        one.measure.title,
        f"{one.first}/{one.n}",
        f"{one.second}/{one.n}",
        f"{points(one.difference)} ({points(one.low)} to {points(one.high)})",
        f"+{len(one.gained)} -{len(one.lost)}",
        one.outcome,
    )


def _notes(comparison: Comparison) -> Iterator[str]:
    rule = comparison.rule
    for point in comparison.points:
        for one in point.measures:
            if one.worse_flips:
                yield f"{point.name}, {one.measure.title}, for the worse: {_ids(one.worse_flips)}"
        for name, each in point.worse_categories.items():
            for one in each:
                yield f"{point.name}, category {name}, {one.measure.title}: worse by more than the margin"
        for kind, shift in point.margin_shifts.items():
            interval = f"{shift['low']:+.2f} to {shift['high']:+.2f}"
            yield f"{point.name}, mean shift of the {kind} prompts' margins: {shift['mean']:+.2f} ({interval})"
    for words, names in (("first", comparison.only_first), ("second", comparison.only_second)):
        if names:
            yield f"only in the {words} report, not compared: {', '.join(names)}"
    verdict = "is non-inferior to" if comparison.held else "is not shown to be non-inferior to"
    yield (
        f"{comparison.second.file} {verdict} {comparison.first.file} "
        f"(margin {rule.margin_points:g} points, one-sided level {rule.alpha:g})"
    )


def _ids(ids: Sequence[str]) -> str:
    more = len(ids) - _IDS_SHOWN
    return ", ".join(ids[:_IDS_SHOWN]) + (f" and {more} more" if more > 0 else "")
