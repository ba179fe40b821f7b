"""How far a judge agrees with an annotator's labels: confusion, Cohen's kappa with an interval, recall, precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import sqrt
from statistics import NormalDist
from typing import Any

from refusal_suite.judge import LABELS, Verdict
from refusal_suite.labelled import Labelled, LabelledSet
from refusal_suite.statistics import CONFIDENCE, wilson

__all__ = ["SCHEMA", "Kappa", "agreement", "cohens_kappa"]

SCHEMA = "holdfast/agreement/1"


@dataclass(frozen=True)
class Kappa:
    """Agreement beyond chance: 1 is perfect, 0 what two who don't look at the answers reach."""

    value: float
    low: float
    high: float


def cohens_kappa(table: Sequence[Sequence[int]], confidence: float = CONFIDENCE) -> Kappa:
    """Cohen's kappa (1960) of a square table, with the large-sample interval of Fleiss, Cohen and Everitt (1969).

    Rows are one rater's labels, columns the other's, in the same order; at least two labels must occur. A judge that
    gives one label only has kappa 0, however unbalanced the answers are. Without any disagreement the standard error
    is 0; then the lower end comes from Wilson's interval of the rate of agreement.
    """
    n = sum(map(sum, table))
    places = range(len(table))
    # Exact, so that agreement by chance is 0 and not a rounding error.
    share = [[Fraction(count, n) for count in row] for row in table]
    rows, columns = [sum(row) for row in share], [sum(column) for column in zip(*share, strict=True)]
    agreed, chance = sum(share[i][i] for i in places), sum(rows[i] * columns[i] for i in places)
    value = (agreed - chance) / (1 - chance)
    if all(table[i][j] == 0 for i in places for j in places if i != j):
        return Kappa(1.0, (wilson(n, n, confidence)[0] - float(chance)) / float(1 - chance), 1.0)
    on = sum(share[i][i] * (1 - (rows[i] + columns[i]) * (1 - value)) ** 2 for i in places)
    off = sum(share[i][j] * (columns[i] + rows[j]) ** 2 for i in places for j in places if i != j)
    spread = on + (1 - value) ** 2 * off - (value - chance * (1 - value)) ** 2
    half = NormalDist().inv_cdf(0.5 + confidence / 2) * sqrt(spread / n) / float(1 - chance)
    middle = float(value)
    return Kappa(middle, max(-1.0, middle - half), min(1.0, middle + half))


def agreement(labelled: LabelledSet, judge: str, verdicts: Sequence[Verdict], min_kappa: float) -> dict[str, Any]:
    """The report: how `verdicts` of `judge` stand to the labels, and whether kappa reaches `min_kappa`.

    Ids and digests only; the answers stay in the labelled file.
    """
    pairs = list(zip(labelled.rows, verdicts, strict=True))
    kappa, sure = _kappa(pairs), [pair for pair in pairs if not pair[0].unsure]
    return {
        "schema": SCHEMA,
        "judge": judge,
        "labelled": {
            "name": labelled.name,
            "sha256": labelled.sha256,
            "n": labelled.counts(),
            "unsure": len(pairs) - len(sure),
        },
        "confusion": _confusion(pairs),
        "accuracy": _rate(sum(row.label == verdict.label for row, verdict in pairs), len(pairs)),
        "kappa": kappa,
        "kappa_without_unsure": _kappa(sure),
        "interval": {
            "confidence": CONFIDENCE,
            "kappa": "Fleiss, Cohen and Everitt (1969)",
            "rates": "Wilson score, two-sided",
        },
        "by_label": {label: _by_label(pairs, label) for label in LABELS},
        "differences": [
            {
                "prompt": row.prompt.id,
                "answer_sha256": row.sha256,
                "label": row.label,
                "judged": verdict.label,
                "rule": verdict.rule,
                "unsure": row.unsure,
            }
            for row, verdict in pairs
            if row.label != verdict.label
        ],
        "min_kappa": min_kappa,
        "passed": kappa is not None and kappa["value"] >= min_kappa,
    }


def _confusion(pairs: Sequence[tuple[Labelled, Verdict]]) -> dict[str, dict[str, int]]:
    table = {label: dict.fromkeys(LABELS, 0) for label in LABELS}
    for row, verdict in pairs:
        table[row.label][verdict.label] += 1
    return table


def _kappa(pairs: Sequence[tuple[Labelled, Verdict]]) -> Mapping[str, float] | None:
    return _kappa_of([list(row.values()) for row in _confusion(pairs).values()])


def _kappa_of(table: Sequence[Sequence[int]]) -> Mapping[str, float] | None:
    """None where all have one label and the judge gives it: nothing can be said then."""
    if max(table[i][i] for i in range(len(table))) == sum(map(sum, table)):
        return None
    kappa = cohens_kappa(table)
    return {"value": kappa.value, "low": kappa.low, "high": kappa.high}


def _by_label(pairs: Sequence[tuple[Labelled, Verdict]], label: str) -> dict[str, Any]:
    said = [(row.label == label, verdict.label == label) for row, verdict in pairs]
    both, by_hand, judged = said.count((True, True)), sum(hand for hand, _ in said), sum(judge for _, judge in said)
    return {
        "recall": _rate(both, by_hand),
        "precision": _rate(both, judged),
        # This label against the other two: what a rate that counts it alone rests on.
        "kappa": _kappa_of([[said.count((hand, judge)) for judge in (True, False)] for hand in (True, False)]),
    }


def _rate(hits: int, n: int) -> dict[str, Any]:
    low, high = wilson(hits, n) if n else (None, None)
    return {"hits": hits, "n": n, "rate": hits / n if n else None, "low": low, "high": high}
