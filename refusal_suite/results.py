"""Turns judged answers into the report: counts, rates with intervals, by category and by image. Ids, never texts."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from refusal_suite.judge import INCOHERENT, JUDGE, LABELS, REFUSAL
from refusal_suite.margins import describe_margins, mean_shift
from refusal_suite.measure import Item
from refusal_suite.prompts import BENIGN, HARMFUL, PromptSet
from refusal_suite.statistics import CONFIDENCE, wilson

__all__ = ["RATES", "SCHEMA", "build_report", "depth_result", "describe_set", "table", "without_items"]

SCHEMA = "holdfast/refusals/2"

# name of the rate → (kind of the prompts, label that is counted)
RATES: dict[str, tuple[str, str]] = {
    "refusal": (HARMFUL, REFUSAL),
    "over_refusal": (BENIGN, REFUSAL),
    "incoherent_harmful": (HARMFUL, INCOHERENT),
    "incoherent_benign": (BENIGN, INCOHERENT),
}


def build_report(
    facts: Mapping[str, Any],
    sets: Sequence[Mapping[str, Any]],
    max_tokens: int,
    depths: Sequence[Mapping[str, Any]],
    schedules: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The whole report. `facts` is what `Runtime.describe` says, the rest comes from the functions below."""
    return {
        "schema": SCHEMA,
        "bundle": {
            name: facts[name] for name in ("model", "release", "bundle_digest", "engines_digest") if name in facts
        },
        "backend": facts["backend"],
        "ladder": list(facts["ladder"]),
        "machine": {
            "system": platform.system(),
            "architecture": platform.machine(),
            "python": platform.python_version(),
            "cpus": os.cpu_count(),
        },
        "judge": JUDGE,
        "max_tokens": max_tokens,
        "interval": {"method": "Wilson score, two-sided", "confidence": CONFIDENCE},
        "prompt_sets": list(sets),
        "margins": describe_margins(),
        "depths": list(depths),
        "schedules": list(schedules),
    }


def describe_set(prompts: PromptSet, whole: PromptSet, seed: int) -> dict[str, Any]:
    """Which prompts were asked: the file's digest, how many of each kind, and how a part was chosen."""
    taken = None if prompts is whole else {"n": len(prompts.prompts), "of": len(whole.prompts), "seed": seed}
    return {"name": prompts.name, "sha256": prompts.sha256, "n": prompts.counts(), "sample": taken}


def depth_result(
    depth: Mapping[str, Any], items: Sequence[Item], reference: Sequence[Item] | None = None
) -> dict[str, Any]:
    """The results at one depth or schedule; `depth` is its entry of the ladder, or the schedule's `to_dict`.

    `reference` are the items of full depth, where it was measured and is another one: margins are compared with its,
    prompt by prompt.
    """
    return {
        **depth,
        "counts": _counts(items),
        "rates": {name: _rate(items, kind, label) for name, (kind, label) in RATES.items()},
        "by_category": _grouped(items, lambda item: item.prompt.category),
        "by_image": _grouped(items, lambda item: "without" if item.prompt.image is None else "with"),
        "margins": {kind: _margins(items, reference, kind) for kind in (HARMFUL, BENIGN)},
        "items": [_entry(item) for item in items],
    }


def without_items(report: Mapping[str, Any]) -> dict[str, Any]:
    """The report without its list of single answers."""
    parts = {
        part: [{name: value for name, value in entry.items() if name != "items"} for entry in report[part]]
        for part in ("depths", "schedules")
    }
    return {**report, **parts}


def table(report: Mapping[str, Any]) -> str:
    """The rates per depth and schedule as lines of text, shallowest depth first, each with its interval in per cent.

    Then how far the harmful prompts' margins lie from those at full depth, on average.
    """
    header = (
        "depth",
        "vision",
        "decoder",
        "harmful refused",
        "benign refused",
        "harmful incoherent",
        "benign incoherent",
        "margin shift",
    )
    rows = [header]
    ladder = {depth["name"]: depth for depth in report["ladder"]}
    for depth in [*report["depths"], *report["schedules"]]:
        ends = [ladder[depth[end]] for end in (("start", "then") if "start" in depth else ("name",))]
        spoke = ends[1:] if depth.get("at") == "vision" else ends
        exits = str(ends[0]["vision"]), " to ".join(str(end["decoder"]) for end in spoke)
        cells = [_cell(depth["rates"][name]) for name in RATES]
        rows.append((depth["name"], *exits, *cells, _shift_cell(depth["margins"][HARMFUL]["shift"])))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _cell(rate: Mapping[str, Any]) -> str:
    if rate["rate"] is None:
        return "none asked"
    low, high = (f"{100 * rate[name]:.1f}" for name in ("low", "high"))
    return f"{rate['hits']}/{rate['n']} = {100 * rate['rate']:.1f} % ({low} to {high})"


def _shift_cell(shift: Mapping[str, Any] | None) -> str:
    return "" if shift is None else f"{shift['mean']:+.2f} ({shift['low']:+.2f} to {shift['high']:+.2f})"


def _counts(items: Iterable[Item]) -> dict[str, dict[str, int]]:
    counts = {kind: dict.fromkeys(LABELS, 0) for kind in (HARMFUL, BENIGN)}
    for item in items:
        counts[item.prompt.kind][item.verdict.label] += 1
    return counts


def _rate(items: Sequence[Item], kind: str, label: str) -> dict[str, Any]:
    labels = [item.verdict.label for item in items if item.prompt.kind == kind]
    hits, n = labels.count(label), len(labels)
    low, high = wilson(hits, n) if n else (None, None)
    return {"hits": hits, "n": n, "rate": hits / n if n else None, "low": low, "high": high}


def _margins(items: Sequence[Item], reference: Sequence[Item] | None, kind: str) -> dict[str, Any]:
    """The mean margin of the prompts of one kind, and its shift against the reference's."""
    full = {} if reference is None else {item.prompt.id: item.margin for item in reference}
    known = [(item.margin, full.get(item.prompt.id)) for item in items if item.prompt.kind == kind]
    margins = [margin for margin, _ in known if margin is not None]
    pairs = [(margin, other) for margin, other in known if margin is not None and other is not None]
    return {
        "n": len(margins),
        "mean": round(sum(margins) / len(margins), 4) if margins else None,
        "shift": mean_shift(*zip(*pairs, strict=True)) if pairs else None,
    }


def _grouped(items: Sequence[Item], key: Callable[[Item], str]) -> dict[str, Any]:
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return {name: _counts(members) for name, members in groups.items()}


def _entry(item: Item) -> dict[str, Any]:
    return {
        "id": item.prompt.id,
        "kind": item.prompt.kind,
        "label": item.verdict.label,
        "rule": item.verdict.rule,
        "n_tokens": item.tokens,
        "finish_reason": item.finish_reason,
        "answer_sha256": item.sha256,
        "margin": item.margin,
    }
