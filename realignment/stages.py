"""The five stages of a projector training: what is trained in each, and on what.

Every step draws its pictures, questions and image tokens from (seed, stage, step) alone, so that a training that was
killed goes on exactly as it would have.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from jetson_runtime.console import require
from realignment.answers import correct, decoder_states
from realignment.assemble import IMAGE_TOKENS
from realignment.easy_vqa import KINDS, Question, sample_per_image
from realignment.packing import IGNORED, Packed, Prompts, pack, pick_image_tokens
from realignment.recipe import Asking, Measured, Recipe, Steps
from realignment.whitening import Whitening
from realignment.words import SoftWords

__all__ = ["Material", "Regression", "Stage", "Tuning", "Words"]


@dataclass(frozen=True)
class Material:
    """What all stages share.

    `model` is frozen, float32; `features` are float16 [pictures, image tokens, width] at the recipe's exit; `questions`
    are the training split's, by picture; `known` tells colour and shape of the pictures whose questions do.
    """

    recipe: Recipe
    model: Any
    prompts: Prompts
    features: Any
    whitening: Whitening
    questions: Sequence[Sequence[Question]]
    known: Mapping[int, tuple[int, int]]

    def whitened(self, features: Any) -> Any:
        """Stored features as whitened float32."""
        torch = require("torch", "realign")
        return self.whitening.apply(torch.from_numpy(np.asarray(features, np.float32)))

    def chance(self, stage: str, step: int) -> tuple[random.Random, Any]:
        """The two random generators of one step, Python's and torch's."""
        chance = random.Random(f"{self.recipe.seed}:{stage}:{step}")
        return chance, require("torch", "realign").Generator().manual_seed(chance.getrandbits(60))


class Stage(Protocol):
    """Something that a training loop can step through."""

    @property
    def name(self) -> str:
        """The name of its state and of its rows in the curve."""

    @property
    def plan(self) -> Measured:
        """How many steps, at what rate."""

    @property
    def leaves(self) -> Mapping[str, Any]:
        """The trained tensors by name."""

    def loss(self, step: int) -> Any:
        """The loss of one step, a scalar tensor."""

    def held_out(self) -> dict[str, float]:
        """What is measured on held-out data, by name; empty where the stage has none."""


class Words:
    """Stages 1 and 2: the soft words, through the frozen decoder; few image tokens first, which is fast, then all."""

    def __init__(self, material: Material, words: SoftWords, *, long: bool) -> None:
        self.name = "long_words" if long else "words"
        self.plan: Asking = material.recipe.long_words if long else material.recipe.words
        self._material, self._words = material, words
        self._pictures = [n for n in range(material.recipe.train_pictures) if n in material.known]

    @property
    def leaves(self) -> dict[str, Any]:
        """The soft words."""
        return self._words.parameters

    def loss(self, step: int) -> Any:
        """Cross-entropy of the answers when each picture is its soft words, repeated."""
        material = self._material
        chance, generator = material.chance(self.name, step)
        numbers = chance.sample(self._pictures, self.plan.pictures)
        count = chance.choice(self.plan.image_tokens)
        packed, _ = _asked(material, numbers, self.plan.questions, count, chance, generator)
        shown = self._words([material.known[n] for n in numbers])[:, None].expand(-1, count, -1)
        return _answer_loss(material.model, packed, shown)

    def held_out(self) -> dict[str, float]:
        """No picture is seen yet."""
        return {}


class Regression:
    """Stage 3: the projector learns to put the soft words out at every image token."""

    name = "regression"

    def __init__(self, material: Material, words: SoftWords, projector: Any) -> None:
        self.plan: Steps = material.recipe.regression
        self._material, self._words, self._projector = material, words, projector
        self._pictures = [n for n in range(material.recipe.train_pictures) if n in material.known]

    @property
    def leaves(self) -> dict[str, Any]:
        """The projector, for whitened features."""
        return dict(self._projector.named_parameters())

    def loss(self, step: int) -> Any:
        """Mean squared distance from the soft words of what is in the picture."""
        torch = require("torch", "realign")
        chance, _ = self._material.chance(self.name, step)
        numbers = chance.sample(self._pictures, self.plan.pictures)
        count = chance.choice(self.plan.image_tokens)
        tokens = [chance.sample(range(IMAGE_TOKENS), count) for _ in numbers]
        features = np.stack([self._material.features[n][t] for n, t in zip(numbers, tokens, strict=True)])
        shown = self._projector(self._material.whitened(features))
        wanted = self._words([self._material.known[n] for n in numbers]).detach()[:, None].expand_as(shown)
        return torch.nn.functional.mse_loss(shown, wanted)

    def held_out(self) -> dict[str, float]:
        """Held-out answers with all image tokens."""
        return _held_out(self._material, self._projector)


class Tuning:
    """Stages 4 and 5: the projector, on the answers, through the frozen decoder; the rate is raised once more."""

    def __init__(self, material: Material, projector: Any, *, again: bool) -> None:
        self.name = "retuning" if again else "tuning"
        self.plan: Asking = material.recipe.retuning if again else material.recipe.tuning
        self._material, self._projector = material, projector

    @property
    def leaves(self) -> dict[str, Any]:
        """The projector, for whitened features."""
        return dict(self._projector.named_parameters())

    def loss(self, step: int) -> Any:
        """Cross-entropy of the answers about the pictures themselves."""
        material = self._material
        chance, generator = material.chance(self.name, step)
        numbers = chance.sample(range(material.recipe.train_pictures), self.plan.pictures)
        count = chance.choice(self.plan.image_tokens)
        packed, tokens = _asked(material, numbers, self.plan.questions, count, chance, generator)
        features = np.stack([material.features[n][t] for n, t in zip(numbers, tokens, strict=True)])
        return _answer_loss(material.model, packed, self._projector(material.whitened(features)))

    def held_out(self) -> dict[str, float]:
        """Held-out answers with all image tokens."""
        return _held_out(self._material, self._projector)


def _asked(
    material: Material, numbers: Sequence[int], questions: int, count: int, chance: random.Random, generator: Any
) -> tuple[Packed, list[list[int]]]:
    """The pictures' packed questions, and which image tokens (0 to 255) each keeps."""
    prompts = material.prompts
    kept = [pick_image_tokens(prompts, count, generator) for _ in numbers]
    rows = [
        [prompts.segment(q.text, q.answer) for q in sample_per_image(material.questions[n], questions, chance)]
        for n in numbers
    ]
    first = prompts.first_image_token
    return pack(prompts.prefix, rows, kept), [
        [i - first for i in keep if 0 <= i - first < IMAGE_TOKENS] for keep in kept
    ]


def _answer_loss(model: Any, packed: Packed, shown: Any) -> Any:
    """Mean cross-entropy over the answers' tokens, their end marks included."""
    states, wanted = decoder_states(model, packed, shown), packed.labels != IGNORED
    cross_entropy = require("torch", "realign").nn.functional.cross_entropy
    return cross_entropy(model.lm_head(states[wanted]), packed.labels[wanted])


def _held_out(material: Material, projector: Any) -> dict[str, float]:
    recipe, right = material.recipe, {kind: list[bool]() for kind in KINDS}
    with require("torch", "realign").no_grad():
        for image in range(recipe.train_pictures, recipe.train_pictures + recipe.held_out_pictures):
            asked = sample_per_image(material.questions[image], 3, random.Random(f"{recipe.seed}:{image}"))
            shown = projector(material.whitened(material.features[image]))
            for question, hit in zip(asked, correct(material.model, material.prompts, shown, asked), strict=True):
                right[question.kind].append(hit)
    return {kind: sum(hits) / len(hits) for kind, hits in right.items() if hits}
