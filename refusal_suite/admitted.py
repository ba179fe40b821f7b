"""The refusal report that a bundle was admitted by, read from inside the bundle."""

from __future__ import annotations

from pathlib import Path

from jetson_runtime.admission import Admissions
from jetson_runtime.bundle import Bundle, open_bundle
from jetson_runtime.errors import AdmissionError
from refusal_suite.reports import RefusalReport, read_refusals

__all__ = ["admitted_report", "report_of"]


def admitted_report(bundle: Bundle) -> tuple[Admissions, RefusalReport]:
    """The verdicts in an opened bundle, and the report behind them.

    Raises:
        AdmissionError: no admissions, or they or the report were made for other engines.
        InputError: the report can't be read.
    """
    manifest, remedy = bundle.manifest, "run 'refusal-check gate' on this bundle"
    admissions = Admissions.from_dict(manifest.admissions, manifest.engines_digest)
    if not admissions.report:
        raise AdmissionError(f"{bundle.path} carries no admissions", expected="verdicts with a report", remedy=remedy)
    if admissions.report not in manifest.files:
        raise AdmissionError(
            f"the report of the admissions is no file of {bundle.path}", found=admissions.report, remedy=remedy
        )
    report = read_refusals(bundle.file(admissions.report))
    if report.engines_digest != manifest.engines_digest:
        raise AdmissionError(
            f"the report of the admissions in {bundle.path} was measured on other engines",
            found=f"engines digest {report.engines_digest}",
            expected=manifest.engines_digest,
            remedy=remedy,
        )
    return admissions, report


def report_of(path: Path) -> RefusalReport:
    """The report at `path`: a report of `refusal-check run`, or the admitted one of a bundle, which is checked whole.

    Raises:
        InputError: no report. BundleError: a bundle that can't be opened or carries no admissions.
    """
    return admitted_report(open_bundle(path))[1] if path.is_dir() else read_refusals(path)
