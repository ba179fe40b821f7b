"""Training pictures: easy-VQA's own, and variants of them with a larger shape on another plain background."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
from PIL import Image

from realignment.assemble import IMAGE_PIXELS

__all__ = ["open_picture", "variant"]

_NEAREST = 90.0  # a background closer than this (distance in RGB) to the shape's colour could hide it


def open_picture(folder: Path, split: str, image: int) -> Image.Image:
    """Picture number `image` of easy-VQA as an RGB PIL image of 64 x 64 pixels."""
    with Image.open(folder / split / "images" / f"{image}.png") as picture:
        return picture.convert("RGB")


def variant(picture: Image.Image, generator: random.Random) -> Image.Image:
    """The same shape in the same colour, 25 % to 80 % of the picture wide, anywhere on another plain background.

    What easy-VQA asks about (shape and colour) stays true; its size, its place and its background do not.
    """
    pixels = np.asarray(picture)
    colours, counts = np.unique(pixels.reshape(-1, 3), axis=0, return_counts=True)
    ground = colours[counts.argmax()]
    inside = (pixels != ground).any(axis=2)
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    shade = np.median(pixels[inside], axis=0)
    while True:
        grey, tint = generator.randint(0, 255), [generator.randint(-25, 25) for _ in range(3)]
        backdrop = np.clip(grey + np.array(tint), 0, 255)
        if np.linalg.norm(backdrop - shade) > _NEAREST:
            break
    scale = generator.uniform(0.25, 0.8) * IMAGE_PIXELS / max(box[2] - box[0], box[3] - box[1])
    size = (max(2, round((box[2] - box[0]) * scale)), max(2, round((box[3] - box[1]) * scale)))
    stencil = Image.fromarray(inside.astype(np.uint8) * 255).crop(box).resize(size, Image.Resampling.BICUBIC)
    drawn = Image.new("RGB", (IMAGE_PIXELS, IMAGE_PIXELS), tuple(int(value) for value in backdrop))
    place = (generator.randint(0, IMAGE_PIXELS - size[0]), generator.randint(0, IMAGE_PIXELS - size[1]))
    drawn.paste(tuple(int(value) for value in shade), place, stencil)
    return drawn
