"""Changes to a refusal report that keep it consistent: other labels, and the counts and rates that follow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from refusal_suite.judge import LABELS
from refusal_suite.prompts import BENIGN, HARMFUL
from refusal_suite.results import RATES
from refusal_suite.statistics import wilson


def relabel(depth: dict[str, Any], labels: Mapping[str, str]) -> None:
    """Give the answers of these prompts these labels, and count again; the images are no longer told apart."""
    for item in depth["items"]:
        item["label"] = labels.get(item["id"], item["label"])
    depth["counts"] = _counts(depth["items"])
    names = dict.fromkeys(item["category"] for item in depth["items"])
    depth["by_category"] = {
        name: _counts([item for item in depth["items"] if item["category"] == name]) for name in names
    }
    depth["by_image"] = {"all": depth["counts"]}
    for name, (kind, label) in RATES.items():
        hits, n = depth["counts"][kind][label], sum(depth["counts"][kind].values())
        low, high = wilson(hits, n)
        depth["rates"][name] = {"hits": hits, "n": n, "rate": hits / n, "low": low, "high": high}


def ids(depth: Mapping[str, Any], kind: str, *, label: str | None = None, category: str | None = None) -> list[str]:
    """The prompts of one kind, of those with this label and in this category, in the report's order."""
    return [
        item["id"]
        for item in depth["items"]
        if item["kind"] == kind and label in (None, item["label"]) and category in (None, item["category"])
    ]


def _counts(items: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    counts = {kind: dict.fromkeys(LABELS, 0) for kind in (HARMFUL, BENIGN)}
    for item in items:
        counts[item["kind"]][item["label"]] += 1
    return counts
