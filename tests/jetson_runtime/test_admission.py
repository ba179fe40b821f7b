"""Admissions are read strictly, and hold for the engines they were measured on."""

from __future__ import annotations

import json
from typing import Any

import pytest

from jetson_runtime.admission import ADMITTED, REJECTED, Admissions, Verdict
from jetson_runtime.errors import AdmissionError

MADE = Admissions(
    "e" * 64,
    "reports/refusals.json",
    {"margin_points": 5.0},
    {"d1": Verdict(REJECTED, "9 points below"), "d2": Verdict(ADMITTED, "at most 3 points below")},
    {"d2>d1@4": Verdict(ADMITTED, "at most 2 points below")},
)


def test_what_was_written_is_read() -> None:
    again = Admissions.from_dict(json.loads(json.dumps(MADE.to_dict())), "e" * 64)
    assert again == MADE
    assert [again.admits(name) for name in ("d1", "d2", "d2>d1@4", "d3")] == [False, True, True, False]


def test_nothing_is_admitted_where_nothing_was_measured() -> None:
    assert not Admissions.from_dict({}, "e" * 64).admits("d1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "holdfast/admissions/9"}, "can't be read"),
        ({"engines_digest": "f" * 64}, "measured on other engines"),
        ({"depths": {"d1": {"verdict": "fine", "reason": ""}}}, "can't be read"),
        ({"depths": {"d1": {"reason": ""}}}, "can't be read"),
        ({"depths": []}, "can't be read"),
        ({"basis": None}, "can't be read"),
    ],
)
def test_anything_else_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(AdmissionError, match=message):
        Admissions.from_dict({**MADE.to_dict(), **change}, "e" * 64)
