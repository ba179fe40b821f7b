"""The supervised stages before L-PPO: `align` gives full depth refusals to keep, `exits` lets decoder exits speak."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jetson_runtime.console import require
from realignment.answers import decoder_states, embedded
from realignment.lessons import Lesson, Lessons
from realignment.packing import IGNORED, Packed
from realignment.recipe import Exits, Mixture

__all__ = ["OPENING_TOKENS", "Align", "ExitTuning"]

OPENING_TOKENS = 3
"""An answer's tokens that decide whether it refuses."""


@dataclass(frozen=True)
class Align:
    """Cross-entropy of the answers at full depth and at the projector's own vision exit."""

    plan: Mixture
    lessons: Lessons
    leaves: Mapping[str, Any]
    seed: int
    name: str = "align"
    measures: tuple[str, ...] = ("text", "picture")

    def loss(self, step: int) -> Any:
        """Mean cross-entropy over the answers' tokens, their end marks included."""
        return _full_depth_loss(self.lessons, _lesson(self, step), self.plan.opening_weight)

    def held_out(self) -> dict[str, float]:
        """The same on requests that are not trained on, with and without a picture."""
        with require("torch", "realign").no_grad():
            return {name: float(_full_depth_loss(self.lessons, lesson, 1.0)) for name, lesson in _held_out(self)}


@dataclass(frozen=True)
class ExitTuning:
    """Early-exit loss with rotating exits, one shared head, and distillation from full depth.

    LayerSkip's objective (Elhoushi et al. 2024, section 4): `(scale * early + last) / (1 + scale)`, where `early` is
    the mean over the exits of this step. An exit's loss is its cross-entropy plus its divergence from what full depth
    says in the same step: KL(full depth || exit), full depth without gradient. `plan.exits` come before full depth.
    """

    plan: Exits
    lessons: Lessons
    leaves: Mapping[str, Any]
    seed: int
    name: str = "exits"

    @property
    def measures(self) -> tuple[str, ...]:
        """Exits, and full depth."""
        return (*(f"exit {exit}" for exit in self.plan.exits), "full depth")

    def loss(self, step: int) -> Any:
        """LayerSkip's weighted sum."""
        exits = random.Random(f"{self.seed}:{self.name}:{step}:exits").sample(self.plan.exits, self.plan.exits_per_step)
        last, early = _losses(self.lessons, _lesson(self, step), exits, self.plan.opening_weight, distil=True)
        scale = self.plan.scale
        return (scale * sum(early.values()) / len(early) + last) / (1 + scale)

    def held_out(self) -> dict[str, float]:
        """Cross-entropy at each exit on requests that are not trained on, mean of with and without a picture."""
        totals = dict.fromkeys(self.measures, 0.0)
        lessons = _held_out(self)
        for _, lesson in lessons:
            with require("torch", "realign").no_grad():
                last, early = _losses(self.lessons, lesson, self.plan.exits, 1.0, distil=False)
            totals["full depth"] += float(last) / len(lessons)
            for exit, loss in early.items():
                totals[f"exit {exit}"] += float(loss) / len(lessons)
        return totals


def _lesson(stage: Align | ExitTuning, step: int) -> Lesson:
    chance = random.Random(f"{stage.seed}:{stage.name}:{step}")
    image = chance.random() < stage.plan.image_share
    return stage.lessons.draw(stage.plan, chance, image=image, exit=stage.lessons.towers.vision_exit)


def _held_out(stage: Align | ExitTuning) -> list[tuple[str, Lesson]]:
    chance = random.Random(f"{stage.seed}:{stage.name}:held-out")
    exit = stage.lessons.towers.vision_exit
    return [
        (name, stage.lessons.draw(stage.plan, chance, image=image, exit=exit, held_out=True))
        for name, image in (("text", False), ("picture", True))
    ]


def _full_depth_loss(lessons: Lessons, lesson: Lesson, opening: float) -> Any:
    model, wanted = lessons.towers.model, lesson.packed.labels != IGNORED
    states = decoder_states(model, lesson.packed, lesson.shown)
    weights = _weights(lesson.packed, opening)
    return _cross_entropy(model.lm_head(states[wanted]), lesson.packed.labels[wanted], weights)


def _losses(
    lessons: Lessons, lesson: Lesson, exits: Sequence[int], opening: float, *, distil: bool
) -> tuple[Any, dict[int, Any]]:
    torch = require("torch", "realign")
    model, packed = lessons.towers.model, lesson.packed
    decoder, wanted = model.model.language_model, packed.labels != IGNORED
    labels, weights = packed.labels[wanted], _weights(packed, opening)
    out = decoder(
        inputs_embeds=embedded(model, packed.tokens, lesson.shown),
        attention_mask=packed.mask.to(decoder.dtype),
        position_ids=packed.positions,
        use_cache=False,
        output_hidden_states=True,
    )
    last = model.lm_head(out.last_hidden_state[wanted])
    early = {}
    for exit in exits:
        # The states before the last are un-normed; an exit puts the checkpoint's final norm over them.
        logits = model.lm_head(decoder.norm(out.hidden_states[exit][wanted]))
        early[exit] = _cross_entropy(logits, labels, weights)
        if distil:
            teacher = last.detach().log_softmax(-1)
            early[exit] = early[exit] + torch.nn.functional.kl_div(
                logits.log_softmax(-1), teacher, log_target=True, reduction="batchmean"
            )
    return _cross_entropy(last, labels, weights), early


def _cross_entropy(logits: Any, labels: Any, weights: Any) -> Any:
    losses = require("torch", "realign").nn.functional.cross_entropy(logits, labels, reduction="none")
    return (losses * weights).sum() / weights.sum()


def _weights(packed: Packed, opening: float) -> Any:
    """One weight per label, in reading order: `opening` for the first tokens of each answer, 1 for the others."""
    torch = require("torch", "realign")
    wanted = packed.labels != IGNORED
    before = torch.zeros_like(packed.labels)
    for lag in range(1, OPENING_TOKENS + 1):
        same = packed.segment[:, lag:] == packed.segment[:, :-lag]
        before[:, lag:] += wanted[:, :-lag] & same
    weights = torch.where(before < OPENING_TOKENS, opening, 1.0)
    return weights[wanted]
