"""Steps through a training stage: optimizer, learning rate, saved state, curve, time limit."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from jetson_runtime.console import require
from jetson_runtime.errors import CheckpointError
from jetson_runtime.files import storage_errors
from realignment.curve import Curve
from realignment.easy_vqa import KINDS
from realignment.recipe import Recipe, learning_rate
from realignment.stages import Stage

__all__ = ["CURVE", "Training", "state_file"]

CURVE = "curve.csv"
_COLUMNS = ("stage", "step", "minutes", "learning_rate", "loss", *(f"held-out {kind}" for kind in KINDS))


def state_file(folder: Path, stage: str) -> Path:
    """Where the state of `stage` lies."""
    return folder / f"{stage}.state.safetensors"


@dataclass
class Training:
    """Runs stages after one another in `folder`; `minutes` counts over all of them and over restarts."""

    recipe: Recipe
    folder: Path
    clock: Callable[[], float] = time.monotonic
    minutes: float = 0.0

    def run(self, stage: Stage) -> int:
        """Train `stage` from its saved state, if there is one, to its last step or to the time limit.

        Returns the steps done.

        Raises:
            CheckpointError: the saved state belongs to another recipe.
            StorageError: the state can't be written.
        """
        torch = require("torch", "realign")
        leaves = stage.leaves
        optimizer = torch.optim.AdamW(
            list(leaves.values()), stage.plan.learning_rate, betas=(0.9, 0.98), weight_decay=0
        )
        curve = Curve(self.folder / CURVE, _COLUMNS)
        step = self._restore(stage, optimizer)
        curve.cut(stage.name, step)
        mark = saved = self.clock()
        with tqdm(total=stage.plan.steps, initial=step, desc=stage.name, disable=None) as bar:
            while step < stage.plan.steps and self.minutes < self.recipe.max_minutes:
                rate = learning_rate(stage.plan, step)
                loss = _step(stage, optimizer, rate, step)
                step += 1
                due = step == stage.plan.steps or step % stage.plan.measure_every == 0
                shares = {
                    f"held-out {kind}": f"{share:.3f}" for kind, share in (stage.accuracy() if due else {}).items()
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

    def _save(self, stage: Stage, optimizer: Any, step: int) -> None:
        """Write the trained tensors, the optimizer's moments and the place reached, whole or not at all."""
        torch, save_file = require("torch", "realign"), require("safetensors.torch", "realign").save_file
        tensors = {f"trained.{name}": leaf.detach() for name, leaf in stage.leaves.items()}
        for index, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in moments.items()}
        place = {"minutes": repr(self.minutes), "recipe": self.recipe.sha256, "step": str(step)}
        file = state_file(self.folder, stage.name)
        partial = file.with_name(f".{file.name}.partial")
        with storage_errors(file):
            save_file({name: value.contiguous() for name, value in tensors.items()}, str(partial), metadata=place)
            partial.replace(file)

    def _restore(self, stage: Stage, optimizer: Any) -> int:
        file = state_file(self.folder, stage.name)
        if not file.is_file():
            return 0
        torch = require("torch", "realign")
        with require("safetensors", "realign").safe_open(str(file), "pt") as saved:
            place = saved.metadata()
            tensors = {name: saved.get_tensor(name) for name in saved.keys()}  # noqa: SIM118
        if place["recipe"] != self.recipe.sha256:
            raise CheckpointError(
                f"{file} belongs to another recipe",
                found=f"recipe {place['recipe']}",
                expected=f"recipe {self.recipe.sha256}",
                remedy="use the recipe it was started with, or another --out",
            )
        with torch.no_grad():
            for name, leaf in stage.leaves.items():
                leaf.copy_(tensors[f"trained.{name}"])
        moments: dict[int, dict[str, Any]] = {}
        for name in tensors:
            if name.startswith("optimizer."):
                _, index, key = name.split(".")
                moments.setdefault(int(index), {})[key] = tensors[name]
        optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
        self.minutes = float(place["minutes"])
        return int(place["step"])


def _step(stage: Stage, optimizer: Any, rate: float, step: int) -> float:
    for group in optimizer.param_groups:
        group["lr"] = rate
    loss = stage.loss(step)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach())
