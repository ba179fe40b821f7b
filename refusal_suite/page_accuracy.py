"""Reading the accuracy record for the page; numbers that don't add up are refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jetson_runtime.files import read_json
from refusal_suite.reports import Rate, refused
from refusal_suite.statistics import wilson

__all__ = ["Accuracy", "read_accuracy"]


@dataclass(frozen=True)
class Accuracy:
    """Right answers to visual questions: by vision exit, the rate of each kind, and the estimate over all kinds."""

    source: str
    kinds: tuple[str, ...]
    exits: Mapping[int, tuple[float, tuple[Rate, ...]]]


def read_accuracy(path: Path) -> Accuracy:
    """Read the `accuracy` that `realign projector` wrote into projector.json.

    Raises:
        InputError: it is not there, or counts more right answers than questions.
    """
    value = read_json(path)
    try:
        record = value["accuracy"]
        kinds = tuple(sorted(kind for kind, n in record["asked"].items() if n))
        exits = {
            int(layer): (float(entry["estimate"]), tuple(_rate(entry["right"][k], record["asked"][k]) for k in kinds))
            for layer, entry in record["exits"].items()
        }
        return Accuracy(f"{record['split']}, {record['questions']} questions", kinds, dict(sorted(exits.items())))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise refused(path, "an accuracy record", error, "an object with 'accuracy'", "realign projector") from None


def _rate(hits: int, n: int) -> Rate:
    if not 0 <= hits <= n:
        raise ValueError(f"{hits} right of {n}")
    return Rate(hits, n, *wilson(hits, n))
