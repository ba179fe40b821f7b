"""easy-VQA: pictures of one shape, questions about its shape and its colour."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jetson_runtime.errors import CheckpointError
from jetson_runtime.files import read_json

__all__ = ["COLOURS", "KINDS", "SHAPES", "Question", "kind_of", "read_questions", "sample_per_image"]

SHAPES = ("circle", "rectangle", "triangle")
COLOURS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
KINDS = ("colour", "shape", "yes/no")


@dataclass(frozen=True)
class Question:
    """One question about one picture; `image` is the picture's number in its split."""

    image: int
    text: str
    answer: str

    @property
    def kind(self) -> str:
        """What is asked for: "colour", "shape" or "yes/no"."""
        return kind_of(self.answer)


def kind_of(answer: str) -> str:
    """The kind of question that `answer` answers."""
    return "yes/no" if answer in ("yes", "no") else "shape" if answer in SHAPES else "colour"


def read_questions(folder: Path, split: str) -> list[list[Question]]:
    """The questions of `split` ("train" or "test"), by picture.

    Raises:
        CheckpointError: a picture that is asked about is not there.
    """
    rows = [Question(int(image), text, answer) for text, answer, image in read_json(folder / split / "questions.json")]
    by_image: list[list[Question]] = [[] for _ in range(1 + max(row.image for row in rows))]
    for row in rows:
        by_image[row.image].append(row)
    for image in range(len(by_image)):
        if not (folder / split / "images" / f"{image}.png").is_file():
            raise CheckpointError(f"easy-VQA's {split} split is incomplete", found=f"no picture {image}")
    return by_image


def sample_per_image(questions: Sequence[Question], count: int, generator: random.Random) -> list[Question]:
    """At most `count` questions of one picture, its kinds in turn, so that yes/no does not crowd out the others."""
    piles = {kind: [question for question in questions if question.kind == kind] for kind in KINDS}
    for pile in piles.values():
        generator.shuffle(pile)
    chosen: list[Question] = []
    while len(chosen) < count and any(piles.values()):
        for kind in generator.sample(KINDS, len(KINDS)):
            if piles[kind] and len(chosen) < count:
                chosen.append(piles[kind].pop())
    return chosen
