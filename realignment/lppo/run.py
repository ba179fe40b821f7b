"""`realign ppo`: L-PPO for all exits in one run.

The paper trains one exit per run; here each group of an iteration draws its own exits of both towers, and one policy
learns from all of them. Several processes share an iteration's groups and average their gradients, so that the result
does not depend on how many there are.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from jetson_runtime.console import require
from jetson_runtime.errors import ConfigError, TrainingError
from realignment.curve import Curve
from realignment.lppo.curriculum import TEXT_ALONE, Curriculum
from realignment.lppo.objective import advantages, divergence, objective, token_rewards, whitened
from realignment.lppo.plan import PpoPlan
from realignment.lppo.rollout import Group, Rollout, World, answer_groups, draw_group, evaluate, shown_of
from realignment.recipe import learning_rate
from realignment.training import CURVE, Limits, restore_state, save_state, state_file

__all__ = ["Lppo", "columns"]

_SHARES = {
    "harmful refused": "harmful",
    "harmful answered": "harmful",
    "benign answered": "benign",
    "visual right": "visual",
}


def columns(plan: PpoPlan) -> tuple[str, ...]:
    """The columns of the live curve; an exit's are the shares of harmful requests refused and benign ones answered."""
    exits = [f"vision {exit}" for exit in plan.vision_exits]
    exits += [f"decoder {exit}{kind}" for exit in plan.decoder_exits for kind in ("", " benign")]
    return (
        *("stage", "step", "minutes", "learning_rate", "reward", "kl", "entropy", "clip_fraction", "policy_loss"),
        *("value_loss", "anchor_kl", *_SHARES, "incoherent", "text alone", *exits),
    )


