"""The report of `realign measure`: what was measured on what, the counts per depth, a table. Ids, never texts."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jetson_runtime.console import require
from jetson_runtime.errors import ConfigError, InputError
from jetson_runtime.files import read_json, sha256_file
from realignment.measure import Depth, DepthResult
from realignment.towers import Towers
from realignment.visual_questions import SPLIT, Drawn
from refusal_suite.judge import COMPLIANCE, INCOHERENT, JUDGE, REFUSAL
from refusal_suite.prompts import PromptSet
from refusal_suite.statistics import CONFIDENCE, wilson

__all__ = ["RATES", "SCHEMA", "VISUAL", "checkpoint_facts", "describe", "measured", "rates", "table", "without_labels"]

SCHEMA = "holdfast/realign-measure/1"
VISUAL = "visual_accuracy"

# name of the rate → (kind of the prompts, label that is counted)
RATES: dict[str, tuple[str, str]] = {
    "attack_success": ("harmful", COMPLIANCE),
    "refusal": ("harmful", REFUSAL),
    "incoherent_harmful": ("harmful", INCOHERENT),
    "over_refusal": ("benign", REFUSAL),
    "incoherent_benign": ("benign", INCOHERENT),
}
_COLUMNS = {
    "attack_success": "attack success",
    "refusal": "harmful refused",
    "incoherent_harmful": "harmful incoherent",
    "over_refusal": "benign refused",
    "incoherent_benign": "benign incoherent",
    VISUAL: "visual questions right",
}
_SUFFIXES = (".bin", ".jinja", ".json", ".safetensors")


def checkpoint_facts(folder: Path) -> dict[str, Any]:
    """The directory's name and the SHA-256 of each file in it that a model is loaded from."""
    files = sorted(path for path in folder.glob("*") if path.suffix in _SUFFIXES and path.name != "provenance.json")
    return {"name": folder.resolve().name, "files": {path.name: sha256_file(path) for path in files}}


def describe(
    towers: Towers,
    checkpoint: Mapping[str, Any],
    described: Sequence[Mapping[str, Any]],
    sets: Sequence[PromptSet],
    *,
    max_tokens: int,
    questions: Drawn | None,
) -> dict[str, Any]:
    """A report without results; `described` are the sets as `refusal_suite.results.describe_set` tells them.

    `sets` have a picture for every prompt; a digest of the pictures' bytes goes into the report.
    """
    pictures = sorted({sha256_file(p.image) for each in sets for p in each.prompts if p.image is not None})
    asked = None
    if questions is not None:
        asked = {
            "asked": questions.asked(),
            "pictures": len(questions.by_picture),
            "seed": questions.seed,
            "split": SPLIT,
        }
    versions = {name: require(name, "realign").__version__ for name in ("torch", "transformers")}
    return {
        "schema": SCHEMA,
        "checkpoint": dict(checkpoint),
        "full_depth": {"vision": towers.vision_exit, "decoder": towers.decoder_exit},
        "judge": JUDGE,
        "max_tokens": max_tokens,
        "interval": {"method": "Wilson score, two-sided", "confidence": CONFIDENCE},
        "prompt_sets": list(described),
        "pictures_sha256": hashlib.sha256("".join(pictures).encode()).hexdigest(),
        "questions": asked,
        "tools": {"python": sys.version.split()[0], **versions},
        "depths": [],
    }


def measured(file: Path, report: Mapping[str, Any]) -> dict[Depth, dict[str, Any]]:
    """The results per depth that `file` holds already, if it was measured as `report` says; none without a file.

    Raises:
        ConfigError: it was measured on something else or in another way. InputError: it is no such report.
    """
    if not file.is_file():
        return {}
    found = read_json(file)
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise InputError(
            f"{file} is not a measurement", expected=f"the schema {SCHEMA}", remedy="choose another place for --out"
        )
    for name, value in report.items():
        if name != "depths" and found.get(name) != value:
            raise ConfigError(
                f"{file} can't be continued: '{name}' differs",
                found=_short(found.get(name)),
                expected=_short(value),
                remedy="measure into another directory, or repeat what the first run was given",
            )
    try:
        return {DepthResult(**depth).depth: depth for depth in found["depths"]}
    except (KeyError, TypeError):
        raise InputError(f"{file} is damaged", remedy="remove it and measure again") from None


def rates(depth: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Hits, n, rate and its interval for each of `RATES` and for `VISUAL`, where something was asked."""
    counts = {name: (depth[kind][label], depth[kind]["n"]) for name, (kind, label) in RATES.items()}
    if depth["vqa"] is not None:
        counts[VISUAL] = (sum(depth["vqa"]["right"].values()), depth["vqa"]["n"])
    found = {}
    for name, (hits, n) in counts.items():
        if n:
            low, high = wilson(hits, n)
            found[name] = {"hits": hits, "n": n, "rate": hits / n, "low": low, "high": high}
    return found


def without_labels(report: Mapping[str, Any]) -> dict[str, Any]:
    """The report without the verdicts on single prompts and questions, and with the rates."""
    depths = []
    for depth in report["depths"]:
        vqa = depth["vqa"] and {name: value for name, value in depth["vqa"].items() if name != "hits"}
        kept = {name: value for name, value in depth.items() if name != "labels"}
        depths.append({**kept, "vqa": vqa, "rates": rates(depth)})
    return {**report, "depths": depths}


def table(report: Mapping[str, Any]) -> str:
    """The rates per depth as lines of text, in per cent, each with its interval."""
    rows = [("vision", "decoder", *_COLUMNS.values())]
    for depth in report["depths"]:
        found = rates(depth)
        vision = "text alone" if depth["vision"] is None else str(depth["vision"])
        rows.append((vision, str(depth["decoder"]), *(_cell(found.get(name)) for name in _COLUMNS)))
    if not report["questions"]:
        rows = [row[:-1] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    asked = {kind: sum(each["n"][kind] for each in report["prompt_sets"]) for kind in ("harmful", "benign")}
    counts = [f"{n} {kind} prompts" for kind, n in asked.items()]
    if report["questions"]:
        counts.append(f"{sum(report['questions']['asked'].values())} visual questions")
    return "\n".join([f"{', '.join(counts)} at each depth; per cent, with 95 % intervals", "", *lines])


def _cell(rate: Mapping[str, Any] | None) -> str:
    if rate is None:
        return "none asked"
    return f"{100 * rate['rate']:.1f} ({100 * rate['low']:.1f} to {100 * rate['high']:.1f})"


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]} ..."
