"""`realign reward` as a command."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from jetson_runtime.console import Commands, subcommand
from jetson_runtime.files import canonical_json
from realignment.stage_commands import stage_options
from realignment.supervised import Place, read_stage

__all__ = ["add_reward"]


def add_reward(commands: Commands) -> None:
    """Add the subcommand."""
    parser = subcommand(
        commands,
        "reward",
        "Train a reward model for L-PPO on preference pairs (Bradley-Terry); it reads prompt and answer, no picture.",
        _reward,
        examples="  realign reward aligned/checkpoint --data data --out reward\n"
        "  realign reward aligned/checkpoint --data data --out reward --resume",
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a LLaVA directory, whose decoder is used")
    stage_options(parser)


def _reward(arguments: argparse.Namespace) -> int:
    from realignment.lppo.reward_training import MODEL, RewardPlan, train_reward

    recipe = read_stage(arguments.recipe, "reward", RewardPlan)
    out = arguments.out.absolute()
    # No pictures are needed: the reward model reads text alone.
    place = Place(out, arguments.data, Path())
    record = train_reward(arguments.checkpoint, recipe, place, resume=arguments.resume)
    if arguments.json:
        sys.stdout.write(canonical_json(record))
        return 0
    print(f"{out}: {record['steps']} of {record['recipe']['steps']} steps, {record['minutes']} minutes")
    for kind, share in record["pair_accuracy"].items():
        print(f"  {kind:<17} {share:7.1%} of held-out pairs in the right order")
    print(f"{out / MODEL}: the reward model, for `realign ppo --reward-model`")
    if not record["complete"]:
        print("stopped by the recipe's time limit; raise its max_minutes and add --resume to go on")
    return 0
