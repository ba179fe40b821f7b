"""Puts a refusal report and verdicts into a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jetson_runtime.admission import ADMITTED, Admissions, Verdict
from jetson_runtime.bundle import MANIFEST
from jetson_runtime.files import read_json, sha256_file, write_json
from jetson_runtime.manifest import Manifest

REPORT = "reports/refusals.json"


def admit(bundle: Path, report: dict[str, Any], verdicts: dict[str, Verdict] | None = None, **changes: Any) -> None:
    """Write both into the bundle's manifest; without `verdicts` every depth of the ladder is admitted."""
    write_json(bundle / REPORT, report)
    value = read_json(bundle / MANIFEST)
    size = (bundle / REPORT).stat().st_size
    value["files"][REPORT] = {"role": "report", "size_bytes": size, "sha256": sha256_file(bundle / REPORT)}
    manifest = Manifest.from_dict(value, "manifest")
    if verdicts is None:
        verdicts = {depth.name: Verdict(ADMITTED, "as measured") for depth in manifest.ladder}
    value["admissions"] = {**Admissions(manifest.engines_digest, REPORT, {}, verdicts).to_dict(), **changes}
    write_json(bundle / MANIFEST, value)
