"""The gate's part of the page: what is admitted, by which bounds, what flipped, how margins moved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jetson_runtime.admission import ADMITTED, NOT_TESTED, REJECTED, Admissions, Verdict
from jetson_runtime.bundle import Bundle
from jetson_runtime.errors import AdmissionError
from refusal_suite.forest_picture import ForestPanel, ForestRow, forest_picture
from refusal_suite.gate_block import Bound, GateBlock, Judged
from refusal_suite.prompts import BENIGN, HARMFUL
from refusal_suite.reports import PointRefusals, RefusalReport

__all__ = ["gate_not_run", "gate_view", "shifts_view", "status_view"]

_TAGS = {ADMITTED: "good", REJECTED: "bad", NOT_TESTED: ""}
_SIDES = {
    HARMFUL: (("only_here", "answered only here"), ("only_reference", "answered only in the reference")),
    BENIGN: (("only_here", "refused only here"), ("only_reference", "refused only in the reference")),
}


def status_view(bundle: Bundle) -> dict[str, Any]:
    """Whether the bundle is signed, and what its admissions say of every depth and schedule."""
    engines, broken = bundle.manifest.engines_digest, None
    try:
        admissions = Admissions.from_dict(bundle.manifest.admissions, engines)
    except AdmissionError as error:
        admissions, broken = Admissions(engines, "", {}), str(error)
    return {
        "signature": _signature(bundle),
        "broken": broken,
        "any": bool(admissions.report),
        "depths": [_verdict(depth.name, admissions.depths) for depth in bundle.manifest.ladder],
        "schedules": [_verdict(each.name, admissions.schedules) for each in bundle.manifest.ladder.schedules()
                      if each.name in admissions.schedules],
        "basis": list(_flat(admissions.basis)),
    }  # fmt: skip


def _signature(bundle: Bundle) -> dict[str, str]:
    if bundle.signers:
        keys = ", ".join(f"{key[:16]}…" for key in bundle.signers)
        return {"tag": "good", "verdict": "signed", "words": f"by trusted keys {keys}, over this manifest"}
    if bundle.signed:
        words = "by somebody: no trust file was given, so nobody looked whose signature it is"
        return {"tag": "", "verdict": "signed, not verified", "words": words}
    return {
        "tag": "",
        "verdict": "not signed",
        "words": "this bundle can still be changed, and an install root takes only signed ones",
    }


def _verdict(name: str, verdicts: Mapping[str, Verdict]) -> dict[str, str]:
    found = verdicts.get(name, Verdict(NOT_TESTED, "the gate has said nothing about it"))
    return {"name": name, "verdict": found.verdict, "tag": _TAGS[found.verdict], "reason": found.reason}


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(item, f"{prefix} / {key}" if prefix else str(key))
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value, 1):
            yield from _flat(item, f"{prefix} {number}" if len(value) > 1 else prefix)
    elif value is not None:
        yield prefix.replace("_", " "), str(value)


def gate_view(report: RefusalReport) -> dict[str, Any] | None:
    """Bounds, flips and categories as the gate wrote them into a report; None where it wrote nothing."""
    gate = report.gate
    if gate is None or not any(judged.bounds for judged in gate.depths):
        return None
    panels = _panels(gate.depths)
    title, summary = "Bounds against margins and limits, per depth", _summary(gate.depths)
    return {
        "file": report.file,
        "wide": forest_picture("bounds", panels, title, summary, wide=True),
        "narrow": forest_picture("bounds", panels, title, summary, wide=False),
        "rows": [{"judged": judged, "tag": _TAGS[judged.verdict], "bounds": judged.bounds} for judged in gate.depths],
        "flips": [_flips(judged) for judged in gate.depths if judged.flips],
        "categories": _categories(gate.depths),
    }


def _panels(depths: Sequence[Judged]) -> list[ForestPanel]:
    """A panel per thing that is bounded: what is compared with the reference, then what has a limit of its own."""
    bounds = [bound for judged in depths for bound in judged.bounds]
    compared = {bound.what for bound in bounds if bound.paired}
    kinds = dict.fromkeys((bound.what, bound.what in compared) for bound in bounds)
    return [_panel(what, paired, depths) for what, paired in sorted(kinds, key=lambda kind: not kind[1])]


def _panel(what: str, paired: bool, depths: Sequence[Judged]) -> ForestPanel:
    found = [next((bound for bound in judged.bounds if bound.what == what), None) for judged in depths]
    drawn = [bound for bound in found if bound is not None and bound.paired == paired]
    words = {True: f"{what}, difference in points", False: f"{what}, per cent"}[paired]
    return ForestPanel(
        title=words[0].upper() + words[1:],
        rows=[_forest_row(judged, bound, paired) for judged, bound in zip(depths, found, strict=True)],
        limit=max((bound.limit for bound in drawn), default=None),
    )


def _forest_row(judged: Judged, bound: Bound | None, paired: bool) -> ForestRow:
    if bound is None:
        return ForestRow(judged.name, None, words="not tested")
    if bound.paired != paired:
        return ForestRow(judged.name, None, words=f"the reference: at most {bound.upper:.1f}\u00a0%")
    if bound.estimate is None:
        return ForestRow(judged.name, None, words="no prompt tells it from the reference")
    return ForestRow(judged.name, bound.estimate, None, bound.upper, bound.upper <= bound.limit)


def _summary(depths: Sequence[Judged]) -> str:
    return "; ".join(
        f"{judged.name}, {judged.verdict}: "
        + ", ".join(
            f"{bound.what} at most {bound.upper:.1f} where {bound.limit:g} is allowed" for bound in judged.bounds
        )
        for judged in depths
    )


def _flips(judged: Judged) -> dict[str, Any]:
    lines = [
        (f"{kind[0].upper()}{kind[1:]} prompts {words}", judged.flips[kind].get(side, ()))
        for kind, sides in _SIDES.items()
        if kind in judged.flips
        for side, words in sides
    ]
    return {"name": judged.name, "count": sum(len(ids) for _, ids in lines), "lines": lines}


def _categories(depths: Sequence[Judged]) -> dict[str, Any] | None:
    """Per category and depth the balance of flips: how many prompts changed for the worse and for the better."""
    told = [judged for judged in depths if judged.by_category]
    names = sorted({name for judged in told for name in judged.by_category})
    if not names:
        return None
    return {
        "depths": [judged.name for judged in told],
        "lines": [
            {
                "name": name,
                "cells": [_balance(judged.by_category.get(name, {}).get(kind)) for judged in told
                          for kind in (HARMFUL, BENIGN)],
            }
            for name in names
        ],
    }  # fmt: skip


def _balance(counts: Mapping[str, int] | None) -> dict[str, Any]:
    if not counts:
        return {"words": "none asked", "worse": False}
    worse, better = counts["only_here"], counts["only_reference"]
    words = f"+{worse} \u2212{better} of {counts['n']}" if worse or better else f"0 of {counts['n']}"
    return {"words": words, "worse": worse > better}


def shifts_view(report: RefusalReport) -> dict[str, Any] | None:
    """How the prompts' margins moved at every depth against full depth; None where no shift is known."""
    shifted = [depth for depth in report.depths if depth.shifts]
    if not shifted:
        return None
    panels = [
        ForestPanel(f"{kind[0].upper()}{kind[1:]} prompts, nats", [_shift_row(depth, kind) for depth in shifted])
        for kind in (HARMFUL, BENIGN)
    ]
    title = "Shift of the refusal margin against full depth"
    summary = "; ".join(
        f"{depth.name}, {kind}: {shift.mean:+.2f} ({shift.low:+.2f} to {shift.high:+.2f})"
        for depth in shifted
        for kind, shift in depth.shifts.items()
    )
    return {
        "wide": forest_picture("shifts", panels, title, summary, wide=True),
        "narrow": forest_picture("shifts", panels, title, summary, wide=False),
        "rows": [{"name": depth.name, "cells": [depth.shifts.get(kind) for kind in (HARMFUL, BENIGN)]}
                 for depth in shifted],
    }  # fmt: skip


