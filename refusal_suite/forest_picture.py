"""Estimates with their bounds, one row per depth, against a limit: a forest plot as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from markupsafe import Markup

from refusal_suite.charts import element, figure, round_step, text

__all__ = ["ForestPanel", "ForestRow", "forest_picture"]

_TOP, _ROW, _BOTTOM, _WIDE, _NARROW, _GAP = 34.0, 30.0, 40.0, 1042.0, 406.0, 46.0


@dataclass(frozen=True)
class ForestRow:
    """An estimate and its bounds (None: not bounded on that side); `good` is None where nothing is decided by it.

    A row without an estimate shows `words` instead.
    """

    label: str
    estimate: float | None
    low: float | None = None
    high: float | None = None
    good: bool | None = None
    words: str = ""


@dataclass(frozen=True)
class ForestPanel:
    """Rows over one axis; `limit` is where a bound stops being good enough, None where there is none."""

    title: str
    rows: Sequence[ForestRow]
    limit: float | None = None


@dataclass(frozen=True)
class _Place:
    """A panel's corner on the picture, its axis from `left` to `right`, and the values at both ends."""

    left: float
    right: float
    top: float
    low: float
    high: float

    def x(self, value: float) -> float:
        return self.left + (value - self.low) / (self.high - self.low) * (self.right - self.left)


def forest_picture(name: str, panels: Sequence[ForestPanel], title: str, summary: str, *, wide: bool) -> Markup:
    """Two panels side by side if `wide`, else all below each other; the labels of their rows are the same."""
    label_width = 8.0 + 8.4 * max(len(row.label) for row in panels[0].rows)
    height = _TOP + _ROW * len(panels[0].rows) + _BOTTOM
    columns = 2 if wide else 1
    drawn: list[Markup] = []
    for index, panel in enumerate(panels):
        place = _place(panel, index % columns, index // columns * height, label_width, wide=wide)
        drawn.append(text(place.left if wide else 0, place.top + 16, panel.title, "strong"))
        drawn += _frame(panel, place)
        for number, row in enumerate(panel.rows):
            y = place.top + _TOP + _ROW * (number + 0.5)
            if index % columns == 0:
                drawn.append(text(0, y + 5, row.label, "strong"))
            drawn += _row(row, place, y)
    size = (_WIDE if wide else _NARROW, height * ceil(len(panels) / columns))
    return figure(f"{name}-{'wide' if wide else 'narrow'}", size, title, summary, drawn)


def _place(panel: ForestPanel, column: int, top: float, label_width: float, *, wide: bool) -> _Place:
    low, high = _range(panel)
    if not wide:
        return _Place(label_width, _NARROW - 14, top, low, high)
    width = (_WIDE - label_width - 14 - _GAP) / 2
    left = label_width + column * (width + _GAP)
    return _Place(left, left + width, top, low, high)


def _range(panel: ForestPanel) -> tuple[float, float]:
    """Everything that is drawn, zero included, with a little room at both ends."""
    drawn = [0.0, *([] if panel.limit is None else [panel.limit])]
    for row in panel.rows:
        drawn += [value for value in (row.estimate, row.low, row.high) if value is not None]
    low, high = min(drawn), max(drawn)
    room = 0.08 * (high - low) or 1.0
    return low - room, high + room


def _frame(panel: ForestPanel, place: _Place) -> list[Markup]:
    bottom = place.top + _TOP + _ROW * len(panel.rows)
    drawn = [
        element("path", d=f"M{place.left:.2f} {bottom:.2f}H{place.right:.2f}", class_="axis"),
        _upright(place.x(0.0), place.top + _TOP - 4, bottom, "axis"),
    ]
    step = round_step((place.high - place.low) / max(2.0, (place.right - place.left) / 62))
    first, last = int(place.low / step - 1e-9), int(place.high / step + 1e-9)
    for number in range(first, last + 1):
        x = place.x(number * step)
        drawn.append(element("path", d=f"M{x:.2f} {bottom:.2f}v5", class_="axis"))
        drawn.append(text(x, bottom + 20, f"{number * step:g}".replace("-", "\u2212"), "small muted", "middle"))
    if panel.limit is not None:
        drawn.append(_upright(place.x(panel.limit), place.top + _TOP - 4, bottom, "limit"))
    return drawn


def _row(row: ForestRow, place: _Place, y: float) -> list[Markup]:
    if row.estimate is None:
        return [text(place.left + 6, y + 5, row.words, "small muted halo")]
    style = {True: "accent", False: "alarm", None: "plain-mark"}[row.good]
    drawn = []
    ends = [place.x(row.estimate if end is None else end) for end in (row.low, row.high)]
    drawn.append(element("rect", x=ends[0], y=y - 1.25, width=max(ends[1] - ends[0], 0.5), height=2.5, class_=style))
    for end in (row.low, row.high):
        if end is not None:
            drawn.append(element("rect", x=place.x(end) - 1.25, y=y - 6, width=2.5, height=12, class_=style))
    drawn.append(element("circle", cx=place.x(row.estimate), cy=y, r=4.5, class_=style))
    return drawn


def _upright(x: float, top: float, bottom: float, style: str) -> Markup:
    return element("path", d=f"M{x:.2f} {top:.2f}V{bottom:.2f}", class_=style)
