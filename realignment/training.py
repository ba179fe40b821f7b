"""Trains the projector on visual questions; the image encoder and the decoder are frozen."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from jetson_runtime.console import require
from jetson_runtime.errors import CheckpointError
from jetson_runtime.files import storage_errors
from realignment.answers import correct, decoder_states
from realignment.assemble import IMAGE_TOKENS, PROJECTOR_SHAPES
from realignment.curve import Curve
from realignment.easy_vqa import KINDS, Question, sample_per_image
from realignment.packing import IGNORED, Packed, Prompts, pack, pick_image_tokens
from realignment.recipe import Recipe

__all__ = ["STATE", "Progress", "Trainer", "initial_projector", "learning_rate"]

STATE = "state.safetensors"
_FIELDS = ("step", "minutes", "image_tokens", "learning_rate", "loss", *(f"held_out {kind}" for kind in KINDS))


def initial_projector(seed: int, scale: float, feature_rms: float) -> dict[str, Any]:
    """Random weights whose output has the root mean square `scale` of the text embeddings.

    `feature_rms` is the root mean square of the features that come in.
    """
    torch = require("torch", "realign")
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in PROJECTOR_SHAPES.items():
        gain = 1 / feature_rms if name.startswith("linear_1") else scale / _GELU_RMS
        spread = gain / math.sqrt(shape[-1]) if len(shape) == 2 else 0.0
        tensors[name] = torch.randn(shape, generator=generator) * spread
    return tensors


_GELU_RMS = 0.652  # root mean square of gelu(z), z standard normal


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then a cosine down to a twentieth of the peak."""
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    share = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    return recipe.learning_rate * (0.05 + 0.95 * (1 + math.cos(math.pi * min(1.0, share))) / 2)


@dataclass(frozen=True)
class Progress:
    """Where a training stands: steps done, minutes of training, loss of the last step."""

    step: int
    minutes: float
    loss: float


