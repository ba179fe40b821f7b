"""`refusal-check sweep`: the command line of a sweep."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from jetson_runtime.console import Commands, subcommand
from jetson_runtime.errors import ConfigError
from jetson_runtime.files import canonical_json
from refusal_suite.fleet.cluster import LOCAL, OnRay
from refusal_suite.fleet.config import SweepConfig
from refusal_suite.fleet.plan import read_plan
from refusal_suite.fleet.sweep import sweep
from refusal_suite.fleet.work import InProcess
from refusal_suite.judges.options import MODEL, add_judge_options, chosen_judge
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
    add_judge_options(parser)


def _sweep(arguments: argparse.Namespace) -> int:
    # Whatever is wrong with the options or the cluster is found out before a judge or a bundle is read.
    config = SweepConfig.read(arguments.config)
    cluster = _cluster(arguments, config.threads)
    judge = chosen_judge(arguments)
    swept = sweep(read_plan(config, judge.name), arguments.out, cluster or InProcess(lambda: judge))
    if arguments.json:
        paths = {name: str(path) for name, path in swept.paths.items()}
        sys.stdout.write(canonical_json({**swept.run, "reports": paths}))
        return 0
    for name, report in swept.reports.items():
        print(f"{name}\n{table(report)}\nreport: {swept.paths[name]}\n")
    print(f"{swept.run['answers']} answers, {swept.run['answers_computed']} of them computed now")
    return 0


def _cluster(arguments: argparse.Namespace, threads: int) -> OnRay | None:
    """The executor that `--ray` names."""
    if arguments.workers is not None and arguments.workers < 1:
        raise ConfigError("--workers can't be used", found=arguments.workers, expected="1 or more")
    if arguments.ray is not None:
        # The options travel, not the judge: a worker reads its model, or the endpoint's key, where it runs.
        make_judge = partial(chosen_judge, _judge_options(arguments))
        return OnRay(arguments.ray, arguments.workers, threads, make_judge)
    if arguments.workers is not None:
        raise ConfigError(
            "--workers says how many workers a Ray cluster gets",
            found="no --ray",
            remedy=f"add '--ray {LOCAL}', or leave --workers out",
        )
    return None


def _judge_options(arguments: argparse.Namespace) -> argparse.Namespace:
    """What `chosen_judge` reads; a model's directory as it is found from anywhere."""
    options = {name: value for name, value in vars(arguments).items() if name.startswith("judge")}
    kind, _, value = str(arguments.judge).partition(":")
    if kind == MODEL and value:
        options["judge"] = f"{kind}:{Path(value).absolute()}"
    return argparse.Namespace(**options)
