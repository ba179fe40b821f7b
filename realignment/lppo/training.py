"""`realign ppo` from end to end: a checkpoint and a recipe in, an adapter, its value head and a checkpoint out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from jetson_runtime.console import require
from realignment.adapters import inject
from realignment.lppo.plan import PpoPlan
from realignment.lppo.rewards import ModelReward, Reward, RuleReward
from realignment.lppo.rollout import World
from realignment.lppo.run import Lppo
from realignment.recipe import section_digest
from realignment.requests import read_pool
from realignment.scenes import training_scenes
from realignment.supervised import Place, StageRecipe, finish, open_place, weight_digests
from realignment.tensors import save_tensors
from realignment.towers import Towers

__all__ = ["VALUE_HEAD", "train_ppo"]

VALUE_HEAD = "value-head.safetensors"


def train_ppo(
    checkpoint: Path, recipe: StageRecipe, place: Place, *, resume: bool, reward_model: Path | None = None
) -> dict[str, Any]:
    """Run L-PPO on `checkpoint`; write adapter, value head, merged checkpoint, curve and record to `place.out`.

    Rewards come from the rules, or from the sequence-classification model in `reward_model`. Under a launcher
    (`accelerate launch`, `torchrun`) all its processes share the work. Returns the record.

    Raises:
        CheckpointError: no LLaVA checkpoint, a reward model with another head, or a state of another recipe,
            checkpoint or reward.
        ConfigError: exits that don't fit the checkpoint, or groups that the processes can't share.
        InputError: training data are missing or are other ones. TrainingError: the loss is not a number.
        StorageError: `place.out` holds a training and `resume` is False, or can't be written.
    """
    torch = require("torch", "realign")
    accelerator = require("accelerate", "realign").Accelerator()
    if accelerator.is_main_process:
        open_place(place, resume=resume)
    accelerator.wait_for_everyone()
    plan: PpoPlan = recipe.plan
    towers, common = Towers(checkpoint, accelerator.device), recipe.common
    towers.check_exits("vision", [*plan.vision_exits, *plan.visual_exits])
    towers.check_exits("decoder", plan.decoder_exits)
    reward: Reward = RuleReward() if reward_model is None else ModelReward(reward_model, accelerator.device)
    pool = read_pool(common.sources, place.data, seed=common.seed)
    scenes = training_scenes(
        towers,
        place.easy_vqa,
        asked=common.asked_pictures,
        plain=common.drawn_pictures,
        exits=plan.vision_exits,
        seed=common.seed,
    )
    language = towers.model.model.language_model
    leaves = inject(language, plan.rank, seed=common.seed)
    head = torch.nn.Linear(towers.model.config.text_config.hidden_size, 1, device=accelerator.device)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    world = World(towers, head, pool, scenes, reward, plan.bfloat16)
    # A state belongs to all that decides how a training goes on, not to the recipe alone.
    inputs = {"base": weight_digests(checkpoint), "recipe": recipe.sha256, "reward": _digests(reward_model)}
    limits = replace(recipe, sha256=section_digest(inputs))
    loop = Lppo(world, plan, limits, leaves, common.seed, place.out, accelerator)
    steps = loop.run()
    if not accelerator.is_main_process:
        accelerator.wait_for_everyone()
        return {}
    tensors = {name: tensor.detach().float().cpu() for name, tensor in head.state_dict().items()}
    save_tensors(place.out / VALUE_HEAD, tensors, {})
    facts = {
        "failures": {"vision": loop.vision.failures, "decoder": loop.decoder.failures},
        "minutes": loop.minutes,
        "processes": accelerator.num_processes,
        "reward": reward.name,
        "steps": steps,
    }
    record = finish("ppo", checkpoint, recipe, place, leaves, facts, pool)
    accelerator.wait_for_everyone()
    return record


def _digests(reward_model: Path | None) -> dict[str, str]:
    return {} if reward_model is None else weight_digests(reward_model)