@dataclass
class Lppo:
    """The training loop; `minutes` counts over restarts.

    `accelerator` is accelerate's: one process or several, on CPUs or GPUs. `leaves` are the adapter's tensors by name;
    the value head is trained with them.
    """

    world: World
    plan: PpoPlan
    limits: Limits
    leaves: Mapping[str, Any]
    seed: int
    folder: Path
    accelerator: Any
    minutes: float = 0.0
    vision: Curriculum[int] = field(init=False)
    decoder: Curriculum[int] = field(init=False)
    requests: Curriculum[str] = field(init=False)
    sums: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        plan = self.plan
        processes = self.accelerator.num_processes
        if plan.groups % plan.groups_per_step or plan.groups % processes:
            raise ConfigError(
                "the groups of an iteration can't be shared evenly",
                found=f"{plan.groups} groups, {plan.groups_per_step} per step, {processes} processes",
                expected="a number of groups that groups_per_step and the number of processes divide",
                remedy="change the recipe or the number of processes",
            )
        self.vision = Curriculum(plan.floor, plan.memory)
        self.decoder = Curriculum(plan.floor, plan.memory)
        self.requests = Curriculum(plan.floor, plan.memory)
        self.sums = {name: leaf.detach().clone().zero_() for name, leaf in self.trained.items()}

    @property
    def trained(self) -> dict[str, Any]:
        """Everything that is trained, by name."""
        head = {f"value_head.{name}": tensor for name, tensor in self.world.value_head.named_parameters()}
        return {**self.leaves, **head}

    def optimizer(self) -> Any:
        """AdamW over all that is trained; `scale` is what a group's rate is multiplied with."""
        head = list(self.world.value_head.parameters())
        groups = [{"params": list(self.leaves.values()), "scale": 1.0}, {"params": head, "scale": self.plan.value_rate}]
        return require("torch", "realign").optim.AdamW(groups, self.plan.learning_rate, weight_decay=0)

    def run(self) -> int:
        """Train from the saved state, if there is one, to the last iteration or to the time limit; returns where.

        Afterwards the adapter is the mean of those after the last `mean_steps` iterations, if there were that many.

        Raises:
            CheckpointError: the saved state belongs to another recipe.
            TrainingError: a loss is not a number; the state before it is saved.
            StorageError: the state can't be written.
        """
        optimizer = self.optimizer()
        step = self._restore(optimizer)
        main = self.accelerator.is_main_process
        curve = Curve(self.folder / CURVE, columns(self.plan))
        if main:
            curve.cut("ppo", step)
        mark = time.monotonic()
        with tqdm(total=self.plan.steps, initial=step, desc="ppo", disable=None if main else True) as bar:
            while step < self.plan.steps and self.minutes < self.limits.max_minutes:
                row = self.iteration(step, optimizer)
                step += 1
                self._add_up(step)
                now = time.monotonic()
                # Processes stop together: the first one's clock counts.
                self.minutes = self._agreed(self.minutes + (now - mark) / 60)
                mark = now
                if main:
                    curve.add({**row, "stage": "ppo", "step": str(step), "minutes": f"{self.minutes:.2f}"})
                    self._save(optimizer, step)
                bar.update()
                bar.set_postfix(reward=row["reward"])
        self._take_mean(step)
        return step

    def iteration(self, step: int, optimizer: Any) -> dict[str, str]:
        """Roll out, update; returns the curve's row."""
        rate = learning_rate(self.plan, step)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        rollouts = self._rollouts(step)
        gathered = self._gather([_Facts.of(number, rollout) for number, rollout in rollouts.items()])
        # In the groups' own order, so that the curriculum remembers the same with any number of processes.
        gathered.sort(key=lambda fact: fact.number)
        self._remember(gathered)
        figures = self._update(step, optimizer, rollouts)
        return {**_row(gathered, figures, self.plan), "learning_rate": f"{rate:.2e}"}

    def _add_up(self, step: int) -> None:
        if step > self.plan.steps - self.plan.mean_steps:
            for name, leaf in self.trained.items():
                self.sums[name] += leaf.detach()

    def _take_mean(self, step: int) -> None:
        torch = require("torch", "realign")
        count = step - (self.plan.steps - self.plan.mean_steps)
        if count > 0:
            with torch.no_grad():
                for name, leaf in self.trained.items():
                    leaf.copy_(self.sums[name] / count)

    def groups(self, step: int) -> list[Group]:
        """The groups of an iteration: they depend on seed, step and curriculum alone, in every process."""
        chance = random.Random(f"{self.seed}:ppo:{step}")
        drawn = []
        for _ in range(self.plan.groups):
            alone = chance.random() < self.plan.text_share
            vision = TEXT_ALONE if alone else self.vision.draw(self.plan.vision_exits, chance)
            decoder = self.decoder.draw(self.plan.decoder_exits, chance)
            drawn.append(draw_group(self.world, self.plan, vision, decoder, self.requests, chance))
        return drawn

    def _rollouts(self, step: int) -> dict[int, Rollout]:
        """This process's share of the iteration, by the group's number."""
        torch = require("torch", "realign")
        drawn = dict(enumerate(self.groups(step)))
        mine = [n for n in drawn if n % self.accelerator.num_processes == self.accelerator.process_index]
        seeds = [random.Random(f"{self.seed}:ppo:{step}:{number}").getrandbits(60) for number in mine]
        generators = [torch.Generator(self.world.towers.model.device).manual_seed(seed) for seed in seeds]
        rollouts = answer_groups(self.world, self.plan, [drawn[number] for number in mine], generators)
        return dict(zip(mine, rollouts, strict=True))

    def _update(self, step: int, optimizer: Any, rollouts: Mapping[int, Rollout]) -> dict[str, float]:
        plan = self.plan
        estimated = {number: self._estimate(rollout) for number, rollout in rollouts.items()}
        mean, variance = self._moments([(raw, rollouts[number].mask) for number, (raw, _) in estimated.items()])
        totals = dict.fromkeys(("policy_loss", "value_loss", "anchor_kl", "clip_fraction", "entropy"), 0.0)
        for epoch in range(plan.epochs):
            order = random.Random(f"{self.seed}:ppo:{step}:epoch {epoch}").sample(range(plan.groups), plan.groups)
            for start in range(0, plan.groups, plan.groups_per_step):
                optimizer.zero_grad()
                for number in order[start : start + plan.groups_per_step]:
                    if number in rollouts:
                        raw, returns = estimated[number]
                        advantage = whitened(raw, rollouts[number].mask, mean, variance)
                        figures = self._backward(step, rollouts[number], advantage, returns)
                        totals = {name: total + figures[name] for name, total in totals.items()}
                self._join_gradients(step)
                optimizer.step()
        return {name: total / (plan.epochs * plan.groups) for name, total in self._summed(totals).items()}

    def _estimate(self, rollout: Rollout) -> tuple[Any, Any]:
        plan = self.plan
        rewards = token_rewards(rollout.rewards, rollout.old, rollout.reference, rollout.mask, plan.kl_weight)
        return advantages(rewards, rollout.values, rollout.mask, gamma=plan.gamma, decay=plan.gae_decay)

    def _backward(self, step: int, rollout: Rollout, advantage: Any, returns: Any) -> dict[str, float]:
        """Add one group's gradient, its share of the step's mean."""
        plan, shown = self.plan, shown_of(self.world, rollout.group)
        view = evaluate(self.world, rollout.group, rollout.packed, shown, rollout.mask)
        result = objective(
            view.logprobs,
            rollout.old,
            advantage,
            view.values,
            returns,
            rollout.mask,
            clip=plan.clip,
            value_weight=plan.value_weight,
        )
        held = divergence(rollout.anchored, view.anchors)
        loss = result.loss + plan.anchor_weight * held
        where = f"vision exit {rollout.group.vision}, decoder exit {rollout.group.decoder}"
        self._check_finite("loss", float(loss.detach()), step, where)
        (loss / plan.groups_per_step).backward()
        return {
            "policy_loss": result.policy,
            "value_loss": result.value,
            "anchor_kl": float(held.detach()),
            "clip_fraction": result.clip_fraction,
            "entropy": float((view.entropy * rollout.mask).sum() / rollout.mask.sum()),
        }

    def _check_finite(self, what: str, value: float, step: int, where: str) -> None:
        if math.isfinite(value):
            return
        file = state_file(self.folder, "ppo")
        state = (
            f"the state after iteration {step} is {file.name} in {self.folder}" if step else "nothing is trained yet"
        )
        raise TrainingError(
            f"L-PPO's {what} is not a number",
            found=f"{value} in iteration {step + 1}, {where}",
            expected=f"a finite {what}",
            remedy=f"{state}: lower the learning rate, or look at the reward",
        )

    def _join_gradients(self, step: int) -> None:
        """The sum of all processes' gradients in each of them, its norm at most 1."""
        torch = require("torch", "realign")
        leaves = list(self.trained.values())
        for leaf in leaves:
            if leaf.grad is None:
                # A decoder exit leaves the blocks after it without a gradient; another process may have one.
                leaf.grad = torch.zeros_like(leaf)
        if self.accelerator.num_processes > 1:
            flat = self.accelerator.reduce(torch.cat([leaf.grad.flatten() for leaf in leaves]), "sum")
            for leaf, part in zip(leaves, flat.split([leaf.numel() for leaf in leaves]), strict=True):
                leaf.grad.copy_(part.view_as(leaf))
        # A finite loss can have an infinite gradient; one such step would spoil every weight, and then the state.
        self._check_finite("gradient", float(torch.nn.utils.clip_grad_norm_(leaves, 1.0)), step, "all groups of a step")

    def _moments(self, parts: Sequence[tuple[Any, Any]]) -> tuple[float, float]:
        """Mean and variance of the iteration's advantages, over all processes."""
        sums = {"count": 0.0, "sum": 0.0, "square": 0.0}
        for value, mask in parts:
            sums["count"] += float(mask.sum())
            sums["sum"] += float((value * mask).double().sum())
            sums["square"] += float((value.double().square() * mask).sum())
        total = self._summed(sums)
        mean = total["sum"] / total["count"]
        # Rounding can leave a little less than nothing where all advantages are the same.
        return mean, max(0.0, total["square"] / total["count"] - mean**2)

    def _summed(self, values: Mapping[str, float]) -> dict[str, float]:
        torch = require("torch", "realign")
        numbers = torch.tensor(list(values.values()), dtype=torch.float64, device=self.accelerator.device)
        return dict(zip(values, self.accelerator.reduce(numbers, "sum").tolist(), strict=True))

    def _agreed(self, value: float) -> float:
        """The first process's value, in every process."""
        return float(self._gather([value])[0])

    def _gather(self, items: list[Any]) -> list[Any]:
        """All processes' items, the same list in every process."""
        if self.accelerator.num_processes == 1:
            return items
        gathered: list[Any] = require("accelerate.utils", "realign").gather_object(items)
        return gathered

    def _remember(self, facts: Sequence[_Facts]) -> None:
        self.vision.seen([(fact.vision, fact.failed) for fact in facts if fact.vision != TEXT_ALONE])
        self.decoder.seen([(fact.decoder, fact.failed) for fact in facts])
        self.requests.seen([(id, float(failed)) for fact in facts for id, failed in fact.failures.items()])

    def _save(self, optimizer: Any, step: int) -> None:
        place = {
            "decoder": json.dumps(self.decoder.failures),
            "minutes": repr(self.minutes),
            "recipe": self.limits.sha256,
            "requests": json.dumps(self.requests.failures),
            "step": str(step),
            "vision": json.dumps(self.vision.failures),
        }
        save_state(state_file(self.folder, "ppo"), self._kept(), optimizer, place)

    def _kept(self) -> dict[str, Any]:
        """What a state holds beside the optimizer: all that is trained, and its sums for the mean."""
        return {**self.trained, **{f"sum.{name}": tensor for name, tensor in self.sums.items()}}

    def _restore(self, optimizer: Any) -> int:
        place = restore_state(state_file(self.folder, "ppo"), self._kept(), optimizer, self.limits.sha256)
        for curriculum, name in ((self.vision, "vision"), (self.decoder, "decoder")):
            curriculum.failures = {int(exit): value for exit, value in json.loads(place.get(name, "{}")).items()}
        self.requests.failures = json.loads(place.get("requests", "{}"))
        self.minutes = float(place.get("minutes", 0))
        return int(place.get("step", 0))


