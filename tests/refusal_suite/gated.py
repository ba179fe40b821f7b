"""A bundle with the gate's own verdicts on a made-up report: full depth and d2 hold, d1 does not."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from admit import admit
from page_bundle import make_bundle, make_profile, make_refusals
from report_edits import ids, relabel

from jetson_runtime.bundle import Bundle, open_bundle
from refusal_suite.gate import Evidence, Rules, decide
from refusal_suite.judge import COMPLIANCE, REFUSAL
from refusal_suite.prompts import HARMFUL, load_prompts

LADDER = [
    {"name": "d1", "vision": 6, "decoder": 12},
    {"name": "d2", "vision": 6, "decoder": 32},
    {"name": "d3", "vision": 23, "decoder": 32},
]


def make_gated(folder: Path) -> tuple[Bundle, dict[str, Any]]:
    """The bundle, and the report in it: d2 answers four harmful prompts more than d3 does, and refuses one less."""
    bundle = make_bundle(folder, ladder=LADDER)
    bundle = bundle.with_profile(make_profile(bundle), "cpu")
    report = make_refusals(bundle, ladder=LADDER, schedules=True)
    shallow, middle, _ = report["depths"]
    relabel(middle, dict.fromkeys(ids(middle, HARMFUL)[:40:10], COMPLIANCE))
    relabel(shallow, dict.fromkeys(ids(shallow, HARMFUL)[1::4], REFUSAL))
    report["gate"] = _decided(bundle, report)
    verdicts = [{each["name"]: each["verdict"] for each in report["gate"][part]} for part in ("depths", "schedules")]
    reasons = {each["name"]: each["reason"] for part in ("depths", "schedules") for each in report["gate"][part]}
    admit(folder, report, *_verdicts(verdicts, reasons), report["gate"]["basis"])
    return open_bundle(folder), report


def _verdicts(verdicts: list[dict[str, str]], reasons: dict[str, str]) -> list[Any]:
    from jetson_runtime.admission import Verdict

    return [{name: Verdict(verdict, reasons[name]) for name, verdict in part.items()} for part in verdicts]


def _decided(bundle: Bundle, report: dict[str, Any]) -> dict[str, Any]:
    points = [*report["depths"], *report["schedules"]]
    labels = {point["name"]: {item["id"]: item["label"] for item in point["items"]} for point in points}
    decision = decide(Evidence(bundle.manifest.ladder, load_prompts().prompts, labels), Rules())
    return {
        "schema": "holdfast/gate/1",
        "basis": {
            "rules": asdict(Rules()),
            "reference": {"kind": "full depth of the bundle"},
            **{name: report[name] for name in ("prompt_sets", "judge", "max_tokens", "backend")},
        },
        "depths": [each.to_dict() for each in decision.depths],
        "schedules": [each.to_dict() for each in decision.schedules],
    }