class Trainer:
    """Training state that survives a kill: every step draws its pictures and questions from (seed, step) alone.

    `model` is the checkpoint with its initial projector, `features` float16 [pictures, image tokens, width] at the
    recipe's vision exit, `questions` the training split by picture. State and curve lie in `folder`.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: Any,
        prompts: Prompts,
        features: Any,
        questions: Sequence[Sequence[Question]],
        folder: Path,
    ) -> None:
        torch = require("torch", "realign")
        self.recipe, self.folder = recipe, folder
        self._model, self._prompts, self._features, self._questions = model, prompts, features, questions
        self.projector = model.model.multi_modal_projector.float().requires_grad_(True)
        self._optimizer = torch.optim.AdamW(
            self.projector.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, betas=(0.9, 0.98)
        )
        self.step, self.minutes = 0, 0.0
        self._curve = Curve(folder / "curve.csv", _FIELDS)

    def batch(self, step: int) -> tuple[Packed, Any]:
        """Step `step`'s packed questions and the features of the image tokens that it keeps, [tokens, width]."""
        torch, np = require("torch", "realign"), require("numpy", "realign")
        phase, chance = self.recipe.phase_at(step), random.Random(f"{self.recipe.seed}:{step}")
        generator = torch.Generator().manual_seed(chance.getrandbits(60))
        numbers = chance.sample(range(self.recipe.train_pictures), phase.pictures)
        rows = [
            [self._prompts.segment(q.text, q.answer) for q in sample_per_image(self._questions[i], phase.questions, chance)]
            for i in numbers
        ]
        kept = [pick_image_tokens(self._prompts.prefix, phase.image_tokens, generator) for _ in numbers]
        first = self._prompts.first_image_token
        places = [[i - first for i in keep if 0 <= i - first < IMAGE_TOKENS] for keep in kept]
        shown = np.concatenate([self._features[i][place] for i, place in zip(numbers, places, strict=True)])
        return pack(self._prompts.prefix, rows, kept), torch.from_numpy(shown.astype(np.float32))

    def loss(self, packed: Packed, features: Any) -> Any:
        """Mean cross-entropy over the answers' tokens, their end marks included."""
        torch = require("torch", "realign")
        states = decoder_states(self._model, packed, self.projector(features))
        wanted = packed.labels != IGNORED
        return torch.nn.functional.cross_entropy(self._model.lm_head(states[wanted]), packed.labels[wanted])

    def train_step(self) -> float:
        """One optimizer step; returns the loss."""
        torch = require("torch", "realign")
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe, self.step)
        loss = self.loss(*self.batch(self.step))
        self._optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.projector.parameters(), self.recipe.clip)
        self._optimizer.step()
        self.step += 1
        return float(loss.detach())

    def run(self, report: Callable[[Progress], None], clock: Callable[[], float] = time.monotonic) -> bool:
        """Train to the last step or to `max_minutes`; True when all steps were done. Saves as it goes."""
        started, before, saved = clock(), self.minutes, clock()
        with tqdm(total=self.recipe.steps, initial=self.step, desc="projector", disable=None) as bar:
            while self.step < self.recipe.steps and self.minutes < self.recipe.max_minutes:
                loss = self.train_step()
                self.minutes = before + (clock() - started) / 60
                self._note(loss)
                bar.update()
                bar.set_postfix(loss=f"{loss:.3f}")
                if clock() - saved > 60 * self.recipe.save_minutes:
                    self.save()
                    saved = clock()
                    report(Progress(self.step, self.minutes, loss))
        self.save()
        return self.step >= self.recipe.steps

    def held_out(self) -> dict[str, float]:
        """Share of right answers, by kind, on the held-out training pictures (three questions of each)."""
        torch, np = require("torch", "realign"), require("numpy", "realign")
        start = self.recipe.train_pictures
        right: dict[str, list[bool]] = {kind: [] for kind in KINDS}
        with torch.no_grad():
            for image in range(start, start + self.recipe.held_out_pictures):
                asked = sample_per_image(self._questions[image], 3, random.Random(f"{self.recipe.seed}:{image}"))
                shown = self.projector(torch.from_numpy(self._features[image].astype(np.float32)))
                for question, hit in zip(asked, correct(self._model, self._prompts, shown, asked), strict=True):
                    right[question.kind].append(hit)
        return {kind: sum(hits) / len(hits) for kind, hits in right.items() if hits}

    def save(self) -> None:
        """Write projector, optimizer moments and the place reached, whole or not at all."""
        torch = require("torch", "realign")
        save_file = require("safetensors.torch", "realign").save_file
        tensors = {f"projector.{name}": value.detach() for name, value in self.projector.state_dict().items()}
        for index, moments in self._optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in moments.items()}
        place = {"minutes": repr(self.minutes), "recipe": self.recipe.sha256, "step": str(self.step)}
        partial = self.folder / ".state.partial"
        with storage_errors(self.folder):
            save_file({name: value.contiguous() for name, value in tensors.items()}, str(partial), metadata=place)
            partial.replace(self.folder / STATE)

    def restore(self) -> bool:
        """Go on from the saved state; False when there is none.

        Raises:
            CheckpointError: the state was saved under another recipe.
        """
        file = self.folder / STATE
        if not file.is_file():
            return False
        with require("safetensors", "realign").safe_open(str(file), "pt") as saved:
            place = saved.metadata()
            tensors = {name: saved.get_tensor(name) for name in saved.keys()}  # noqa: SIM118
        if place["recipe"] != self.recipe.sha256:
            raise CheckpointError(
                f"{file} belongs to another recipe",
                found=place["recipe"],
                expected=self.recipe.sha256,
                remedy="use the recipe it was started with, or another --out",
            )
        self.projector.load_state_dict(
            {name.removeprefix("projector."): value for name, value in tensors.items() if name.startswith("projector.")}
        )
        moments: dict[int, dict[str, Any]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".")
                moments.setdefault(int(index), {})[key] = value
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": moments})
        self.step, self.minutes = int(place["step"]), float(place["minutes"])
        self._curve.cut(self.step)
        return True

    def _note(self, loss: float) -> None:
        due = self.step % self.recipe.measure_every == 0 or self.step == self.recipe.steps
        accuracy = self.held_out() if due else {}
        shares = {f"held_out {kind}": f"{share:.3f}" for kind, share in accuracy.items()}
        phase, rate = self.recipe.phase_at(self.step - 1), learning_rate(self.recipe, self.step - 1)
        row = {"step": str(self.step), "minutes": f"{self.minutes:.2f}", "image_tokens": str(phase.image_tokens)}
        self._curve.add({**row, "learning_rate": f"{rate:.2e}", "loss": f"{loss:.4f}", **shares})
