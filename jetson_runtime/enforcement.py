"""Enforcement: a runtime answers from depths and schedules that the gate admitted, and from no others.

Who can load the machine can force the shallowest depth that the runtime may choose, so what is not admitted is never
among the choices. `allow_unadmitted` is for development and for tools that measure; a signed bundle refuses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jetson_runtime.admission import ADMITTED, NOT_TESTED, Admissions, Verdict
from jetson_runtime.bundle import ENVELOPE, Bundle
from jetson_runtime.errors import AdmissionError
from jetson_runtime.ladder import Depth, Ladder, OperatingPoint, Schedule

__all__ = ["Enforcement"]

_UNTESTED = Verdict(NOT_TESTED, "the gate says nothing about it")


@dataclass(frozen=True)
class Enforcement:
    """What one bundle may be used for. `void` says why admissions that its manifest carries do not hold.

    Raises:
        AdmissionError: there is no depth that may be used.
    """

    ladder: Ladder
    admissions: Admissions
    allow_unadmitted: bool
    void: str | None = None

    def __post_init__(self) -> None:
        if not self.depths():
            raise AdmissionError(
                "the bundle has no depth that may be used",
                found=", ".join(f"{depth.name} {self.verdict(depth).verdict}" for depth in self.ladder),
                expected="at least one admitted depth",
                remedy="run 'refusal-check gate' on it; for development, load it with --allow-unadmitted",
            )

    @classmethod
    def of(cls, bundle: Bundle, *, allow_unadmitted: bool) -> Enforcement:
        """The rule for a bundle that was opened.

        With `allow_unadmitted` admissions that do not hold are none: the gate itself has to measure such a bundle.

        Raises:
            AdmissionError: the admissions are void or admit no depth; or `allow_unadmitted` and a signed bundle.
        """
        manifest = bundle.manifest
        if allow_unadmitted and bundle.signed:
            raise AdmissionError(
                f"{bundle.path} is signed: only what is admitted may be used",
                found="allow_unadmitted (--allow-unadmitted)",
                expected="the admissions that were signed",
                remedy=f"leave it out; to measure or develop, use a copy of the bundle without {ENVELOPE}",
            )
        void = None
        try:
            admissions = Admissions.from_dict(manifest.admissions, manifest.engines_digest)
        except AdmissionError as error:
            if not allow_unadmitted:
                raise
            admissions, void = Admissions.from_dict({}, manifest.engines_digest), error.what
        return cls(manifest.ladder, admissions, allow_unadmitted, void)

    def verdict(self, point: OperatingPoint) -> Verdict:
        """What the gate says about a depth or a schedule."""
        part = self.admissions.schedules if isinstance(point, Schedule) else self.admissions.depths
        return part.get(point.name, _UNTESTED)

    def allows(self, point: OperatingPoint) -> bool:
        """Whether a depth or a schedule may be used."""
        return self.allow_unadmitted or self.verdict(point).verdict == ADMITTED

    def depths(self) -> Sequence[Depth]:
        """The depths that the policy may choose, shallowest first."""
        return [depth for depth in self.ladder if self.allows(depth)]

    def check(self, point: OperatingPoint) -> None:
        """Refuse a pinned depth or schedule that may not be used.

        Raises:
            AdmissionError: it is not admitted; with the verdict and its reason.
        """
        if self.allows(point):
            return
        verdict, kind = self.verdict(point), type(point).__name__.lower()
        named = self.depths() if isinstance(point, Depth) else [
            each for each in self.ladder.schedules() if self.allows(each)
        ]  # fmt: skip
        raise AdmissionError(
            f"the {kind} {point.name} is not admitted",
            found=f"{verdict.verdict}: {verdict.reason}",
            expected=f"an admitted {kind}: {', '.join(each.name for each in named) or 'there is none'}",
            remedy="pin an admitted one, or none; for development, load the bundle with --allow-unadmitted",
        )

    def to_dict(self) -> dict[str, Any]:
        """What `describe` says: every verdict, also of what was not tested, and whether they are enforced."""
        return {
            "allow_unadmitted": self.allow_unadmitted,
            "admissions": {
                "void": self.void,
                "report": self.admissions.report,
                "depths": {depth.name: vars(self.verdict(depth)) for depth in self.ladder},
                "schedules": {each.name: vars(self.verdict(each)) for each in self.ladder.schedules()},
            },
        }
