"""Pictures for alignment: easy-VQA's with their questions, and drawn ones that no question belongs to."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFilter
from tqdm import tqdm

from jetson_runtime.console import require
from jetson_runtime.errors import ConfigError
from realignment.assemble import IMAGE_PIXELS
from realignment.easy_vqa import Question, read_questions
from realignment.features import training_picture
from realignment.towers import Towers

__all__ = ["Scenes", "drawn", "training_scenes"]

_BATCH = 16


@dataclass(frozen=True)
class Scenes:
    """Training pictures as the decoder is given them: `shown[exit]` is float16 [pictures, image tokens, width].

    `questions[n]` are what can be asked about picture n; empty for a drawn one. Each picture goes through the image
    encoder once, whatever the number of exits.
    """

    shown: Mapping[int, Any]
    questions: Sequence[Sequence[Question]]

    def __len__(self) -> int:
        return len(self.questions)


def drawn(seed: str) -> Image.Image:
    """A picture of coloured areas, lines and blobs: nothing in it, but not nothing."""
    chance = random.Random(seed)
    side = IMAGE_PIXELS

    def colour() -> tuple[int, int, int]:
        return (chance.randint(0, 255), chance.randint(0, 255), chance.randint(0, 255))

    def place() -> tuple[int, int]:
        return (chance.randint(-40, side), chance.randint(-40, side))

    top, bottom = Image.new("RGB", (side, side), colour()), Image.new("RGB", (side, side), colour())
    picture = Image.composite(
        top, bottom, Image.linear_gradient("L").resize((side, side)).rotate(chance.choice((0, 90)))
    )
    draw = ImageDraw.Draw(picture)
    for _ in range(chance.randint(2, 9)):
        x, y = place()
        box = (x, y, x + chance.randint(10, 140), y + chance.randint(10, 140))
        shape = chance.choice(("rectangle", "ellipse", "polygon", "line"))
        if shape == "rectangle":
            draw.rectangle(box, fill=colour())
        elif shape == "ellipse":
            draw.ellipse(box, fill=colour())
        elif shape == "polygon":
            draw.polygon([place() for _ in range(chance.randint(3, 6))], fill=colour())
        else:
            draw.line([place(), place()], fill=colour(), width=chance.randint(1, 20))
    return picture.filter(ImageFilter.GaussianBlur(chance.choice((0, 0, 1, 3))))


def training_scenes(towers: Towers, folder: Path, *, asked: int, plain: int, exits: Iterable[int], seed: int) -> Scenes:
    """The first `asked` of easy-VQA's training pictures (each second one a variant) and `plain` drawn ones."""
    torch = require("torch", "realign")
    questions = read_questions(folder, "train")
    if asked > len(questions):
        raise ConfigError(
            "asked_pictures is wrong", found=asked, expected=f"at most {len(questions)} training pictures"
        )
    wanted = sorted(set(exits))
    parts: dict[int, list[Any]] = {exit: [] for exit in wanted}
    for start in tqdm(range(0, asked + plain, _BATCH), desc="pictures", disable=None):
        numbers = range(start, min(start + _BATCH, asked + plain))
        pictures = [training_picture(folder, n, 2, seed) if n < asked else drawn(f"{seed}:{n}") for n in numbers]
        for exit, rows in towers.shown(pictures, wanted).items():
            parts[exit].append(rows.half().cpu())
    return Scenes(
        {exit: torch.cat(rows) for exit, rows in parts.items()},
        [questions[n] if n < asked else [] for n in range(asked + plain)],
    )
