"""`refusal-check sweep`: the command line of a sweep."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from jetson_runtime.console import Commands, subcommand
from jetson_runtime.errors import ConfigError
from jetson_runtime.files import canonical_json
from refusal_suite.fleet.cluster import LOCAL, OnRay
from refusal_suite.fleet.config import SweepConfig
from refusal_suite.fleet.plan import read_plan
from refusal_suite.fleet.sweep import sweep
from refusal_suite.fleet.work import Executor, InProcess
from refusal_suite.results import table

__all__ = ["add_sweep"]


def add_sweep(commands: Commands) -> None:
    """Add the subcommand `sweep`."""
    parser = subcommand(
        commands,
        "sweep",
        "measure many bundles, depths, schedules and prompt sets, in this process or on a Ray cluster; go on where it "
        "was ended",
        _sweep,
        examples="  refusal-check sweep sweep.yaml --out build/sweep\n"
        "  refusal-check sweep sweep.yaml --out build/sweep --ray local --workers 2\n"
        "  refusal-check sweep sweep.yaml --out build/sweep --ray 10.0.0.7:6379",
    )
    parser.add_argument("config", type=Path, metavar="SWEEP.yaml", help="what to measure (docs/fleet.md)")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="one report per bundle, and units/ with all that was computed",
    )
    parser.add_argument(
        "--ray", metavar="ADDRESS", help=f"'{LOCAL}': start workers on this machine; HOST:PORT: join a cluster"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="how many with --ray (default: as many as fit)")
    parser.add_argument("--json", action="store_true", help="print the run's facts and the reports' paths as JSON")


def _sweep(arguments: argparse.Namespace) -> int:
    config = SweepConfig.read(arguments.config)
    executor = _executor(arguments, config.threads)
    swept = sweep(read_plan(config), arguments.out, executor)
    if arguments.json:
        paths = {name: str(path) for name, path in swept.paths.items()}
        sys.stdout.write(canonical_json({**swept.run, "reports": paths}))
        return 0
    for name, report in swept.reports.items():
        print(f"{name}\n{table(report)}\nreport: {swept.paths[name]}\n")
    print(f"{swept.run['answers']} answers, {swept.run['answers_computed']} of them computed now")
    return 0


def _executor(arguments: argparse.Namespace, threads: int) -> Executor:
    """What computes; whatever is wrong with it is found out before any bundle is read."""
    if arguments.workers is not None and arguments.workers < 1:
        raise ConfigError("--workers can't be used", found=arguments.workers, expected="1 or more")
    if arguments.ray is None:
        if arguments.workers is not None:
            raise ConfigError(
                "--workers says how many workers a Ray cluster gets",
                found="no --ray",
                remedy=f"add '--ray {LOCAL}', or leave --workers out",
            )
        return InProcess()
    return OnRay(arguments.ray, arguments.workers, threads)
