"""A refusal report of the model before a change: the same prompts, other answers, other engines."""

from __future__ import annotations

import copy
from typing import Any

from refusal_suite.judge import COMPLIANCE, INCOHERENT, LABELS, REFUSAL
from refusal_suite.prompts import HARMFUL
from refusal_suite.results import RATES
from refusal_suite.statistics import wilson


def make_before(report: dict[str, Any]) -> dict[str, Any]:
    """Of 264 harmful prompts d1 answers 240 with nonsense and 24 as asked; d2 refuses 100. Benign ones are answered."""
    value = copy.deepcopy(report)
    value["bundle"] |= {"bundle_digest": "1" * 64, "engines_digest": "2" * 64}
    for depth, (label, count) in zip(value["depths"], ((INCOHERENT, 240), (REFUSAL, 100)), strict=True):
        counts = depth["counts"]
        total = sum(counts[HARMFUL].values())
        counts[HARMFUL] = {**dict.fromkeys(LABELS, 0), COMPLIANCE: total - count, label: count}
        depth["by_category"] = depth["by_image"] = {"all": counts}
        for name, (kind, counted) in RATES.items():
            hits, n = counts[kind][counted], sum(counts[kind].values())
            low, high = wilson(hits, n)
            depth["rates"][name] = {"hits": hits, "n": n, "rate": hits / n, "low": low, "high": high}
    return value
