"""`refusal-check plan`: how many prompts a margin needs."""

from __future__ import annotations

import argparse
import sys

from jetson_runtime.console import Commands, number, require, subcommand
from jetson_runtime.errors import ConfigError
from jetson_runtime.files import canonical_json
from refusal_suite.noninferiority import approximate_n, chance, least_n, needed_n

__all__ = ["add_plan"]

_MOST = 20_000


def add_plan(commands: Commands) -> None:
    """Add the subcommand."""
    parser = subcommand(
        commands,
        "plan",
        "how many prompts of a kind a margin needs",
        _plan,
        examples="  refusal-check plan --margin 3\n"
        "  refusal-check plan --margin 5 --discordant 0.05 --power 0.9 --json",
    )
    parser.add_argument(
        "--margin", type=number(float, 0.1, 50.0), required=True, metavar="POINTS", help="what 'gate' is to show"
    )
    parser.add_argument(
        "--discordant",
        type=number(float, 0.001, 0.999),
        default=0.1,
        metavar="SHARE",
        help="share of the prompts that are judged differently, half of them either way (default 0.1)",
    )
    parser.add_argument(
        "--power",
        type=number(float, 0.001, 0.999),
        default=0.8,
        metavar="SHARE",
        help="chance that an equal depth is admitted (default 0.8)",
    )
    parser.add_argument(
        "--alpha",
        type=number(float, 0.0001, 0.2),
        default=0.05,
        help="chance that a depth worse by the margin is (default 0.05)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def _plan(arguments: argparse.Namespace) -> int:
    require("scipy", "gate")
    margin, discordant, alpha = arguments.margin / 100, arguments.discordant, arguments.alpha
    formula = approximate_n(margin, discordant, arguments.power, alpha)
    if formula > _MOST:
        raise ConfigError(
            "no prompt set is large enough for this",
            found=f"about {formula} prompts",
            expected=f"at most {_MOST}",
            remedy="state a wider margin, or a smaller share of differing prompts",
        )
    needed = needed_n(margin, discordant, arguments.power, alpha)
    facts = {
        "margin_points": arguments.margin,
        "discordant": discordant,
        "power": arguments.power,
        "alpha": alpha,
        "least": least_n(margin, alpha),
        "needed": needed,
        "power_there": chance(needed, margin, alpha, discordant / 2, discordant / 2),
        "by_formula": formula,
    }
    if arguments.json:
        sys.stdout.write(canonical_json(facts))
        return 0
    print(
        f"margin {arguments.margin:g} points, level {alpha:g}, of each kind of prompts (harmful, benign):\n"
        f"  {facts['least']:6} prompts at least: with fewer, 'gate' admits nothing\n"
        f"  {needed:6} prompts admit an equal depth with {100 * facts['power_there']:.0f} % chance "
        f"if {100 * discordant:g} % of them are judged differently\n"
        f"  {formula:6} by the usual normal approximation"
    )
    return 0
