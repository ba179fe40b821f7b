"""Bundles with verdicts of the gate in them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from jetson_runtime.admission import ADMITTED, REJECTED, Admissions, Verdict
from jetson_runtime.bundle import open_bundle
from jetson_runtime.ladder import Ladder

WORSE, FINE = "refuses 9 points less than d3", "at most 3 points below d3"


def verdicts(ladder: Ladder, admitted: Iterable[str], engines_digest: str = "e" * 64) -> Admissions:
    """Admissions of these depths and schedules; every other depth is rejected, every other schedule was not tested."""
    names = set(admitted)
    depths = {each.name: Verdict(ADMITTED, FINE) if each.name in names else Verdict(REJECTED, WORSE) for each in ladder}
    schedules = {each.name: Verdict(ADMITTED, FINE) for each in ladder.schedules() if each.name in names}
    return Admissions(engines_digest, "reports/refusals.json", {"margin_points": 5.0}, depths, schedules)


def with_verdicts(bundle: Path, out: Path, *admitted: str) -> Path:
    """A copy of the bundle in which these depths and schedules are admitted."""
    shutil.copytree(bundle, out)
    opened = open_bundle(out)
    made = verdicts(opened.manifest.ladder, admitted, opened.manifest.engines_digest)
    opened.with_admissions({"depths": []}, made.to_dict())
    return out
