"""`refusal-check gate`: measures or takes a report, decides, and writes the verdicts into the bundle."""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from jetson_runtime.admission import ADMITTED, Admissions
from jetson_runtime.bundle import Bundle, open_bundle
from jetson_runtime.console import Commands, number, require, subcommand
from jetson_runtime.errors import ConfigError
from jetson_runtime.files import canonical_json, read_json, sha256_file, write_json
from refusal_suite.formats import FORMATS
from refusal_suite.gate import Decision, Judged, Rules, decide
from refusal_suite.gate_evidence import check_enough, read_evidence, read_length, read_reference
from refusal_suite.judges.options import OPTIONS as JUDGE_OPTIONS
from refusal_suite.judges.options import add_judge_options, chosen_judge
from refusal_suite.prompts import BENIGN, BUILTIN, HARMFUL, PromptSet, load_prompts

__all__ = ["SCHEMA", "add_gate"]

SCHEMA = "holdfast/gate/1"
MAX_TOKENS = 48
# `run`'s options that measuring here takes too; with --report they have nothing to do.
_MEASURING = ("limit", "seed", "max_tokens", "backend")

_OPTIONS = {
    "margin_points": ("--margin", "POINTS", "how much more often than the reference it may answer a harmful prompt"),
    "over_refusal_margin_points": (
        "--over-refusal-margin", "POINTS", "how much more often than the reference it may refuse a harmless prompt",
    ),
    "max_incoherent_percent": ("--max-incoherent", "PERCENT", "incoherent answers, of either kind of prompts"),
    "max_attack_success_percent": (
        "--max-attack-success", "PERCENT", "harmful prompts answered at full depth, if there is no --reference",
    ),
    "max_over_refusal_percent": (
        "--max-over-refusal", "PERCENT", "harmless prompts refused at full depth, if there is no --reference",
    ),
}  # fmt: skip


def add_gate(commands: Commands) -> None:
    """Add the subcommand."""
    parser = subcommand(
        commands,
        "gate",
        "decide which depths and schedules of a bundle are admitted, and write the verdicts into it; "
        "ends with 0 if every depth is admitted, with 1 if not",
        _gate,
        examples="  refusal-check gate build/demo/bundle\n"
        "  refusal-check gate build/demo/bundle --report refusals.json --dry-run\n"
        "  refusal-check gate build/demo/bundle --reference measured/measure.json --margin 3 --max-tokens 24\n"
        "  refusal-check gate build/demo/bundle --prompts advbench.csv --prompts xstest.csv --json",
    )
    parser.add_argument("bundle", type=Path, help="a bundle directory")
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="a report of 'refusal-check run' on this bundle (default: measure)"
    )
    parser.add_argument(
        "--reference",
        type=Path,
        metavar="FILE",
        help="compare with the full depth of this report of 'refusal-check run' or 'realign measure' "
        "(default: with the bundle's own full depth)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the report, verdicts included, here")
    parser.add_argument("--dry-run", action="store_true", help="decide and tell, but leave the bundle as it is")
    parser.add_argument("--json", action="store_true", help="print what was decided as JSON instead of a table")
    _rules_options(parser)
    _measuring_options(parser)
    add_judge_options(parser)


def _rules_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("rules")
    for name, (option, unit, text) in _OPTIONS.items():
        default = getattr(Rules, name)
        group.add_argument(
            option,
            dest=name,
            type=number(float, 0.1, 99.9),
            default=default,
            metavar=unit,
            help=f"{text} (default {default:g})",
        )
    group.add_argument(
        "--alpha",
        type=number(float, 0.0001, 0.2),
        default=Rules.alpha,
        help=f"chance of a wrong admission (default {Rules.alpha:g})",
    )


def _measuring_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("prompts and measuring, as in 'run'")
    group.add_argument("--prompts", type=Path, action="append", metavar="FILE", help="a prompt set; may be repeated")
    group.add_argument("--format", default="auto", choices=["auto", *FORMATS], help="columns (default: recognised)")
    group.add_argument("--kind", choices=[HARMFUL, BENIGN], help="for files that don't say it themselves")
    group.add_argument("--limit", type=number(int, 1), metavar="N", help="at most N prompts of each set")
    group.add_argument("--seed", type=int, metavar="N", help="which prompts --limit takes (default 0)")
    group.add_argument("--max-tokens", type=number(int, 1), metavar="N", help=f"longest answer (default {MAX_TOKENS})")
    group.add_argument("--backend", metavar="NAME", help="what runs the bundle (default onnxruntime)")


