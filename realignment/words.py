"""Finds what to show the decoder: soft words for each colour and each shape, learned before any picture is seen.

A frozen decoder has to be addressed in its own terms. Learning those terms and learning to see at the same time is
slow; with the picture replaced by what is known about it from its own questions, the terms alone are learned in
minutes. The projector then starts by putting them out, and is tuned through the decoder from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jetson_runtime.console import require
from realignment.easy_vqa import COLOURS, SHAPES, Question

__all__ = ["SoftWords", "known_words"]


def known_words(questions: Sequence[Question]) -> tuple[int, int] | None:
    """(colour, shape) of a picture as numbers in COLOURS and SHAPES, from its questions; None if they don't tell.

    "what is the blue shape?" tells the colour, "what color is the circle?" the shape, and answers tell what they say.
    """
    told = {q.answer for q in questions} | {w for q in questions if q.kind != "yes/no" for w in q.text[:-1].split()}
    colours, shapes = ([n for n, word in enumerate(words) if word in told] for words in (COLOURS, SHAPES))
    return (colours[0], shapes[0]) if colours and shapes else None


class SoftWords:
    """One vector per colour and per shape, and one that all pictures share; a picture is the sum of its three.

    `colours` [8, width], `shapes` [3, width], `common` [width]: float32 leaves that can be trained.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        torch = require("torch", "realign")
        table = model.get_input_embeddings().weight

        def start(words: Sequence[str]) -> Any:
            first = [tokenizer.encode(f" {word}", add_special_tokens=False)[0] for word in words]
            return table[first].detach().clone().requires_grad_(True)

        self.colours, self.shapes = start(COLOURS), start(SHAPES)
        self.common = torch.zeros(table.shape[1], requires_grad=True)

    @property
    def parameters(self) -> dict[str, Any]:
        """The trained tensors by name."""
        return {"colours": self.colours, "common": self.common, "shapes": self.shapes}

    def load(self, tensors: dict[str, Any]) -> None:
        """Take over saved values."""
        torch = require("torch", "realign")
        with torch.no_grad():
            for name, leaf in self.parameters.items():
                leaf.copy_(tensors[name])

    def __call__(self, known: Sequence[tuple[int, int]]) -> Any:
        """What the pictures should look like to the decoder, [pictures, width]."""
        colours, shapes = ([pair[place] for pair in known] for place in (0, 1))
        return self.common + self.colours[colours] + self.shapes[shapes]
