"""A training that is killed goes on from its last state and ends where it would have ended."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from jetson_runtime.errors import CheckpointError, ConfigError, StorageError, TrainingError
from realignment.recipe import PROJECTOR_RECIPE, Recipe, Steps, learning_rate, read_recipe

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from realignment.training import CURVE, Training, save_state, state_file  # noqa: E402

PLAN = Steps(steps=12, pictures=1, image_tokens=(1,), learning_rate=0.1, warmup_steps=3, measure_every=5)


@pytest.fixture
def recipe() -> Recipe:
    return dataclasses.replace(read_recipe(PROJECTOR_RECIPE), save_minutes=0.0, max_minutes=60.0)


class Killed(BaseException):
    """Stands for a kill: nothing of ours catches it."""


class Toy:
    """A stage with noise drawn from the step, killed when it is asked for step `killed_at`."""

    name, plan = "toy", PLAN

    def __init__(self, killed_at: int | None = None) -> None:
        self.weight, self.killed_at = torch.ones(3, 2, requires_grad=True), killed_at
        self.asked: list[int] = []

    @property
    def leaves(self) -> dict[str, Any]:
        return {"weight": self.weight}

    def loss(self, step: int) -> Any:
        if step == self.killed_at:
            raise Killed
        self.asked.append(step)
        target = torch.randn(3, 2, generator=torch.Generator().manual_seed(step))
        return (self.weight - target).pow(2).mean()

    def held_out(self) -> dict[str, float]:
        return {"colour": 0.5}


def training(recipe: Recipe, folder: Path) -> Training:
    return Training(recipe, folder, ("colour",), _ticks())


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / CURVE).open(newline="", encoding="utf-8") as file:
        return [{k: v for k, v in row.items() if k != "minutes"} for row in csv.DictReader(file)]


def test_a_killed_training_ends_where_an_unbroken_one_does(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "unbroken").mkdir()
    (tmp_path / "broken").mkdir()
    unbroken = Toy()
    assert training(recipe, tmp_path / "unbroken").run(unbroken) == 12
    with pytest.raises(Killed):
        training(recipe, tmp_path / "broken").run(Toy(killed_at=7))
    resumed = Toy()
    last = training(recipe, tmp_path / "broken")
    assert last.run(resumed) == 12
    assert resumed.asked == list(range(7, 12))
    assert torch.equal(resumed.weight, unbroken.weight)
    assert rows(tmp_path / "broken") == rows(tmp_path / "unbroken")
    assert last.minutes == pytest.approx(12 / 60)


def test_rows_after_the_last_saved_state_are_written_once(recipe: Recipe, tmp_path: Path) -> None:
    seldom = dataclasses.replace(recipe, save_minutes=4 / 60)
    with pytest.raises(Killed):
        training(seldom, tmp_path).run(Toy(killed_at=8))
    assert [row["step"] for row in rows(tmp_path)] == [str(step) for step in range(1, 9)]
    resumed = Toy()
    training(seldom, tmp_path).run(resumed)
    assert resumed.asked == list(range(5, 12))
    assert [row["step"] for row in rows(tmp_path)] == [str(step) for step in range(1, 13)]


def test_a_finished_stage_is_not_trained_again(recipe: Recipe, tmp_path: Path) -> None:
    first = Toy()
    training(recipe, tmp_path).run(first)
    again = Toy(killed_at=0)
    assert training(recipe, tmp_path).run(again) == 12
    assert torch.equal(again.weight, first.weight)


def test_the_time_limit_holds_over_restarts(recipe: Recipe, tmp_path: Path) -> None:
    short = dataclasses.replace(recipe, max_minutes=5 / 60)
    assert training(short, tmp_path).run(Toy()) == 5
    assert training(short, tmp_path).run(Toy()) == 5


def test_a_state_of_another_recipe_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    training(recipe, tmp_path).run(Toy())
    with pytest.raises(CheckpointError, match="belongs to another recipe"):
        training(dataclasses.replace(recipe, sha256="0" * 64), tmp_path).run(Toy())


@pytest.mark.parametrize("spoilt", ["loss", "gradient"])
def test_what_is_not_a_number_stops_at_the_last_good_state(recipe: Recipe, tmp_path: Path, spoilt: str) -> None:
    class Spoilt(Toy):
        def loss(self, step: int) -> Any:
            # The root's slope at 0 has no end, though its value is fine.
            wrong = self.weight.sum() * float("nan") if spoilt == "loss" else (self.weight * 0).sum().sqrt()
            return super().loss(step) + (wrong if step == 6 else 0)

    seldom, good = dataclasses.replace(recipe, save_minutes=60.0), Toy(killed_at=6)
    (tmp_path / "good").mkdir()
    with pytest.raises(Killed):
        training(recipe, tmp_path / "good").run(good)
    with pytest.raises(TrainingError, match=r"in step 7\n(.|\n)*state after step 6 is .*toy.state.safetensors"):
        training(seldom, tmp_path).run(Spoilt())
    resumed = Toy(killed_at=6)
    with pytest.raises(Killed):
        training(recipe, tmp_path).run(resumed)
    assert resumed.asked == []
    assert torch.equal(resumed.weight, good.weight)


def test_a_full_disk_is_told_and_the_state_before_stays(recipe: Recipe, tmp_path: Path, full_disk: Any) -> None:
    with pytest.raises(Killed):
        training(recipe, tmp_path).run(Toy(killed_at=3))
    before = state_file(tmp_path, "toy").read_bytes()
    with full_disk(), pytest.raises(StorageError, match=r"toy\.state\.safetensors can't be written"):
        save_state(state_file(tmp_path, "toy"), {"weight": torch.ones(4000)}, torch.optim.AdamW([torch.ones(1)]), {})
    assert state_file(tmp_path, "toy").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {CURVE, "toy.state.safetensors"}


def test_a_damaged_state_is_told(recipe: Recipe, tmp_path: Path) -> None:
    state_file(tmp_path, "toy").write_bytes(b"nothing of ours")
    with pytest.raises(CheckpointError, match="is damaged"):
        training(recipe, tmp_path).run(Toy())


def test_held_out_pictures_are_asked_about_when_due(recipe: Recipe, tmp_path: Path) -> None:
    training(recipe, tmp_path).run(Toy())
    assert [row["step"] for row in rows(tmp_path) if row["held-out colour"]] == ["5", "10", "12"]


def test_the_rate_warms_up_and_comes_down_to_a_twentieth() -> None:
    plan = dataclasses.replace(PLAN, steps=1000, warmup_steps=10)
    rates = [learning_rate(plan, step) for step in range(plan.steps)]
    assert rates[0] == pytest.approx(0.1 * plan.learning_rate, rel=1e-3)
    assert max(rates) == pytest.approx(plan.learning_rate, rel=1e-2)
    assert rates[-1] == pytest.approx(plan.learning_rate / 20, rel=1e-2)
    assert rates[10:] == sorted(rates[10:], reverse=True)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("seed",), "one", "seed is wrong"),
        (("max_minutes",), -1, "max_minutes is wrong"),
        (("words",), [1], "words is not a mapping"),
        (("tuning", "image_tokens"), [300], "image_tokens is wrong"),
        (("tuning", "image_tokens"), [], "image_tokens is wrong"),
        (("tuning", "pictures"), 0, "pictures is wrong"),
        (("regression", "questions"), 3, "missing or unknown entries"),
        (("typo",), 3, "missing or unknown entries"),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, tuple) else None,
)
def test_a_wrong_recipe_is_told(place: tuple[str, ...], value: object, message: str, tmp_path: Path) -> None:
    recipe = yaml.safe_load(PROJECTOR_RECIPE.read_text(encoding="utf-8"))
    inner = recipe
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        read_recipe(tmp_path / "recipe.yaml")


def test_comments_do_not_make_another_recipe(tmp_path: Path) -> None:
    plain = yaml.safe_dump(yaml.safe_load(PROJECTOR_RECIPE.read_text(encoding="utf-8")))
    (tmp_path / "recipe.yaml").write_text(plain, encoding="utf-8")
    assert read_recipe(tmp_path / "recipe.yaml") == read_recipe(PROJECTOR_RECIPE)


def _ticks() -> Any:
    """A clock that moves one second each time it is read."""
    seconds = iter(range(10**6))
    return lambda: float(next(seconds))
