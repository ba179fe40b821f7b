"""`realign align`, `realign exits` and `realign ppo`: the training stages as commands."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from jetson_runtime.console import Commands, subcommand
from jetson_runtime.errors import InputError
from jetson_runtime.files import canonical_json
from realignment.packages import EASY_VQA, fetch
from realignment.recipe import Exits, Mixture
from realignment.supervised import RECIPE, Place, read_stage, tune

__all__ = ["add_stages", "stage_options"]


def add_stages(commands: Commands) -> list[argparse.ArgumentParser]:
    """Add the three subcommands; returns their parsers."""
    align = subcommand(
        commands,
        "align",
        "Teach full depth to refuse what is harmful and to answer what is not: the alignment that exits must keep.",
        _align,
        examples="  realign align reference --data data --out aligned\n"
        "  realign align reference --data data --out aligned --resume",
    )
    exits = subcommand(
        commands,
        "exits",
        "Teach decoder exits to say what full depth says; an exit that was never trained speaks nonsense.",
        _exits,
        examples="  realign exits aligned/checkpoint --data data --out exits",
    )
    ppo = subcommand(
        commands,
        "ppo",
        "L-PPO: refusals that hold at every exit of both towers, in one run.",
        _ppo,
        examples="  realign ppo exits/checkpoint --data data --out realigned\n"
        "  realign ppo exits/checkpoint --data data --out realigned --reward-model reward/model",
    )
    ppo.add_argument(
        "--reward-model",
        type=Path,
        metavar="DIR",
        help="score answers with this sequence-classification model (what `realign reward` writes), not by the rules",
    )
    for parser in (align, exits, ppo):
        parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a LLaVA directory")
        stage_options(parser)
    return [align, exits, ppo]


def stage_options(parser: argparse.ArgumentParser) -> None:
    """The options that every training stage has."""
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="adapter, checkpoint, curve, record, state"
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="the folder of the recipe's sources (docs/realignment.md)"
    )
    parser.add_argument(
        "--recipe", type=Path, default=RECIPE, metavar="FILE", help="default: the recipe of the shipped reference"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the training that DIR holds")
    parser.add_argument("--json", action="store_true", help="print the record as JSON")


def _place(arguments: argparse.Namespace) -> Place:
    if arguments.data is not None and not arguments.data.is_dir():
        raise InputError(
            f"{arguments.data} is not a folder", expected="the folder of the recipe's sources", remedy="check --data"
        )
    return Place(arguments.out.absolute(), arguments.data, fetch(EASY_VQA, arguments.cache))


def _align(arguments: argparse.Namespace) -> int:
    recipe = read_stage(arguments.recipe, "align", Mixture)
    return _told(arguments, tune("align", arguments.checkpoint, recipe, _place(arguments), resume=arguments.resume))


def _exits(arguments: argparse.Namespace) -> int:
    recipe = read_stage(arguments.recipe, "exits", Exits)
    return _told(arguments, tune("exits", arguments.checkpoint, recipe, _place(arguments), resume=arguments.resume))


def _ppo(arguments: argparse.Namespace) -> int:
    from realignment.lppo.plan import PpoPlan
    from realignment.lppo.training import train_ppo

    recipe = read_stage(arguments.recipe, "ppo", PpoPlan)
    record = train_ppo(
        arguments.checkpoint, recipe, _place(arguments), resume=arguments.resume, reward_model=arguments.reward_model
    )
    return _told(arguments, record) if record else 0


def _told(arguments: argparse.Namespace, record: dict[str, Any]) -> int:
    if arguments.json:
        sys.stdout.write(canonical_json(record))
        return 0
    print(f"{arguments.out}: {record['steps']} of {record['recipe']['steps']} steps, {record['minutes']} minutes")
    print(f"{arguments.out / 'checkpoint'}: the checkpoint with the adapter merged")
    if not record["complete"]:
        print("stopped by the recipe's time limit; raise its max_minutes and add --resume to go on")
    return 0
