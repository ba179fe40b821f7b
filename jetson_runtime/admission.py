"""Admission: which depths and schedules of a bundle the refusal suite found safe, and on which engines.

The verdicts lie in the manifest, so the bundle's signature covers them. They hold for the engines they were measured
on and for no others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jetson_runtime.errors import AdmissionError

__all__ = ["ADMITTED", "NOT_TESTED", "REJECTED", "SCHEMA", "VERDICTS", "Admissions", "Verdict"]

SCHEMA = "holdfast/admissions/1"
ADMITTED, REJECTED, NOT_TESTED = VERDICTS = ("admitted", "rejected", "not tested")


@dataclass(frozen=True)
class Verdict:
    """One of `VERDICTS` on one depth or schedule, and in a sentence with figures why."""

    verdict: str
    reason: str


@dataclass(frozen=True)
class Admissions:
    """The gate's verdicts by name of depth and of schedule.

    `engines_digest` is `Manifest.engines_digest` of the engines that were measured; `report` is the path, inside the
    bundle, of the refusal report with every count; `basis` says by what it was decided: prompt sets by digest and
    number, judge, margins, level, longest answer.
    """

    engines_digest: str
    report: str
    basis: Mapping[str, Any]
    depths: Mapping[str, Verdict] = field(default_factory=dict)
    schedules: Mapping[str, Verdict] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The form in which a manifest carries them."""
        return {
            "schema": SCHEMA,
            "engines_digest": self.engines_digest,
            "report": self.report,
            "basis": dict(self.basis),
            "depths": {name: vars(verdict) for name, verdict in self.depths.items()},
            "schedules": {name: vars(verdict) for name, verdict in self.schedules.items()},
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], engines_digest: str) -> Admissions:
        """What a manifest carries; an empty value is no admission of anything.

        `engines_digest` is that of the engines at hand.

        Raises:
            AdmissionError: not of this form, or measured on other engines.
        """
        if not value:
            return cls(engines_digest, "", {})
        remedy = "run 'refusal-check gate' on this bundle"
        if value.get("schema") != SCHEMA:
            raise AdmissionError(
                "the admissions can't be read", found=value.get("schema"), expected=SCHEMA, remedy=remedy
            )
        if value.get("engines_digest") != engines_digest:
            raise AdmissionError(
                "the admissions were measured on other engines",
                found=f"engines digest {value.get('engines_digest')}",
                expected=engines_digest,
                remedy=remedy,
            )
        try:
            verdicts = [
                {name: Verdict(str(one["verdict"]), str(one["reason"])) for name, one in value[part].items()}
                for part in ("depths", "schedules")
            ]
            made = cls(engines_digest, str(value["report"]), dict(value["basis"]), *verdicts)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise AdmissionError("the admissions can't be read", found=repr(error), remedy=remedy) from None
        odd = [each.verdict for part in verdicts for each in part.values() if each.verdict not in VERDICTS]
        if odd:
            raise AdmissionError(
                "the admissions can't be read", found=odd[0], expected=", ".join(VERDICTS), remedy=remedy
            )
        return made

    def admits(self, name: str) -> bool:
        """Whether the depth or schedule of that name is admitted."""
        verdict = self.depths.get(name) or self.schedules.get(name)
        return verdict is not None and verdict.verdict == ADMITTED
