"""The simulation behind `gate.soundness`, in small, and the picture of the test's power."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

pytest.importorskip("scipy", reason="the extra 'gate' is not installed")

from benchmarks import power, soundness
from benchmarks.claims import CLAIMS
from refusal_suite.comparison import at_most, no_worse


def test_rates_of_a_pair_have_the_correlation_that_was_asked_for() -> None:
    b, c = soundness.pair_rates(0.3, 0.05, 0.4)
    assert b - c == pytest.approx(0.05)
    both = 0.3 - c
    assert (both - 0.3 * 0.35) / (0.3 * 0.7 * 0.35 * 0.65) ** 0.5 == pytest.approx(0.4)
    # At most all of the reference's hits are hits here too.
    assert soundness.pair_rates(0.02, 0.1, 0.9) == pytest.approx((0.1, 0))


def test_simulated_and_exact_shares_agree() -> None:
    cell = soundness.independent(60, 0.1, *soundness.pair_rates(0.1, 0.1, 0.4))
    assert cell["admitted"] == pytest.approx(cell["exact"], abs=0.002)
    assert cell["exact"] <= 0.05


def test_the_simulation_decides_as_the_gate_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soundness, "RUNS", 60)
    sizes = (1, 2, 3) * 14
    requests = [str(number) for number, size in enumerate(sizes) for _ in range(size)]
    rates = (0.10, 0.02)
    drawn = soundness._draw(np.array(sizes), rates, 0.5)
    admitted = 0
    for b, c in zip(*drawn, strict=True):
        here = [i < b_k for size, b_k in zip(sizes, b, strict=True) for i in range(size)]
        there = [b_k <= i < b_k + c_k for size, b_k, c_k in zip(sizes, b, c, strict=True) for i in range(size)]
        admitted += no_worse("x", here, there, requests, 20, 0.05).p <= 0.05
    assert 0 < admitted < 60
    assert soundness.clustered(sizes, 0.20, *rates, 0.5)["admitted"] == admitted / 60

    hits, _ = soundness._draw(np.array(sizes), (0.25, 0.0), 0.5)
    kept = 0
    for row in hits:
        here = [i < hits_k for size, hits_k in zip(sizes, row, strict=True) for i in range(size)]
        kept += at_most("x", here, requests, 25, 0.05).p <= 0.05
    assert soundness.bounded(sizes, 0.25, 0.5)["admitted"] == kept / 60


def test_clusters_are_drawn_with_their_rates_and_correlation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soundness, "RUNS", 300)
    for alike in (0.2, 1.0):
        b, c = soundness._draw(np.full(200, 4), (0.3, 0.1), alike)
        assert (b.mean() / 4, c.mean() / 4) == pytest.approx((0.3, 0.1), rel=0.03)
        assert b.var() / (4 * 0.3 * 0.7) == pytest.approx(1 + 3 * alike, rel=0.05)


def test_the_claims_are_registered_with_their_bounds() -> None:
    assert (CLAIMS["gate.soundness"].relation, CLAIMS["gate.soundness"].bound) == ("<=", 0.05)


def test_the_picture_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib", reason="the extra 'report' is not installed")
    monkeypatch.setattr(power, "MARGINS", {0.10: "#3f7d4e"})
    monkeypatch.setattr(power, "SHARES", {0.10: "#b4402e"})
    monkeypatch.setattr(power, "PROMPTS", 60)
    text = power.power_svg(most=60, step=30)
    assert power.power_svg(most=60, step=30) == text
    assert ElementTree.fromstring(text).tag.endswith("svg")
    monkeypatch.setattr(power, "power_svg", lambda: text)
    assert power.main([str(tmp_path / "power.svg")]) == 0
    assert (tmp_path / "power.svg").read_text(encoding="utf-8") == text
    assert capsys.readouterr().out.strip() == str(tmp_path / "power.svg")
