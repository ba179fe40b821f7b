"""Reading refusal reports; numbers that don't add up are refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from jetson_runtime.errors import InputError
from jetson_runtime.files import read_json
from refusal_suite.gate_block import GateBlock
from refusal_suite.judge import COMPLIANCE, INCOHERENT, LABELS
from refusal_suite.prompts import BENIGN, HARMFUL
from refusal_suite.results import RATES, SCHEMA

__all__ = [
    "AnswerLabel",
    "DepthRefusals",
    "Kind",
    "PointRefusals",
    "Rate",
    "RefusalReport",
    "ScheduleRefusals",
    "Shift",
    "read_refusals",
    "refused",
]


@dataclass(frozen=True)
class Rate:
    """`hits` of `n`, with its interval."""

    hits: int
    n: int
    low: float
    high: float

    @property
    def rate(self) -> float:
        """Between 0 and 1."""
        return self.hits / self.n


@dataclass(frozen=True)
class Kind:
    """All answers of one depth to one kind of prompt."""

    refused: Rate
    complied: int
    incoherent: int

    @property
    def n(self) -> int:
        """How many prompts were asked."""
        return self.refused.n


@dataclass(frozen=True)
class AnswerLabel:
    """What one answer was judged to be; the rest is None where the report does not say it.

    `request` is the same for prompts that ask the same with different pictures.
    """

    kind: str
    label: str
    category: str | None = None
    margin: float | None = None
    request: str | None = None


@dataclass(frozen=True)
class Shift:
    """How the margins of `n` prompts moved against full depth, in nats: their mean with its interval."""

    n: int
    mean: float
    low: float
    high: float
    moved_down: float

    def __post_init__(self) -> None:
        if not all(isfinite(value) for value in (self.mean, self.low, self.high, self.moved_down)):
            raise ValueError(f"a shift of margins that is no number: {self.mean} ({self.low} to {self.high})")


@dataclass(frozen=True)
class PointRefusals:
    """One depth or schedule; the groups hold, by name, kind and label, how many answers there were.

    `shifts` are the margin shifts by kind of prompt, where there are any. `answers` are the single answers by the id of
    their prompt, None in a report without them.
    """

    name: str
    harmful: Kind
    benign: Kind
    by_category: Mapping[str, Mapping[str, Mapping[str, int]]]
    by_image: Mapping[str, Mapping[str, Mapping[str, int]]]
    shifts: Mapping[str, Shift]
    answers: Mapping[str, AnswerLabel] | None

    @property
    def prompts(self) -> frozenset[tuple[str, str]] | None:
        """The (id, kind) of what was asked."""
        return None if self.answers is None else frozenset((id_, one.kind) for id_, one in self.answers.items())


@dataclass(frozen=True)
class DepthRefusals(PointRefusals):
    """One depth."""

    vision: int
    decoder: int

    def __str__(self) -> str:
        return f"{self.name} (vision {self.vision}, decoder {self.decoder})"


@dataclass(frozen=True)
class ScheduleRefusals(PointRefusals):
    """One schedule, by the names of its depths."""

    start: str
    then: str
    at: str


@dataclass(frozen=True)
class RefusalReport:
    """What `refusal-check run` wrote, as far as it is used; `gate` is what the gate added, None if it did not."""

    file: str
    model: str
    bundle_digest: str
    engines_digest: str
    backend: str
    judge: str
    max_tokens: int
    interval: str
    confidence: float
    sets: tuple[str, ...]
    set_digests: tuple[tuple[str, str], ...]
    samples: tuple[str, ...]
    depths: tuple[DepthRefusals, ...]
    schedules: tuple[ScheduleRefusals, ...]
    gate: GateBlock | None

    @property
    def names(self) -> frozenset[str]:
        """The depths that were measured."""
        return frozenset(depth.name for depth in self.depths)


def read_refusals(path: Path) -> RefusalReport:
    """Read a report of `refusal-check run`.

    Raises:
        InputError: another schema, a field is missing, counts and rates contradict each other, or a kind was not asked.
    """
    value = read_json(path)
    try:
        if value["schema"] != SCHEMA:
            raise ValueError(f"schema {value['schema']!r}")
        report = _report(path.name, value)
        if not report.depths:
            raise ValueError("no depth")
        return report
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise refused(path, "a refusal report", error, SCHEMA, "refusal-check run") from None


def _report(file: str, value: Mapping[str, Any]) -> RefusalReport:
    bundle, interval = value["bundle"], value["interval"]
    sets = [(each["name"], each["sha256"], each["n"], each["sample"]) for each in value["prompt_sets"]]
    return RefusalReport(
        file=file,
        model=f"{bundle['model']['id']} {bundle['model']['version']}",
        bundle_digest=bundle["bundle_digest"],
        engines_digest=bundle["engines_digest"],
        backend=value["backend"],
        judge=value["judge"],
        max_tokens=value["max_tokens"],
        interval=f"{interval['method']}, {100 * interval['confidence']:g}\u00a0%",
        confidence=float(interval["confidence"]),
        sets=tuple(
            f"{name}: {n[HARMFUL]} harmful, {n[BENIGN]} benign (sha256 {sha[:12]}…)" for name, sha, n, _ in sets
        ),
        set_digests=tuple((name, sha) for name, sha, _, _ in sets),
        samples=tuple(
            f"{part['n']} of the {part['of']} prompts of {name}" for name, _, _, part in sets if part is not None
        ),
        depths=tuple(
            DepthRefusals(**_point(each), vision=int(each["vision"]), decoder=int(each["decoder"]))
            for each in value["depths"]
        ),
        schedules=tuple(
            ScheduleRefusals(**_point(each), start=str(each["start"]), then=str(each["then"]), at=str(each["at"]))
            for each in value["schedules"]
        ),
        gate=None if "gate" not in value else GateBlock.from_dict(value["gate"]),
    )


def _point(value: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of PointRefusals."""
    counts, rates = value["counts"], value["rates"]
    for name, (kind, label) in RATES.items():
        total = sum(counts[kind][each] for each in LABELS)
        if (rates[name]["hits"], rates[name]["n"]) != (counts[kind][label], total):
            raise ValueError(f"{value['name']}: the rate '{name}' is not that of the counts")
        if total == 0:
            raise ValueError(f"{value['name']}: no {kind} prompt was asked")
    harmful, benign = (
        Kind(
            Rate(rate["hits"], rate["n"], rate["low"], rate["high"]), counts[kind][COMPLIANCE], counts[kind][INCOHERENT]
        )
        for kind, rate in ((HARMFUL, rates["refusal"]), (BENIGN, rates["over_refusal"]))
    )
    for group in (value["by_category"], value["by_image"]):
        for kind in (HARMFUL, BENIGN):
            if sum(entry[kind][label] for entry in group.values() for label in LABELS) != sum(counts[kind].values()):
                raise ValueError(f"{value['name']}: the groups don't add up to the {kind} prompts")
    shifts = {kind: value["margins"][kind]["shift"] for kind in (HARMFUL, BENIGN)}
    return {
        "name": str(value["name"]),
        "harmful": harmful,
        "benign": benign,
        "by_category": value["by_category"],
        "by_image": value["by_image"],
        "shifts": {kind: Shift(**shift) for kind, shift in shifts.items() if shift is not None},
        "answers": _answers(value),
    }


def _answers(value: Mapping[str, Any]) -> dict[str, AnswerLabel] | None:
    if "items" not in value:
        return None
    answers = {str(item["id"]): _answer(item) for item in value["items"]}
    for kind in (HARMFUL, BENIGN):
        labels = [answer.label for answer in answers.values() if answer.kind == kind]
        if {label: labels.count(label) for label in LABELS} != dict(value["counts"][kind]):
            raise ValueError(f"{value['name']}: the items are not the {kind} prompts that were counted")
    return answers


def _answer(item: Mapping[str, Any]) -> AnswerLabel:
    category, margin, request = (item.get(name) for name in ("category", "margin", "request"))
    return AnswerLabel(
        kind=str(item["kind"]),
        label=str(item["label"]),
        category=None if category is None else str(category),
        margin=None if margin is None else float(margin),
        request=None if request is None else str(request),
    )


def refused(path: Path, kind: str, error: Exception, expected: str, command: str) -> InputError:
    """The error for a file that is not what it should be; `command` writes such files."""
    found = f"field {error} is missing" if isinstance(error, KeyError) else str(error)
    return InputError(f"{path} is not {kind}", found=found, expected=expected, remedy=f"run '{command}' again")
