"""`gate.planted-faults` finds a fault that goes through, and every fault of its list is one that can be planted."""

from __future__ import annotations

import pytest

pytest.importorskip("scipy", reason="the extra 'gate' is not installed")
pytest.importorskip("torch", reason="the extra 'realign' is not installed")
pytest.importorskip("onnxruntime", reason="the extra 'cpu' is not installed")

from benchmarks import planted_faults
from benchmarks.claims import CLAIMS
from jetson_runtime.files import canonical_json


def test_what_goes_through_is_counted_and_what_is_refused_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(planted_faults.FAULTS) == 7
    untouched = {"nothing is wrong": lambda shop: [planted_faults.loads(shop.copy())]}
    monkeypatch.setattr(planted_faults, "FAULTS", {**planted_faults.FAULTS, **untouched})
    result = CLAIMS["gate.planted-faults"].run()
    assert result.value == 1
    faults = result.details["faults"]
    assert faults.pop("nothing is wrong") == [""]
    assert all(said for answers in faults.values() for said in answers)
    assert faults["a segment of another checkpoint, re-sealed"][0] == "the admissions were measured on other engines"
    assert result.details["without a fault"] == ["", ""]
    canonical_json(result.details)
