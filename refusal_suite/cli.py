"""`refusal-check`: measure what a bundle refuses at every depth, and check prompt sets."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jetson_runtime.console import command_line, number, require, run, subcommand
from jetson_runtime.files import canonical_json, write_json, write_text
from jetson_runtime.ladder import Ladder, OperatingPoint
from refusal_suite.agree_command import add_agree
from refusal_suite.compare import add_compare
from refusal_suite.fleet.command import add_sweep
from refusal_suite.formats import FORMATS
from refusal_suite.gate_command import add_gate
from refusal_suite.judges.options import add_judge_options, chosen_judge
from refusal_suite.measure import ALL, Item, choose_depths, choose_schedules, measure, same_answers, unique_ids
from refusal_suite.output import check_place
from refusal_suite.page import add_page
from refusal_suite.plan_command import add_plan
from refusal_suite.prompts import BENIGN, BUILTIN, HARMFUL, PromptSet, load_prompts
from refusal_suite.results import build_report, describe_set, point_results, table, without_items

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser, commands = command_line("refusal-check", "Measures what a bundle refuses, at every depth.")
    measuring = subcommand(
        commands,
        "run",
        "ask harmful prompts and their benign twins at every depth, judge the answers, write a report",
        _run,
        examples="  refusal-check run build/demo/bundle --out refusals.json --picture refusals.svg\n"
        "  refusal-check run build/demo/bundle --depth d1 --depth d4 --limit 44 --out quick.json\n"
        "  refusal-check run build/demo/bundle --schedule all --out refusals.json\n"
        "  refusal-check run build/demo/bundle --prompts advbench.csv --prompts xstest.csv --out refusals.json\n"
        "  refusal-check run build/demo/bundle --judge model:guard --out guarded.json",
    )
    _run_options(measuring)
    checking = subcommand(
        commands,
        "prompts",
        "check a prompt set and count it by category and kind",
        _prompts,
        examples="  refusal-check prompts\n  refusal-check prompts xstest.csv --json",
    )
    checking.add_argument("file", type=Path, nargs="?", help="a prompt set (default: the one that comes with Holdfast)")
    checking.add_argument("--json", action="store_true", help="print JSON")
    _format_options(checking)
    add_agree(commands)
    add_gate(commands)
    add_plan(commands)
    add_compare(commands)
    add_sweep(commands)
    add_page(commands)
    return run(parser, argv)


def _run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, help="a bundle directory")
    parser.add_argument("--out", type=Path, required=True, help="the report (JSON)")
    parser.add_argument(
        "--prompts",
        type=Path,
        action="append",
        metavar="FILE",
        help="a prompt set; may be repeated (default: the one that comes with Holdfast)",
    )
    parser.add_argument("--depth", action="append", metavar="NAME", help="only this depth; may be repeated")
    parser.add_argument(
        "--schedule",
        action="append",
        metavar="NAME",
        help=f"also this schedule, such as 'd4>d1@prefill'; may be repeated; '{ALL}' is every one of the ladder",
    )
    parser.add_argument(
        "--limit", type=number(int, 1), metavar="N", help="at most N prompts of each set, spread over it"
    )
    parser.add_argument("--seed", type=int, default=0, help="which prompts --limit takes (default 0)")
    parser.add_argument(
        "--max-tokens", type=number(int, 1), default=48, metavar="N", help="longest answer (default 48)"
    )
    parser.add_argument(
        "--backend", default="onnxruntime", help="the backend that runs the bundle (default onnxruntime)"
    )
    parser.add_argument("--picture", type=Path, metavar="FILE", help="also draw the rates as SVG")
    parser.add_argument(
        "--answers-dir", type=Path, metavar="DIR", help="also keep the answers, one file per depth; they may be harmful"
    )
    parser.add_argument(
        "--json", action="store_true", help="print the report without single answers instead of a table"
    )
    _format_options(parser)
    add_judge_options(parser)


def _format_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", default="auto", choices=["auto", *FORMATS], help="columns (default: recognised)")
    parser.add_argument("--kind", choices=[HARMFUL, BENIGN], help="for files that don't say it themselves")


def _run(arguments: argparse.Namespace) -> int:
    # Everything that can be wrong is found out before the first answer: the run itself may take hours.
    for path in (arguments.out, arguments.picture, arguments.answers_dir):
        check_place(path, directory=path is arguments.answers_dir)
    if arguments.picture is not None:
        require("matplotlib", "report")
    files = arguments.prompts or [BUILTIN]
    whole = [load_prompts(path, arguments.format, kind=arguments.kind) for path in files]
    sets = whole if arguments.limit is None else [_part(each, arguments) for each in whole]
    unique_ids(sets)
    judge = chosen_judge(arguments)

    import jetson_runtime

    with jetson_runtime.load(arguments.bundle, backend=arguments.backend, allow_unadmitted=True) as runtime:
        facts = runtime.describe()
        ladder = Ladder.from_dicts(facts["ladder"])
        depths = [ladder[name] for name in choose_depths(runtime, arguments.depth)]
        schedules = choose_schedules(ladder, arguments.schedule)
        points: list[OperatingPoint] = [*depths, *schedules]
        same = same_answers(points)
        distinct = [point for point in points if same[point.name] == point.name]
        results = dict(measure(runtime, sets, distinct, arguments.max_tokens, judge))
    described = [describe_set(part, all_, arguments.seed) for part, all_ in zip(sets, whole, strict=True)]
    report = build_report(
        facts, described, arguments.max_tokens, *point_results(ladder, depths, schedules, results), judge.name
    )
    _write(arguments, report, results)
    if arguments.json:
        sys.stdout.write(canonical_json(without_items(report)))
    else:
        print(f"{table(report)}\n\nreport: {arguments.out}")
    return 0


def _part(prompts: PromptSet, arguments: argparse.Namespace) -> PromptSet:
    if len(prompts.prompts) <= arguments.limit:
        return prompts
    return prompts.limited(arguments.limit, arguments.seed)


def _write(arguments: argparse.Namespace, report: dict[str, Any], results: dict[str, list[Item]]) -> None:
    if arguments.answers_dir is not None:
        for depth, items in results.items():
            lines = (json.dumps({"id": item.prompt.id, "answer": item.answer}, ensure_ascii=False) for item in items)
            text = "".join(f"{line}\n" for line in lines)
            write_text(arguments.answers_dir / f"{depth}.jsonl", text, errors="surrogatepass")
    if arguments.picture is not None:
        from refusal_suite.rates_picture import rates_svg

        write_text(arguments.picture, rates_svg(report))
    write_json(arguments.out, report)


def _prompts(arguments: argparse.Namespace) -> int:
    prompts = load_prompts(arguments.file or BUILTIN, arguments.format, kind=arguments.kind)
    categories: dict[str, dict[str, int]] = {}
    for prompt in prompts.prompts:
        counts = categories.setdefault(prompt.category, {HARMFUL: 0, BENIGN: 0, "with_image": 0})
        counts[prompt.kind] += 1
        counts["with_image"] += prompt.image is not None
    total = {
        **prompts.counts(),
        "with_image": sum(prompt.image is not None for prompt in prompts.prompts),
        "with_twin": sum(prompt.twin is not None for prompt in prompts.prompts),
    }
    if arguments.json:
        facts = {"name": prompts.name, "sha256": prompts.sha256, "total": total, "by_category": categories}
        sys.stdout.write(canonical_json(facts))
        return 0
    print(f"{prompts.name}  sha256 {prompts.sha256}\n")
    width = max(map(len, [*categories, "category"]))
    print(f"{'category':{width}}  harmful  benign  with image")
    for name, counts in {**categories, "all": total}.items():
        print(f"{name:{width}}  {counts[HARMFUL]:7}  {counts[BENIGN]:6}  {counts['with_image']:10}")
    print(f"\n{total['with_twin']} prompts have a twin of the other kind")
    return 0
