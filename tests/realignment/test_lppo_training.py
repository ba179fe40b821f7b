"""L-PPO's loop on a LLaVA-1.5-shaped checkpoint: what it draws, what a step follows, and that it learns."""

from __future__ import annotations

import csv
import dataclasses
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")
accelerate = pytest.importorskip("accelerate")

from test_lppo_rollout import PLAN, folder, one_thread, small_world  # noqa: E402

from realignment.lppo import run  # noqa: E402
from realignment.lppo.curriculum import TEXT_ALONE, Curriculum  # noqa: E402
from realignment.lppo.plan import PpoPlan  # noqa: E402
from realignment.lppo.run import Lppo, columns  # noqa: E402
from realignment.training import CURVE  # noqa: E402

__all__ = ["folder", "one_thread"]

RECIPE = "0" * 64
SHARES = st.floats(0, 1)


@pytest.fixture
def loop(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Lppo]:
    """`loop(place)` is a new training in the folder of that name, or the next part of the one that lies there."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")

    def make(place: str = "out", plan: PpoPlan = PLAN, recipe: str = RECIPE, **changes: Any) -> Lppo:
        world, leaves = small_world(folder, spoken=False)
        (tmp_path / place).mkdir(exist_ok=True)
        limits = SimpleNamespace(max_minutes=60.0, save_minutes=0.0, sha256=recipe)
        world = dataclasses.replace(world, **changes)
        return Lppo(world, plan, limits, leaves, 7, tmp_path / place, accelerate.Accelerator())

    return make


def rows(training: Lppo) -> list[dict[str, str]]:
    with (training.folder / CURVE).open(newline="", encoding="utf-8") as file:
        return [{name: value for name, value in row.items() if name != "minutes"} for row in csv.DictReader(file)]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=12, unique=True),
    SHARES,
    SHARES,
    st.lists(st.tuples(st.integers(0, 11), SHARES), max_size=30),
)
def test_exits_that_fail_most_are_drawn_most_and_none_is_forgotten(
    exits: list[int], floor: float, memory: float, seen: list[tuple[int, float]]
) -> None:
    curriculum = Curriculum[int](floor, memory)
    curriculum.seen([(exits[index % len(exits)], failed) for index, failed in seen])
    odds = curriculum.probabilities(exits)
    assert list(odds) == exits
    assert sum(odds.values()) == pytest.approx(1)
    assert min(odds.values()) >= floor / len(exits) - 1e-12
    failing = {exit: curriculum.failures.get(exit, 1.0) for exit in exits}
    assert all(0 <= value <= 1 for value in failing.values())
    worst, best = max(failing, key=failing.__getitem__), min(failing, key=failing.__getitem__)
    assert odds[worst] >= odds[best] - 1e-12
    if failing[worst] > failing[best] + 1e-6 and floor < 0.99:
        assert odds[worst] > odds[best]


def test_the_curriculum_by_hand() -> None:
    exits, curriculum = (3, 6), Curriculum[int](0.5, 0.75)
    assert curriculum.probabilities(exits) == {3: 0.5, 6: 0.5}
    curriculum.seen([(3, 0.2), (6, 0.6)])
    curriculum.seen([(3, 0.6)])
    # 0.75 * 0.2 + 0.25 * 0.6 = 0.3, against 0.6: a third of the half that is not the floor's.
    assert curriculum.failures == pytest.approx({3: 0.3, 6: 0.6})
    assert curriculum.probabilities(exits) == pytest.approx({3: 0.25 + 0.5 / 3, 6: 0.25 + 1 / 3})
    curriculum.failures = {3: 0.0, 6: 0.0}
    assert curriculum.probabilities(exits) == {3: 0.5, 6: 0.5}
    assert curriculum.sample(exits, 2, random.Random(0)) in ([3, 6], [6, 3])


def test_a_run_raises_the_reward_and_the_penalty_holds_it_near_the_reference(loop: Callable[..., Lppo]) -> None:
    plan = dataclasses.replace(PLAN, steps=24, learning_rate=0.02, kl_weight=0.0, anchor_weight=0.0)
    free, held = loop("free", plan), loop("held", dataclasses.replace(plan, kl_weight=0.3))
    assert free.run() == held.run() == 24
    curve = rows(free)
    rewards = [float(row["reward"]) for row in curve]
    assert sum(rewards[:3]) / 3 < 0.2
    assert sum(rewards[-3:]) / 3 > 0.6
    assert float(curve[-1]["entropy"]) < 0.5 * float(curve[0]["entropy"])
    assert any(float(row["clip_fraction"]) > 0 for row in curve)
    assert list(curve[0]) == [name for name in columns(plan) if name != "minutes"]
    divergence = [float(row["kl"]) for row in curve]
    assert divergence[0] == 0
    assert float(rows(held)[-1]["kl"]) < 0.25 * divergence[-1]


class Watched(torch.optim.SGD):
    """Keeps the gradients of every step, and changes nothing."""

    def __init__(self, tensors: dict[str, Any]) -> None:
        super().__init__([{"params": list(tensors.values()), "scale": 1.0}], lr=0.0)
        self.tensors, self.steps = tensors, list[dict[str, Any]]()

    def step(self, closure: Any = None) -> None:
        self.steps.append({name: tensor.grad.clone() for name, tensor in self.tensors.items()})


def test_a_step_follows_the_mean_of_its_groups_losses(
    loop: Callable[..., Lppo], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written out for one answer after another: the ratio is 1, so that each token's slope is minus its advantage."""
    plan = dataclasses.replace(PLAN, groups=2, epochs=1, kl_weight=0.4, gamma=0.9, gae_decay=0.8, max_new_tokens=4)
    plan = dataclasses.replace(plan, decoder_exits=(2, 3, 4), harmful_shares=(0.5,) * 3)
    training = loop(plan=plan)
    for name, tensor in training.leaves.items():
        if "lora_B" in name:
            tensor.data = 0.3 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(len(name)))
    torch.nn.init.constant_(training.world.value_head.weight, 0.1)
    watched, norms, real = Watched(training.trained), list[float](), torch.nn.utils.clip_grad_norm_
    # The whole gradient, not only its direction.
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda leaves, most: norms.append(most) or real(leaves, 1e9))
    training.iteration(0, watched)
    assert norms == [1.0]
    [seen] = watched.steps
    # Drawn again as it was then: the curricula know more by now.
    for curriculum in (training.vision, training.decoder, training.requests):
        curriculum.failures = {}
    losses, everything, anchored = [], [], []
    for rollout in training._rollouts(0).values():
        shown = run.shown_of(training.world, rollout.group)
        view = run.evaluate(training.world, rollout.group, rollout.packed, shown, rollout.mask)
        logprobs, values = view.logprobs, view.values
        # A group's mean over its anchors' tokens: everything that the reference says, against everything said now.
        pairs = zip(rollout.anchored, view.anchors, strict=True)
        held = sum(torch.nn.functional.kl_div(now, told, log_target=True, reduction="sum") for told, now in pairs)
        anchored.append(plan.anchor_weight * held / max(1, len(view.anchors)) / 2)
        for row, length in enumerate(rollout.mask.sum(1).long().tolist()):
            value = [*values[row, :length].tolist(), 0.0]
            gain = [-0.4 * float(rollout.old[row, t] - rollout.reference[row, t]) for t in range(length)]
            gain[-1] += float(rollout.rewards[row])
            delta = [gain[t] + 0.9 * value[t + 1] - value[t] for t in range(length)]
            for t in range(length):
                advantage = sum((0.9 * 0.8) ** (later - t) * delta[later] for later in range(t, length))
                everything.append(advantage)
                losses.append((rollout.group, logprobs[row, t], advantage, values[row, t], advantage + value[t]))
    mean = sum(everything) / len(everything)
    spread = (sum((advantage - mean) ** 2 for advantage in everything) / len(everything)) ** 0.5
    total = 0.0
    for group in training.groups(0):
        own = [
            -logprob * (advantage - mean) / spread + plan.value_weight * (value - wanted) ** 2
            for of, logprob, advantage, value, wanted in losses
            if of is group or of == group
        ]
        total = total + sum(own) / len(own) / 2
    assert any(float(part.detach()) > 0 for part in anchored if torch.is_tensor(part))
    total = total + sum(anchored)
    slopes = torch.autograd.grad(total, list(training.trained.values()), allow_unused=True)
    slopes = [torch.zeros_like(t) if s is None else s for s, t in zip(slopes, training.trained.values(), strict=True)]
    for (name, gradient), slope in zip(seen.items(), slopes, strict=True):
        assert torch.allclose(gradient, slope, rtol=1e-3, atol=1e-4), name