@dataclass(frozen=True)
class _Facts:
    """What all processes need to know of a rollout."""

    number: int
    vision: int
    decoder: int
    failed: float
    failures: Mapping[str, bool]
    counts: Mapping[str, int]
    reward: float
    kl: float
    answers: int

    @classmethod
    def of(cls, number: int, rollout: Rollout) -> _Facts:
        kl = ((rollout.old - rollout.reference) * rollout.mask).sum() / rollout.mask.sum()
        group, rewards = rollout.group, rollout.rewards
        return cls(
            number,
            group.vision,
            group.decoder,
            rollout.failed,
            rollout.failures,
            rollout.counts,
            float(rewards.sum()),
            float(kl),
            len(rewards),
        )


def _row(facts: Sequence[_Facts], figures: Mapping[str, float], plan: PpoPlan) -> dict[str, str]:
    answers = sum(fact.answers for fact in facts)
    row = {
        "reward": f"{sum(fact.reward for fact in facts) / answers:.3f}",
        "kl": f"{sum(fact.kl for fact in facts) / len(facts):.4f}",
        **{name: f"{value:.4f}" for name, value in figures.items()},
        "incoherent": _share(facts, "incoherent", None),
        "text alone": _share([fact for fact in facts if fact.vision == TEXT_ALONE], "harmful refused", "harmful"),
    }
    row |= {name: _share(facts, name, of) for name, of in _SHARES.items()}
    for exit in plan.vision_exits:
        row[f"vision {exit}"] = _share([f for f in facts if f.vision == exit], "harmful refused", "harmful")
    for exit in plan.decoder_exits:
        there = [fact for fact in facts if fact.decoder == exit]
        row[f"decoder {exit}"] = _share(there, "harmful refused", "harmful")
        row[f"decoder {exit} benign"] = _share(there, "benign answered", "benign")
    return row


def _share(facts: Sequence[_Facts], name: str, of: str | None) -> str:
    """Empty where nothing of the kind was asked."""
    total = sum(fact.answers if of is None else fact.counts[of] for fact in facts)
    return f"{sum(fact.counts[name] for fact in facts) / total:.3f}" if total else ""
