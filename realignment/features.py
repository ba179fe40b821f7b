"""What the image encoder hands over at an exit, computed once per picture."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from jetson_runtime.console import require
from jetson_runtime.files import read_json, storage_errors, write_json
from realignment.assemble import IMAGE_TOKENS
from realignment.pictures import open_picture, variant
from realignment.vision import VISION_CONFIG

__all__ = ["at_exits", "training_features", "training_picture"]

_BATCH = 16


def at_exits(model: Any, processor: Any, pictures: Sequence[Any], exits: Sequence[int]) -> list[Any]:
    """Features of `pictures` at each of `exits`, float [pictures, image tokens, width], CLS dropped.

    Exit l is the output of block l, `hidden_states[l]`, without the final norm: what the projector is given.
    """
    torch = require("torch", "realign")
    pixels = processor.image_processor(list(pictures), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
    return [states[layer][:, 1:] for layer in exits]


def training_picture(folder: Path, image: int, every: int, seed: int) -> Any:
    """Training picture number `image`; each `every`-th one is a variant, drawn from `seed` (0: none is)."""
    picture = open_picture(folder, "train", image)
    if every and image % every == every - 1:
        return variant(picture, random.Random(f"{seed}:{image}"))
    return picture


def training_features(
    file: Path, model: Any, processor: Any, folder: Path, *, count: int, layer: int, every: int, seed: int
) -> Any:
    """The first `count` training pictures' features at exit `layer`: float16 [count, image tokens, width], on disk.

    A run that was stopped goes on where it was; another setting starts afresh.
    """
    progress_file = file.with_suffix(".json")
    asked = {"count": count, "every": every, "layer": layer, "seed": seed}
    progress = read_json(progress_file) if progress_file.is_file() and file.is_file() else {}
    done = progress.pop("done", 0) if progress.pop("asked", None) == asked else 0
    shape = (count, IMAGE_TOKENS, VISION_CONFIG["hidden_size"])
    with storage_errors(file):
        store = np.lib.format.open_memmap(str(file), "r+" if done else "w+", np.float16, shape)
        for start in tqdm(range(done, count, _BATCH), desc="image features", disable=None):
            numbers = range(start, min(start + _BATCH, count))
            pictures = [training_picture(folder, image, every, seed) for image in numbers]
            store[start : numbers.stop] = at_exits(model, processor, pictures, [layer])[0].numpy()
            if numbers.stop == count or start % (16 * _BATCH) == 0:
                store.flush()
                write_json(progress_file, {"asked": asked, "done": numbers.stop})
    return store
