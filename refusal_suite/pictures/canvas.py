"""A small canvas: shapes are drawn at twice the size and averaged down, so edges are smooth and need no font."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageColor, ImageDraw

__all__ = ["SIZE", "Canvas", "Points"]

SIZE = 336
OVERSAMPLING = 2
Points = Sequence[tuple[float, float]]


class Canvas:
    """A square of `SIZE` units; x grows to the right, y downwards. Colours are Pillow's names or #rrggbb."""

    def __init__(self, colour: str = "white") -> None:
        self._picture = Image.new("RGB", (SIZE * OVERSAMPLING, SIZE * OVERSAMPLING), colour)
        self._pen = ImageDraw.Draw(self._picture)

    def gradient(self, top: float, bottom: float, first: str, last: str) -> None:
        """Fill the full width between two heights with bands of four units whose colour goes from `first` to `last`."""
        a, b = ImageColor.getrgb(first), ImageColor.getrgb(last)
        steps = max(round((bottom - top) / 4), 2)
        for step in range(steps):
            colour = tuple(round(x + (y - x) * step / (steps - 1)) for x, y in zip(a, b, strict=True))
            edges = [round((top + (bottom - top) * part / steps) * OVERSAMPLING) for part in (step, step + 1)]
            self._pen.rectangle([0, edges[0], SIZE * OVERSAMPLING, edges[1]], fill=colour)

    def polygon(self, points: Points, colour: str) -> None:
        """A filled polygon."""
        self._pen.polygon([(x * OVERSAMPLING, y * OVERSAMPLING) for x, y in points], fill=colour)

    def box(self, left: float, top: float, right: float, bottom: float, colour: str, radius: float = 0) -> None:
        """A filled rectangle with round corners."""
        edges = (left * OVERSAMPLING, top * OVERSAMPLING, right * OVERSAMPLING, bottom * OVERSAMPLING)
        self._pen.rounded_rectangle(edges, radius * OVERSAMPLING, fill=colour)

    def ellipse(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        """A filled ellipse around (x, y); `width` and `height` are its half axes."""
        edges = [(x - width) * OVERSAMPLING, (y - height) * OVERSAMPLING]
        self._pen.ellipse([*edges, (x + width) * OVERSAMPLING, (y + height) * OVERSAMPLING], fill=colour)

    def disc(self, x: float, y: float, radius: float, colour: str) -> None:
        """A filled circle."""
        self.ellipse(x, y, radius, radius, colour)

    def line(self, points: Points, colour: str, width: float) -> None:
        """A line of straight pieces with round joints and ends."""
        scaled = [(x * OVERSAMPLING, y * OVERSAMPLING) for x, y in points]
        self._pen.line(scaled, fill=colour, width=round(width * OVERSAMPLING))
        for x, y in points:
            self.disc(x, y, width / 2, colour)

    def arc(self, x: float, y: float, radius: float, start: float, stop: float, colour: str, width: float) -> None:
        """A piece of a circle from `start` to `stop` degrees, clockwise from three o'clock."""
        steps = max(int(abs(stop - start) / 4), 2)
        angles = [math.radians(start + (stop - start) * step / steps) for step in range(steps + 1)]
        self.line([(x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles], colour, width)

    def strip(self, middle: Points, widths: Sequence[float], colour: str) -> None:
        """A band along `middle` that is as wide, left to right, as `widths` says at each point."""
        left = [(x - width / 2, y) for (x, y), width in zip(middle, widths, strict=True)]
        right = [(x + width / 2, y) for (x, y), width in zip(middle, widths, strict=True)]
        self.polygon([*left, *reversed(right)], colour)

    def finished(self) -> Image.Image:
        """The picture, `SIZE` × `SIZE` pixels, RGB."""
        return self._picture.resize((SIZE, SIZE), Image.Resampling.BOX)
