"""Steps through a training stage: optimizer, learning rate, saved state, curve, time limit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from jetson_runtime.console import require
from jetson_runtime.errors import CheckpointError, TrainingError
from realignment.curve import Curve
from realignment.recipe import learning_rate
from realignment.stages import Stage
from realignment.tensors import save_tensors

__all__ = ["CURVE", "Limits", "Training", "restore_state", "save_state", "state_file"]

CURVE = "curve.csv"
_COLUMNS = ("stage", "step", "minutes", "learning_rate", "loss")


class Limits(Protocol):
    """What a training asks of a recipe: how long, how often to save, and whose state it is."""

    @property
    def max_minutes(self) -> float:
        """A training that reaches it keeps what it has and says so."""

    @property
    def save_minutes(self) -> float:
        """The state is written this often."""

    @property
    def sha256(self) -> str:
        """The digest of the recipe: a state belongs to one."""


def state_file(folder: Path, stage: str) -> Path:
    """Where the state of `stage` lies."""
    return folder / f"{stage}.state.safetensors"


@dataclass
class Training:
    """Runs stages after one another in `folder`; `minutes` counts over all of them and over restarts.

    `measures` names what stages measure on held-out data.
    """

    recipe: Limits
    folder: Path
    measures: Sequence[str]
    clock: Callable[[], float] = time.monotonic
    minutes: float = 0.0

    def run(self, stage: Stage) -> int:
        """Train `stage` from its saved state, if there is one, to its last step or to the time limit.

        Returns the steps done.

        Raises:
            CheckpointError: the saved state belongs to another recipe.
            TrainingError: the loss is not a number; the state before it is saved.
            StorageError: the state can't be written.
        """
        torch = require("torch", "realign")
        leaves = stage.leaves
        optimizer = torch.optim.AdamW(
            list(leaves.values()), stage.plan.learning_rate, betas=(0.9, 0.98), weight_decay=0
        )
        curve = Curve(self.folder / CURVE, (*_COLUMNS, *(f"held-out {name}" for name in self.measures)))
        step = self._restore(stage, optimizer)
        curve.cut(stage.name, step)
        mark = saved = self.clock()
        with tqdm(total=stage.plan.steps, initial=step, desc=stage.name, disable=None) as bar:
            while step < stage.plan.steps and self.minutes < self.recipe.max_minutes:
                rate = learning_rate(stage.plan, step)
                loss = self._step(stage, optimizer, rate, step)
                step += 1
                due = step == stage.plan.steps or step % stage.plan.measure_every == 0
                shares = {
                    f"held-out {name}": f"{value:.3f}" for name, value in (stage.held_out() if due else {}).items()
                }
                now = self.clock()
                self.minutes, mark = self.minutes + (now - mark) / 60, now
                place = {"stage": stage.name, "step": str(step), "minutes": f"{self.minutes:.2f}"}
                curve.add({**place, "learning_rate": f"{rate:.2e}", "loss": f"{loss:.4f}", **shares})
                if now - saved > 60 * self.recipe.save_minutes:
                    self._save(stage, optimizer, step)
                    saved = now
                bar.update()
                bar.set_postfix(loss=f"{loss:.3f}")
        self._save(stage, optimizer, step)
        return step

    def _step(self, stage: Stage, optimizer: Any, rate: float, step: int) -> float:
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = stage.loss(step)
        value = float(loss.detach())
        wrong = None if math.isfinite(value) else f"a loss of {value}"
        if wrong is None:
            optimizer.zero_grad()
            loss.backward()
            # A finite loss can have a gradient that is not, and a step along it would spoil the state.
            wrong = next((f"the gradient of {n}" for n, leaf in stage.leaves.items() if not _finite(leaf.grad)), None)
        if wrong:
            self._save(stage, optimizer, step)
            raise TrainingError(
                f"the loss of stage '{stage.name}' is not a number",
                found=f"{wrong} in step {step + 1}",
                expected="a finite loss and gradient",
                remedy=f"the state after step {step} is {state_file(self.folder, stage.name)}: start again with a "
                "lower learning rate, or look at the data",
            )
        optimizer.step()
        return value

    def _save(self, stage: Stage, optimizer: Any, step: int) -> None:
        place = {"minutes": repr(self.minutes), "recipe": self.recipe.sha256, "step": str(step)}
        save_state(state_file(self.folder, stage.name), stage.leaves, optimizer, place)

    def _restore(self, stage: Stage, optimizer: Any) -> int:
        place = restore_state(state_file(self.folder, stage.name), stage.leaves, optimizer, self.recipe.sha256)
        self.minutes = float(place.get("minutes", self.minutes))
        return int(place.get("step", 0))


def _finite(gradient: Any) -> bool:
    return gradient is None or bool(gradient.isfinite().all())


def save_state(file: Path, leaves: Mapping[str, Any], optimizer: Any, place: Mapping[str, str]) -> None:
    """Write the trained tensors, the optimizer's moments and `place` (which names its recipe), whole or not at all.

    Raises:
        StorageError: it can't be written; what was there before is still there.
    """
    torch = require("torch", "realign")
    tensors = {f"trained.{name}": leaf.detach() for name, leaf in leaves.items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in moments.items()}
    save_tensors(file, tensors, place)


def restore_state(file: Path, leaves: Mapping[str, Any], optimizer: Any, recipe_sha256: str) -> dict[str, str]:
    """Put a saved state back; returns its place, empty if there is none.

    Raises:
        CheckpointError: the state belongs to another recipe, or is damaged.
    """
    if not file.is_file():
        return {}
    torch = require("torch", "realign")
    safetensors = require("safetensors", "realign")
    try:
        with safetensors.safe_open(str(file), "pt") as saved:
            place: dict[str, str] = saved.metadata()
            tensors = {name: saved.get_tensor(name) for name in saved.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise CheckpointError(
            f"{file} is damaged", found=str(error), expected="a saved state", remedy="train afresh, in another --out"
        ) from None
    if place["recipe"] != recipe_sha256:
        raise CheckpointError(
            f"{file} belongs to another recipe, checkpoint or reward",
            found=f"digest {place['recipe']}",
            expected=f"digest {recipe_sha256}",
            remedy="use those that it was started with, or another --out",
        )
    with torch.no_grad():
        for name, leaf in leaves.items():
            leaf.copy_(tensors[f"trained.{name}"])
    moments: dict[int, dict[str, Any]] = {}
    for name in tensors:
        if name.startswith("optimizer."):
            _, index, key = name.split(".")
            moments.setdefault(int(index), {})[key] = tensors[name]
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    return place
