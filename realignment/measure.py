"""How many of easy-VQA's test questions a checkpoint answers rightly at each exit of its image encoder."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from jetson_runtime.console import require
from jetson_runtime.errors import ConfigError
from realignment.answers import correct
from realignment.easy_vqa import KINDS, Question, read_questions, sample_per_image
from realignment.features import at_exits
from realignment.packing import Prompts
from realignment.pictures import open_picture

__all__ = ["QUESTIONS_PER_PICTURE", "accuracy_by_exit", "accuracy_table", "drawn_questions"]

QUESTIONS_PER_PICTURE = 6
_BATCH = 10


def drawn_questions(folder: Path, count: int, seed: int) -> dict[int, list[Question]]:
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
    return sample


def accuracy_by_exit(
    model: Any, processor: Any, folder: Path, *, questions: int, seed: int, exits: Sequence[int]
) -> dict[str, Any]:
    """Right greedy answers at each vision exit, by kind of question, with the counts that they come from.

    `model` is a LlavaForConditionalGeneration in float32, `folder` easy-VQA's data. Every exit goes through the same
    projector and the same decoder, and answers the same questions. `estimate` weighs the kinds as the whole test split
    has them.
    """
    torch = require("torch", "realign")
    sample = drawn_questions(folder, questions, seed)
    prompts, numbers = Prompts(processor.tokenizer), list(sample)
    right = {layer: dict.fromkeys(KINDS, 0) for layer in exits}
    for start in tqdm(range(0, len(numbers), _BATCH), desc="accuracy per exit", disable=None):
        batch = numbers[start : start + _BATCH]
        states = at_exits(model, processor, [open_picture(folder, "test", n) for n in batch], exits)
        for layer, features in zip(exits, states, strict=True):
            with torch.no_grad():
                shown = model.model.multi_modal_projector(features)
            for row, number in enumerate(batch):
                hits = correct(model, prompts, shown[row], sample[number])
                for question, hit in zip(sample[number], hits, strict=True):
                    right[layer][question.kind] += hit
    asked = {kind: sum(q.kind == kind for row in sample.values() for q in row) for kind in KINDS}
    everything = [q.kind for row in read_questions(folder, "test") for q in row]
    weights = {kind: everything.count(kind) / len(everything) for kind in KINDS}
    return {
        "asked": asked,
        "exits": {
            str(layer): {
                "estimate": round(sum(weights[k] * right[layer][k] / asked[k] for k in KINDS if asked[k]), 4),
                "right": right[layer],
            }
            for layer in exits
        },
        "pictures": len(numbers),
        "questions": questions,
        "seed": seed,
        "split": "easy-VQA 1.0, test",
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
