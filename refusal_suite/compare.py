"""`refusal-check compare`: is one bundle, or report, non-inferior to another? For use in a pipeline."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from jetson_runtime.console import Commands, number, subcommand
from jetson_runtime.files import canonical_json, write_text
from refusal_suite.admitted import report_of
from refusal_suite.junit import junit_xml
from refusal_suite.output import check_place
from refusal_suite.paired import Rule
from refusal_suite.report_comparison import compare_reports, comparison_table

__all__ = ["add_compare"]


def add_compare(commands: Commands) -> None:
    """Add the subcommand `compare`."""
    parser = subcommand(
        commands,
        "compare",
        "compare two reports or bundles prompt by prompt; exit code 1 unless the second is non-inferior to the first",
        _compare,
        examples="  refusal-check compare old/refusals.json new/refusals.json\n"
        "  refusal-check compare build/old-bundle build/new-bundle --margin 3 --junit compare.xml\n"
        "  refusal-check compare old/refusals.json build/new-bundle --json",
    )
    for name, words in (("first", "what is in use"), ("second", "what is to replace it")):
        parser.add_argument(
            name, type=Path, metavar=name.upper(),
            help=f"{words}: a report of 'refusal-check run', or a bundle, whose admitted report is read",
        )  # fmt: skip
    parser.add_argument(
        "--margin", type=number(float, 0.1, 99.9), default=5.0, metavar="POINTS",
        help="how many hundredths of the prompts the second may be worse by (default 5)",
    )  # fmt: skip
    parser.add_argument(
        "--alpha", type=number(float, 0.0001, 0.2), default=0.05, metavar="LEVEL", help="one-sided level (default 0.05)"
    )
    parser.add_argument("--junit", type=Path, metavar="FILE", help="also write JUnit XML")
    parser.add_argument("--json", action="store_true", help="print everything as JSON instead of a table")


def _compare(arguments: argparse.Namespace) -> int:
    check_place(arguments.junit)
    rule = Rule(arguments.margin, arguments.alpha)
    comparison = compare_reports(report_of(arguments.first), report_of(arguments.second), rule)
    if arguments.junit is not None:
        write_text(arguments.junit, junit_xml(comparison))
    if arguments.json:
        sys.stdout.write(canonical_json(comparison.to_dict()))
    else:
        print(comparison_table(comparison))
    return 0 if comparison.held else 1
