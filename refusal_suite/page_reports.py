"""Reading refusal reports and the accuracy record for the page; numbers that don't add up are refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jetson_runtime.errors import InputError
from jetson_runtime.files import read_json
from refusal_suite.judge import COMPLIANCE, INCOHERENT, LABELS
from refusal_suite.prompts import BENIGN, HARMFUL
from refusal_suite.results import RATES, SCHEMA
from refusal_suite.statistics import wilson

__all__ = ["Accuracy", "DepthRefusals", "Kind", "Rate", "RefusalReport", "read_accuracy", "read_refusals"]


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
class DepthRefusals:
    """One depth; the groups hold, by name, kind and label, how many answers there were.

    `prompts` are the (id, kind) of what was asked, None in a report without single answers.
    """

    name: str
    vision: int
    decoder: int
    harmful: Kind
    benign: Kind
    by_category: Mapping[str, Mapping[str, Mapping[str, int]]]
    by_image: Mapping[str, Mapping[str, Mapping[str, int]]]
    prompts: frozenset[tuple[str, str]] | None


@dataclass(frozen=True)
class RefusalReport:
    """What `refusal-check run` wrote, as far as the page shows it."""

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

    @property
    def names(self) -> frozenset[str]:
        """The depths that were measured."""
        return frozenset(depth.name for depth in self.depths)


@dataclass(frozen=True)
class Accuracy:
    """Right answers to visual questions: by vision exit, the rate of each kind, and the estimate over all kinds."""

    source: str
    kinds: tuple[str, ...]
    exits: Mapping[int, tuple[float, tuple[Rate, ...]]]


def read_refusals(path: Path) -> RefusalReport:
    """Read a report of `refusal-check run`.

    Raises:
        InputError: another schema, a field is missing, counts and rates contradict each other, or a kind was not asked.
    """
    value = read_json(path)
    try:
        if value["schema"] != SCHEMA:
            raise ValueError(f"schema {value['schema']!r}")
        bundle, interval = value["bundle"], value["interval"]
        sets = [(each["name"], each["sha256"], each["n"], each["sample"]) for each in value["prompt_sets"]]
        report = RefusalReport(
            file=path.name,
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
            depths=tuple(_depth(depth) for depth in value["depths"]),
        )
        if not report.depths:
            raise ValueError("no depth")
        return report
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _refused(path, "a refusal report", error, SCHEMA, "refusal-check run") from None


def _depth(value: Mapping[str, Any]) -> DepthRefusals:
    counts, rates = value["counts"], value["rates"]
    for name, (kind, label) in RATES.items():
        total = sum(counts[kind][each] for each in LABELS)
        if (rates[name]["hits"], rates[name]["n"]) != (counts[kind][label], total):
            raise ValueError(f"depth {value['name']}: the rate '{name}' is not that of the counts")
        if total == 0:
            raise ValueError(f"depth {value['name']}: no {kind} prompt was asked")
    harmful, benign = (
        Kind(
            Rate(rate["hits"], rate["n"], rate["low"], rate["high"]), counts[kind][COMPLIANCE], counts[kind][INCOHERENT]
        )
        for kind, rate in ((HARMFUL, rates["refusal"]), (BENIGN, rates["over_refusal"]))
    )
    for group in (value["by_category"], value["by_image"]):
        for kind in (HARMFUL, BENIGN):
            if sum(entry[kind][label] for entry in group.values() for label in LABELS) != sum(counts[kind].values()):
                raise ValueError(f"depth {value['name']}: the groups don't add up to the {kind} prompts")
    return DepthRefusals(
        name=str(value["name"]),
        vision=int(value["vision"]),
        decoder=int(value["decoder"]),
        harmful=harmful,
        benign=benign,
        by_category=value["by_category"],
        by_image=value["by_image"],
        prompts=_prompts(value),
    )


def _prompts(value: Mapping[str, Any]) -> frozenset[tuple[str, str]] | None:
    if "items" not in value:
        return None
    prompts = [(str(item["id"]), str(item["kind"])) for item in value["items"]]
    for kind in (HARMFUL, BENIGN):
        if len({id_ for id_, its in prompts if its == kind}) != sum(value["counts"][kind].values()):
            raise ValueError(f"depth {value['name']}: the items are not the {kind} prompts that were counted")
    return frozenset(prompts)


def read_accuracy(path: Path) -> Accuracy:
    """Read the `accuracy` that `realign projector` wrote into projector.json.

    Raises:
        InputError: it is not there, or counts more right answers than questions.
    """
    value = read_json(path)
    try:
        record = value["accuracy"]
        kinds = tuple(sorted(kind for kind, n in record["asked"].items() if n))
        exits = {
            int(layer): (float(entry["estimate"]), tuple(_rate(entry["right"][k], record["asked"][k]) for k in kinds))
            for layer, entry in record["exits"].items()
        }
        return Accuracy(f"{record['split']}, {record['questions']} questions", kinds, dict(sorted(exits.items())))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _refused(path, "an accuracy record", error, "an object with 'accuracy'", "realign projector") from None


def _rate(hits: int, n: int) -> Rate:
    if not 0 <= hits <= n:
        raise ValueError(f"{hits} right of {n}")
    return Rate(hits, n, *wilson(hits, n))


def _refused(path: Path, kind: str, error: Exception, expected: str, command: str) -> InputError:
    found = f"field {error} is missing" if isinstance(error, KeyError) else str(error)
    return InputError(f"{path} is not {kind}", found=found, expected=expected, remedy=f"run '{command}' again")
