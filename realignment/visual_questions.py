"""How many of easy-VQA's test questions a checkpoint answers rightly at each exit."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from jetson_runtime.console import require
from jetson_runtime.errors import ConfigError
from realignment.answers import correct
from realignment.assemble import IMAGE_TOKENS
from realignment.decoder import IMAGE_TOKEN_ID
from realignment.easy_vqa import KINDS, Question, read_questions, sample_per_image
from realignment.features import at_exits
from realignment.packing import Prompts
from realignment.pictures import open_picture

__all__ = ["QUESTIONS_PER_PICTURE", "SPLIT", "Drawn", "accuracy_by_exit", "accuracy_table", "drawn_questions"]

QUESTIONS_PER_PICTURE = 6
SPLIT = "easy-VQA 1.0, test"
_BATCH = 10


@dataclass(frozen=True)
class Drawn:
    """Test questions by the number of their picture; `weights` are the kinds' shares of the whole test split."""

    folder: Path
    seed: int
    by_picture: Mapping[int, list[Question]]
    weights: Mapping[str, float]

    @property
    def all(self) -> list[Question]:
        """The questions in one row, pictures in the order drawn."""
        return [question for asked in self.by_picture.values() for question in asked]

    def asked(self) -> dict[str, int]:
        """How many questions there are of each kind."""
        kinds = [question.kind for question in self.all]
        return {kind: kinds.count(kind) for kind in KINDS}

    def pictures(self) -> list[Any]:
        """The pictures, in the order drawn."""
        return [open_picture(self.folder, "test", number) for number in self.by_picture]

    def score(self, hits: Sequence[bool]) -> dict[str, Any]:
        """Right answers by kind, and `estimate`, which weighs the kinds as the whole test split has them."""
        right = dict.fromkeys(KINDS, 0)
        for question, hit in zip(self.all, hits, strict=True):
            right[question.kind] += hit
        asked = self.asked()
        estimate = sum(self.weights[kind] * right[kind] / asked[kind] for kind in KINDS if asked[kind])
        return {"estimate": round(estimate, 4), "right": right}


def drawn_questions(folder: Path, count: int, seed: int) -> Drawn:
    """`count` questions of the test split: pictures in a drawn order, up to six questions of each, kinds in turn.

    Raises:
        ConfigError: `count` is out of range.
    """
    questions, chance = read_questions(folder, "test"), random.Random(seed)
    sample: dict[int, list[Question]] = {}
    for number in chance.sample(range(len(questions)), len(questions)):
        missing = count - sum(len(asked) for asked in sample.values())
        if missing > 0:
            sample[number] = sample_per_image(questions[number], min(missing, QUESTIONS_PER_PICTURE), chance)
    drawn = sum(len(asked) for asked in sample.values())
    if not 1 <= count == drawn:
        raise ConfigError("this many questions can't be drawn", found=count, expected=f"1 to {drawn or count}")
    kinds = [question.kind for row in questions for question in row]
    return Drawn(folder, seed, sample, {kind: kinds.count(kind) / len(kinds) for kind in KINDS})


def accuracy_by_exit(
    model: Any, processor: Any, folder: Path, *, questions: int, seed: int, exits: Sequence[int]
) -> dict[str, Any]:
    """Right greedy answers at each vision exit, by kind of question, with the counts that they come from.

    `model` is the reference as a LlavaForConditionalGeneration in float32, `folder` easy-VQA's data. Every exit goes
    through the same projector and the same decoder, and answers the same questions.
    """
    torch = require("torch", "realign")
    drawn = drawn_questions(folder, questions, seed)
    prompts, rows, pictures = (
        Prompts(processor, IMAGE_TOKEN_ID, IMAGE_TOKENS),
        list(drawn.by_picture.values()),
        drawn.pictures(),
    )
    hits: dict[int, list[bool]] = {layer: [] for layer in exits}
    for start in tqdm(range(0, len(rows), _BATCH), desc="accuracy per exit", disable=None):
        states = at_exits(model, processor, pictures[start : start + _BATCH], exits)
        for layer, features in zip(exits, states, strict=True):
            with torch.no_grad():
                shown = model.model.multi_modal_projector(features)
            for picture, asked in zip(shown, rows[start : start + _BATCH], strict=True):
                hits[layer] += correct(model, prompts, picture, asked)
    return {
        "asked": drawn.asked(),
        "exits": {str(layer): drawn.score(hits[layer]) for layer in exits},
        "pictures": len(rows),
        "questions": questions,
        "seed": seed,
        "split": SPLIT,
    }


def accuracy_table(accuracy: dict[str, Any]) -> str:
    """The accuracies as lines of text, one exit a line."""
    asked = accuracy["asked"]
    lines = [
        "vision exit  " + "".join(f"{f'{kind} (n={asked[kind]})':>18}" for kind in KINDS) + f"{'split estimate':>18}"
    ]
    for layer, row in accuracy["exits"].items():
        shares = [f"{row['right'][kind] / asked[kind]:.1%}" if asked[kind] else "-" for kind in KINDS]
        lines.append(f"{layer:>11}  " + "".join(f"{share:>18}" for share in shares) + f"{row['estimate']:>18.1%}")
    return "\n".join(lines)
