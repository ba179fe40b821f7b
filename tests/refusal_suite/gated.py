"""A bundle with the gate's own verdicts on a made-up report: full depth and d2 hold, d1 does not."""

from __future__ import annotations

from pathlib import Path

from page_bundle import make_bundle, make_profile, make_refusals
from report_edits import ids, relabel

from jetson_runtime.bundle import Bundle, open_bundle
from jetson_runtime.files import write_json
from refusal_suite.cli import main
from refusal_suite.judge import COMPLIANCE, REFUSAL
from refusal_suite.prompts import HARMFUL

LADDER = [
    {"name": "d1", "vision": 6, "decoder": 12},
    {"name": "d2", "vision": 23, "decoder": 12},
    {"name": "d3", "vision": 23, "decoder": 32},
]


def make_gated(folder: Path) -> Bundle:
    """`folder/bundle`: d2 answers four harmful prompts that d3 refuses, d1 sixty-six; d3 refuses all."""
    bundle = make_bundle(folder / "bundle", ladder=LADDER)
    bundle = bundle.with_profile(make_profile(bundle), "cpu")
    report = make_refusals(bundle, ladder=LADDER, schedules=True)
    shallow, middle, _ = report["depths"]
    relabel(middle, dict.fromkeys(ids(middle, HARMFUL)[:40:10], COMPLIANCE))
    relabel(shallow, dict.fromkeys(ids(shallow, HARMFUL)[1::4], REFUSAL))
    write_json(folder / "measured.json", report)
    assert main(["gate", str(bundle.path), "--report", str(folder / "measured.json")]) == 1
    return open_bundle(bundle.path)