def drawn_exits(training: Lppo, steps: int) -> tuple[set[int], set[int]]:
    groups = [group for step in range(steps) for group in training.groups(step)]
    return {group.vision for group in groups}, {group.decoder for group in groups}


def test_one_run_draws_all_exits_or_the_one_that_the_plan_names(loop: Callable[..., Lppo]) -> None:
    unified = loop()
    assert drawn_exits(unified, 30) == ({TEXT_ALONE, 1, 2, 3}, {1, 2, 3, 4})
    assert unified.groups(5) == unified.groups(5) != unified.groups(6)
    unified.vision.failures = {1: 0.0, 2: 1.0, 3: 0.0}
    drawn = [group.vision for step in range(60) for group in unified.groups(step)]
    assert drawn.count(2) > 2 * max(drawn.count(1), drawn.count(3))
    paper = dataclasses.replace(
        PLAN, vision_exits=(2,), decoder_exits=(4,), harmful_shares=(0.5,), text_share=0.0, steps=2
    )
    single = loop("single", paper)
    assert drawn_exits(single, 30) == ({2}, {4})
    single.run()
    assert (set(single.vision.failures), set(single.decoder.failures)) == ({2}, {4})


@pytest.mark.parametrize("value", [12.3456789, -0.001, 1e4])
def test_equal_advantages_are_no_reason_to_stop(loop: Callable[..., Lppo], value: float) -> None:
    """Their variance is 0, give or take a rounding, and never below: its root would not be a number."""
    parts = [(torch.full((6, 7), value), torch.ones(6, 7)), (torch.full((3, 5), value), torch.ones(3, 5))]
    mean, variance = loop()._moments(parts)
    assert mean == pytest.approx(value)
    assert 0 <= variance < 1e-6


def test_moments_are_those_of_all_tokens(loop: Callable[..., Lppo]) -> None:
    one, other = torch.tensor([[1.0, 2.0, 9.0]]), torch.tensor([[6.0]])
    mean, variance = loop()._moments([(one, torch.tensor([[1.0, 1.0, 0.0]])), (other, torch.ones(1, 1))])
    assert (mean, variance) == (pytest.approx(3), pytest.approx((4 + 1 + 9) / 3))