def _gate(arguments: argparse.Namespace) -> int:
    require("scipy", "gate")
    _check_options(arguments)
    rules = Rules(**{each.name: getattr(arguments, each.name) for each in fields(Rules)})
    # Everything that can be wrong is found out before the first answer: measuring may take hours.
    bundle = open_bundle(arguments.bundle)
    if not arguments.dry_run:
        bundle.check_changeable()
    sets = [load_prompts(path, arguments.format, kind=arguments.kind) for path in arguments.prompts or [BUILTIN]]
    judge = chosen_judge(arguments).name
    if arguments.report is None:
        _check_plan(arguments, sets, rules, judge)
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "refusals.json"
            code = _measure(arguments, out)
            if code:
                return code
            report = read_json(out)
    else:
        report = read_json(arguments.report)
    reference = None
    if arguments.reference is not None:
        reference = read_reference(arguments.reference, sets, judge, read_length(report))
    found = read_evidence(report, bundle.manifest, sets, judge, reference)
    check_enough(found.prompts, rules, reference)
    decision = decide(found, rules)
    block = {
        "schema": SCHEMA,
        "basis": _basis(arguments, report, rules),
        "depths": [each.to_dict() for each in decision.depths],
        "schedules": [each.to_dict() for each in decision.schedules],
    }
    _write(arguments, bundle, {**report, "gate": block}, decision)
    sys.stdout.write(canonical_json(block) if arguments.json else _told(arguments, decision))
    return 0 if decision.passed else 1


def _check_options(arguments: argparse.Namespace) -> None:
    given = [name for name in _MEASURING if getattr(arguments, name) is not None]
    if arguments.report is not None and given:
        raise ConfigError(
            f"--{given[0].replace('_', '-')} has no place beside --report",
            found="a report that is measured already",
            remedy="leave one of them out",
        )


def _check_plan(arguments: argparse.Namespace, sets: Sequence[PromptSet], rules: Rules, judge: str) -> None:
    """Whether what is about to be measured could be admitted at all."""
    limit, seed = arguments.limit, arguments.seed or 0
    asked = [each if limit is None or len(each.prompts) <= limit else each.limited(limit, seed) for each in sets]
    reference = None
    if arguments.reference is not None:
        reference = read_reference(arguments.reference, sets, judge, arguments.max_tokens or MAX_TOKENS)
    check_enough([prompt for each in asked for prompt in each.prompts], rules, reference)


def _measure(arguments: argparse.Namespace, out: Path) -> int:
    """Write what `refusal-check run` writes with the same options, every schedule included; its exit code."""
    from refusal_suite.cli import main

    words = ["run", str(arguments.bundle), "--schedule", "all", "--format", arguments.format, "--out", str(out)]
    for path in arguments.prompts or ():
        words += ["--prompts", str(path)]
    for name in (*_MEASURING, "kind", "judge", *JUDGE_OPTIONS):
        if getattr(arguments, name) is not None:
            words += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
    with contextlib.redirect_stdout(io.StringIO()):
        return main(words)


def _basis(arguments: argparse.Namespace, report: Mapping[str, Any], rules: Rules) -> dict[str, Any]:
    """By what it was decided: goes into the bundle with the verdicts."""
    reference: dict[str, Any] = {"kind": "full depth of the bundle"}
    if arguments.reference is not None:
        facts = read_json(arguments.reference)
        reference = {"kind": facts["schema"], "sha256": sha256_file(arguments.reference)}
    return {
        "rules": asdict(rules),
        "reference": reference,
        **{name: report[name] for name in ("prompt_sets", "judge", "max_tokens", "backend")},
    }


def _write(arguments: argparse.Namespace, bundle: Bundle, report: Mapping[str, Any], decision: Decision) -> None:
    if arguments.out is not None:
        write_json(arguments.out, report)
    if not arguments.dry_run:
        verdicts = [{each.name: each.verdict for each in part} for part in (decision.depths, decision.schedules)]
        made = Admissions(bundle.manifest.engines_digest, "", report["gate"]["basis"], *verdicts)
        bundle.with_admissions(report, made.to_dict())


def _told(arguments: argparse.Namespace, decision: Decision) -> str:
    """A line per depth and schedule, then where it was written."""
    width = max(len(each.name) for each in (*decision.depths, *decision.schedules))
    lines = [f"{'':{width}}  verdict     reason"]
    lines += [_line(each, width) for each in decision.depths]
    if decision.schedules:
        lines += ["", *(_line(each, width) for each in decision.schedules)]
    told = Counter(each.verdict.verdict for each in decision.depths)
    lines += ["", f"{told[ADMITTED]} of {len(decision.depths)} depths admitted"]
    lines.append("nothing was written" if arguments.dry_run else f"written into {arguments.bundle}")
    return "".join(f"{line}\n" for line in lines)


def _line(judged: Judged, width: int) -> str:
    return f"{judged.name:{width}}  {judged.verdict.verdict:10}  {judged.verdict.reason}"
