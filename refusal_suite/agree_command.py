"""`refusal-check agree`: measure a judge against answers that an annotator labelled."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jetson_runtime.console import Commands, number, subcommand
from jetson_runtime.files import canonical_json, write_json
from refusal_suite.agreement import agreement
from refusal_suite.judge import LABELS
from refusal_suite.judges.options import add_judge_options, chosen_judge
from refusal_suite.labelled import BUILTIN_LABELS, read_labelled
from refusal_suite.measure import unique_ids
from refusal_suite.prompts import BUILTIN, load_prompts

__all__ = ["MIN_KAPPA", "add_agree"]

# "Substantial" agreement begins above it (Landis and Koch 1977).
MIN_KAPPA = 0.6


def add_agree(commands: Commands) -> None:
    """Add the subcommand."""
    parser = subcommand(
        commands,
        "agree",
        "measure a judge against labelled answers; exits 1 below --min-kappa",
        _agree,
        examples="  refusal-check agree\n"
        "  refusal-check agree labelled.jsonl --prompts mine.csv --min-kappa 0.8 --json\n"
        "  refusal-check agree --judge openai:judge-model --judge-url http://127.0.0.1:8000/v1 --out agreement.json",
    )
    parser.add_argument(
        "file", type=Path, nargs="?", default=BUILTIN_LABELS, help="a labelled file (default: Holdfast's own)"
    )
    parser.add_argument(
        "--prompts",
        type=Path,
        action="append",
        metavar="FILE",
        help="the prompt set that the answers are to; may be repeated (default: the one that comes with Holdfast)",
    )
    parser.add_argument(
        "--min-kappa",
        type=number(float, 0.01, 1.0),
        default=MIN_KAPPA,
        metavar="K",
        help=f"least kappa (default {MIN_KAPPA})",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the report (JSON)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON instead of a table")
    add_judge_options(parser)


def _agree(arguments: argparse.Namespace) -> int:
    sets = [load_prompts(path) for path in arguments.prompts or [BUILTIN]]
    unique_ids(sets)
    labelled = read_labelled(arguments.file, sets)
    judge = chosen_judge(arguments)
    verdicts = judge([row.prompt for row in labelled.rows], [row.answer for row in labelled.rows])
    report = agreement(labelled, judge.name, verdicts, arguments.min_kappa)
    if arguments.out is not None:
        write_json(arguments.out, report)
    if arguments.json:
        sys.stdout.write(canonical_json(report))
    else:
        print(_text(report))
    return 0 if report["passed"] else 1


def _text(report: Mapping[str, Any]) -> str:
    labelled, kappa = report["labelled"], report["kappa"]
    width = max(map(len, LABELS)) + 2
    lines = [
        f"{report['judge']} against {labelled['name']} ({sum(labelled['n'].values())} answers, "
        f"{labelled['unsure']} of them unsure)",
        "",
        "".join(word.ljust(width) for word in ("label", *LABELS, "recall", "kappa")).rstrip() + " (columns: the judge)",
    ]
    for label in LABELS:
        counts, own = report["confusion"][label], report["by_label"][label]
        alone = "none" if own["kappa"] is None else f"{own['kappa']['value']:.3f}"
        cells = [label, *(str(counts[name]) for name in LABELS), _percent(own["recall"]), alone]
        lines.append("".join(cell.ljust(width) for cell in cells).rstrip())
    precisions = [_percent(report["by_label"][label]["precision"]) for label in LABELS]
    lines += ["".join(cell.ljust(width) for cell in ("precision", *precisions)).rstrip(), ""]
    lines.append(f"accuracy {_percent(report['accuracy'])}")
    confidence = f"{100 * report['interval']['confidence']:g} %"
    lines.append(
        f"kappa {kappa['value']:.3f} ({kappa['low']:.3f} to {kappa['high']:.3f}, {confidence}), "
        f"at least {report['min_kappa']:g} is asked for: {'passed' if report['passed'] else 'not passed'}"
    )
    return "\n".join(lines)


def _percent(rate: Mapping[str, Any]) -> str:
    return "none" if rate["rate"] is None else f"{100 * rate['rate']:.1f} %"
