"""Puts a refusal report and verdicts into a bundle, as the gate does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jetson_runtime.admission import ADMITTED, Admissions, Verdict
from jetson_runtime.bundle import MANIFEST, open_bundle
from jetson_runtime.files import read_json, write_json


def admit(
    folder: Path,
    report: dict[str, Any],
    verdicts: dict[str, Verdict] | None = None,
    schedules: dict[str, Verdict] | None = None,
    basis: dict[str, Any] | None = None,
) -> None:
    """Write them into the bundle's manifest; without `verdicts` every depth of the ladder is admitted."""
    bundle = open_bundle(folder)
    if verdicts is None:
        verdicts = {depth.name: Verdict(ADMITTED, "as measured") for depth in bundle.manifest.ladder}
    made = Admissions(bundle.manifest.engines_digest, "", basis or {}, verdicts, schedules or {})
    bundle.with_admissions(report, made.to_dict())


def forge(folder: Path, **changes: Any) -> None:
    """Change fields of the admissions behind the gate's back."""
    value = read_json(folder / MANIFEST)
    value["admissions"] |= changes
    write_json(folder / MANIFEST, value)