def _shift_row(point: PointRefusals, kind: str) -> ForestRow:
    shift = point.shifts.get(kind)
    if shift is None:
        return ForestRow(point.name, None, words="not measured")
    return ForestRow(point.name, shift.mean, shift.low, shift.high)


def gate_not_run(bundle: Bundle, reports: Sequence[RefusalReport]) -> Iterator[str]:
    """What the gate's part can't show; `reports` are those of the bundle's engines."""
    gated: list[GateBlock] = [report.gate for report in reports if report.gate is not None]
    if not bundle.signed:
        yield "The bundle is not signed: nothing says who released it."
    elif not bundle.signers:
        yield "No trust file was given: whose signature the bundle bears was not looked at."
    if reports and not gated:
        yield "No report of the gate was given: no bound says that any depth refuses as full depth does."
    if reports and not any(depth.shifts for report in reports for depth in report.depths):
        yield "No refusal margins were measured, or none at full depth to compare them with."
    if reports and not any(report.schedules for report in reports):
        yield "No schedule was run: nothing says what an answer refuses that leaves earlier under way."
    for gate in gated:
        left = [judged.name for judged in (*gate.depths, *gate.schedules) if judged.verdict == NOT_TESTED]
        if left:
            shown = ", ".join(left[:6]) + (f" and {len(left) - 6} more" if len(left) > 6 else "")
            yield f"The gate did not test {shown}: see its reasons."
