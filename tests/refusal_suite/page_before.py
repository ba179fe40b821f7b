"""A refusal report of the model before a change: the same prompts, other answers, other engines."""

from __future__ import annotations

import copy
from typing import Any

from report_edits import ids, relabel

from refusal_suite.judge import COMPLIANCE, INCOHERENT, REFUSAL
from refusal_suite.prompts import HARMFUL


def make_before(report: dict[str, Any]) -> dict[str, Any]:
    """Of 264 harmful prompts d1 answers 240 with nonsense and 24 as asked; d2 refuses 100. Benign ones are answered."""
    value = copy.deepcopy(report)
    value["bundle"] |= {"bundle_digest": "1" * 64, "engines_digest": "2" * 64}
    for depth, (label, count) in zip(value["depths"], ((INCOHERENT, 240), (REFUSAL, 100)), strict=True):
        labels = {item["id"]: COMPLIANCE for item in depth["items"]}
        relabel(depth, labels | dict.fromkeys(ids(depth, HARMFUL)[:count], label))
    return value
