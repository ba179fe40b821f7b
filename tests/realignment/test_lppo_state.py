"""L-PPO killed, stopped and resumed: it ends where an unbroken run does, or says where its last good state is."""

from __future__ import annotations

import dataclasses
import json
import resource
import signal
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")
pytest.importorskip("accelerate")

from test_lppo_rollout import PLAN, folder, one_thread  # noqa: E402
from test_lppo_training import RECIPE, loop, rows  # noqa: E402

from jetson_runtime.errors import CheckpointError, ConfigError, StorageError, TrainingError  # noqa: E402
from realignment.lppo import run  # noqa: E402
from realignment.lppo.run import Lppo  # noqa: E402
from realignment.training import state_file  # noqa: E402

__all__ = ["folder", "loop", "one_thread"]


class Killed(BaseException):
    """Stands for a kill: nothing of ours catches it."""


def same(one: Lppo, other: Any) -> bool:
    return all(torch.equal(tensor, other.trained[name]) for name, tensor in one.trained.items())


@pytest.fixture(scope="module")
def unbroken() -> dict[str, Any]:
    """The training that is never killed, computed by the first test that asks."""
    return {}


@pytest.mark.parametrize(
    ("place", "call"),
    [
        ("answer_groups", 2),
        ("answer_groups", 4),
        ("evaluate", 3),
        ("evaluate", 11),
        ("save_state", 1),
        ("save_state", 3),
    ],
)
def test_a_killed_training_ends_where_an_unbroken_one_does(
    loop: Callable[..., Lppo], unbroken: dict[str, Any], place: str, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not unbroken:
        whole = loop("unbroken")
        whole.run()
        unbroken.update(training=whole, rows=rows(whole))
    count, real = 0, getattr(run, place)

    def killed(*values: Any, **named: Any) -> Any:
        nonlocal count
        count += 1
        if count == call:
            raise Killed
        return real(*values, **named)

    with monkeypatch.context() as patch:
        patch.setattr(run, place, killed)
        with pytest.raises(Killed):
            loop().run()
    resumed = loop()
    assert resumed.run() == 4
    assert rows(resumed) == unbroken["rows"]
    assert same(resumed, unbroken["training"])
    assert resumed.vision.failures == unbroken["training"].vision.failures
    assert resumed.decoder.failures == unbroken["training"].decoder.failures
    assert resumed.run() == 4


def test_what_comes_out_is_the_mean_of_the_last_adapters_killed_or_not(
    loop: Callable[..., Lppo], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, after = dataclasses.replace(PLAN, mean_steps=3), list[dict[str, Any]]()
    real = Lppo.iteration

    def watched(training: Lppo, step: int, optimizer: Any) -> dict[str, str]:
        row = real(training, step, optimizer)
        after.append({name: tensor.detach().clone() for name, tensor in training.trained.items()})
        if len(after) == 7:
            raise Killed
        return row

    monkeypatch.setattr(Lppo, "iteration", watched)
    whole = loop("whole", plan)
    whole.run()
    with pytest.raises(Killed):
        loop("killed", plan).run()
    resumed = loop("killed", plan)
    resumed.run()
    for name, tensor in whole.trained.items():
        mean = sum(each[name] for each in after[1:4]) / 3
        assert torch.allclose(tensor, mean, atol=1e-7)
    assert not same(whole, SimpleNamespace(trained=after[3]))
    assert same(resumed, whole)


def test_the_time_limit_ends_a_training_and_holds_over_restarts(loop: Callable[..., Lppo]) -> None:
    training = loop()
    training.limits = SimpleNamespace(max_minutes=1e-9, save_minutes=0.0, sha256=RECIPE)
    assert training.run() == 1
    assert training.run() == 1


def test_a_state_of_another_recipe_is_refused(loop: Callable[..., Lppo]) -> None:
    loop(plan=dataclasses.replace(PLAN, steps=1)).run()
    with pytest.raises(CheckpointError, match="belongs to another recipe"):
        loop(recipe="1" * 64).run()


class Spoiled:
    """A reward that is the toy's until it is asked for the answers of `call`."""

    name = "spoiled"

    def __init__(self, call: int, value: float) -> None:
        self.left, self.value = call, value

    def __call__(self, asked: Any, texts: Any, finished: Any) -> list[float]:
        self.left -= 1
        return [self.value if self.left < 0 else len(text) / 10 for text in texts]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_at_the_last_good_state(loop: Callable[..., Lppo], value: float) -> None:
    training = loop(reward=Spoiled(2 * PLAN.groups, value))
    with pytest.raises(TrainingError, match="loss is not a number") as caught:
        training.run()
    assert "in iteration 3, vision exit" in str(caught.value)
    assert "the state after iteration 2 is ppo.state.safetensors" in str(caught.value)
    good = loop("good", dataclasses.replace(PLAN, steps=4), reward=Spoiled(10**6, value))
    good.run()
    resumed = loop(reward=Spoiled(10**6, value))
    resumed.run()
    assert same(resumed, good)


def test_the_first_iteration_has_no_state_to_name(loop: Callable[..., Lppo]) -> None:
    training = loop(reward=Spoiled(0, float("nan")))
    with pytest.raises(TrainingError, match="nothing is trained yet"):
        training.run()
    assert not state_file(training.folder, "ppo").exists()


def test_an_infinite_gradient_spoils_neither_weights_nor_state(
    loop: Callable[..., Lppo], monkeypatch: pytest.MonkeyPatch
) -> None:
    training, calls, real = loop(), iter(range(10**6)), run.evaluate

    def steep(*values: Any) -> Any:
        view = real(*values)
        # Second iteration: finite itself, with a derivative that is not.
        slope = (view.values - view.values.detach()).abs().sqrt()
        return dataclasses.replace(view, values=slope) if next(calls) >= 8 else view

    monkeypatch.setattr(run, "evaluate", steep)
    with pytest.raises(TrainingError, match="gradient is not a number") as caught:
        training.run()
    assert "in iteration 2" in str(caught.value)
    assert all(tensor.isfinite().all() for tensor in training.trained.values())
    assert len(rows(training)) == 1


@pytest.fixture
def small_files() -> Iterator[Callable[[int], None]]:
    """`small_files(n)`: no file may grow beyond n bytes, as on a full disk."""
    before, action = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, action)


def test_a_full_disk_leaves_the_state_before(
    loop: Callable[..., Lppo], small_files: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop(plan=dataclasses.replace(PLAN, steps=4)).run()
    # The same training, killed after its second iteration; the third one finds the disk full.
    training = loop("full")
    file, real = state_file(training.folder, "ppo"), run.save_state

    def then_full(*values: Any) -> None:
        real(*values)
        if json.loads(values[3]["step"]) == 2:
            small_files(20_000)

    with monkeypatch.context() as patch:
        patch.setattr(run, "save_state", then_full)
        with pytest.raises(StorageError, match=r"ppo\.state\.safetensors can't be written") as caught:
            training.run()
    assert "free some space" in str(caught.value)
    small_files(resource.RLIM_INFINITY)
    assert file.is_file()
    whole, resumed = loop(), loop("full")
    whole.run()
    resumed.run()
    assert same(whole, resumed)
    assert rows(resumed) == rows(whole)


@pytest.mark.parametrize(("groups", "per_step", "processes"), [(5, 2, 1), (4, 4, 3), (4, 3, 2)])
def test_groups_that_can_t_be_shared_evenly(
    loop: Callable[..., Lppo], groups: int, per_step: int, processes: int
) -> None:
    training = loop()
    plan = dataclasses.replace(PLAN, groups=groups, groups_per_step=per_step)
    several = SimpleNamespace(num_processes=processes)
    with pytest.raises(ConfigError, match="can't be shared evenly") as caught:
        dataclasses.replace(training, plan=plan, accelerator=several)
    assert f"{groups} groups, {per_step} per step, {processes} processes" in str(caught.value)
