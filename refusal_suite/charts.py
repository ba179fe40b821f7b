"""Static charts as inline SVG. Colours come from the page's style sheet, so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

__all__ = ["Band", "Part", "bar", "budget_chart", "element", "figure", "ms", "round_step", "shade", "text"]


@dataclass(frozen=True)
class Part:
    """A stretch of a bar: its length in the chart's unit, its style class, and how strong the colour is (0 to 1)."""

    value: float
    style: str
    strength: float = 1.0


@dataclass(frozen=True)
class Band:
    """Budgets from `from_ms` up to the next band get `depth` (None: none fits), in `strength` of the accent."""

    from_ms: float
    depth: str | None
    strength: float = 1.0


def ms(value: float) -> str:
    """Milliseconds for reading: one decimal below 100."""
    return f"{value:.1f}\u00a0ms" if value < 99.95 else f"{value:,.0f}\u00a0ms".replace(",", "\u202f")


def shade(index: int, count: int) -> float:
    """How strong the accent is for the depth `index` of `count`: deeper is stronger."""
    return 1.0 if count < 2 else round(0.38 + 0.62 * index / (count - 1), 3)


def element(tag: str, *children: str, **attributes: object) -> Markup:
    """An SVG element; in an attribute's name `_` stands for `-`, and a trailing one is dropped."""
    pairs = "".join(f' {name.rstrip("_").replace("_", "-")}="{escape(_plain(v))}"' for name, v in attributes.items())
    return Markup(f"<{tag}{pairs}>{''.join(escape(child) for child in children)}</{tag}>")


def text(x: float, y: float, words: str, style: str = "", anchor: str = "start") -> Markup:
    """Words whose baseline begins, centres (`middle`) or ends (`end`) at (x, y)."""
    return element("text", words, x=x, y=y, text_anchor=anchor, class_=f"t {style}".strip())


def figure(name: str, size: tuple[float, float], title: str, summary: str, parts: Sequence[Markup]) -> Markup:
    """A picture that a screen reader announces with its title and summary; the end of `name` is its style class."""
    return element(
        "svg",
        element("title", title, id=f"{name}-title"),
        element("desc", summary, id=f"{name}-summary"),
        *parts,
        viewBox=f"0 0 {_plain(size[0])} {_plain(size[1])}",
        role="img",
        class_=f"picture {name.rsplit('-', 1)[-1]}",
        aria_labelledby=f"{name}-title",
        aria_describedby=f"{name}-summary",
    )


def bar(parts: Sequence[Part], longest: float, label: str, *, tip: float | None = None) -> Markup:
    """A bar as wide as its cell, where `longest` fills it.

    `tip` draws a thin continuation up to that value, such as a high percentile. The bar repeats numbers beside it, and
    `label` says which.
    """
    scale = 100 / longest if longest > 0 else 0.0
    drawn, at = [element("rect", x=0, y=0, width=100, height=10, class_="track")], 0.0
    for part in parts:
        drawn.append(
            element("rect", x=at, y=0, width=part.value * scale, height=10, class_=part.style, opacity=part.strength)
        )
        at += part.value * scale
    if tip is not None and tip * scale > at:
        drawn.append(element("rect", x=at, y=3.5, width=tip * scale - at, height=3, class_="tip"))
    return element("svg", *drawn, viewBox="0 0 100 10", preserveAspectRatio="none", role="img", class_="bar",
                   aria_label=label)  # fmt: skip


def budget_chart(name: str, width: float, bands: Sequence[Band], end_ms: float, title: str, summary: str) -> Markup:
    """A strip of budgets from 0 to `end_ms`: which depth is chosen for each, and where no depth fits."""
    left, right, height = 1.0, width - 1.0, 46.0
    scale = (right - left) / end_ms
    rows = _edge_rows(bands, scale)
    top = 30.0 + 18 * max(rows[1:], default=0)
    drawn: list[Markup] = []
    for n, (band, row) in enumerate(zip(bands, rows, strict=True)):
        x = left + band.from_ms * scale
        span = ((bands[n + 1].from_ms if n + 1 < len(bands) else end_ms) - band.from_ms) * scale
        drawn += _band(band, x, span, top, height)
        if n:
            drawn.append(element("path", d=f"M{_plain(x)} {top - 18 - 18 * row}V{top + height}", class_="edge"))
            drawn.append(text(x + 6, top - 9 - 18 * row, ms(band.from_ms), "small"))
    drawn += _axis(left, right, scale, end_ms, top + height)
    return figure(name, (width, top + height + 28), title, summary, drawn)


def _band(band: Band, x: float, span: float, top: float, height: float) -> list[Markup]:
    style, words = ("none", "no depth fits") if band.depth is None else ("accent", band.depth)
    strong = band.depth is not None and band.strength > 0.7
    return [
        element("rect", x=x, y=top, width=span, height=height, class_=style, opacity=band.strength),
        text(
            x + span / 2,
            top + height / 2 + 5,
            words if len(words) * 8 + 6 <= span else "",
            "strong onaccent" if strong else "strong",
            "middle",
        ),
    ]


def _edge_rows(bands: Sequence[Band], scale: float) -> list[int]:
    """In which row above the strip each change is named: one that would run into the next one stands above it."""
    rows = [0] * len(bands)
    for n in range(len(bands) - 2, -1, -1):
        close = (bands[n + 1].from_ms - bands[n].from_ms) * scale < 7.2 * len(ms(bands[n].from_ms)) + 10
        rows[n] = rows[n + 1] + 1 if close else 0
    return rows


def _axis(left: float, right: float, scale: float, end_ms: float, y: float) -> list[Markup]:
    step = round_step(end_ms / max(2, (right - left) / 110))
    drawn = [element("path", d=f"M{left} {y}H{right}", class_="axis")]
    for n in range(int(end_ms / step + 1e-9) + 1):
        x = left + n * step * scale
        drawn.append(element("path", d=f"M{_plain(x)} {y}v5", class_="axis"))
        anchor = "start" if n == 0 else "end" if x > right - 18 else "middle"
        drawn.append(text(x, y + 20, ms(n * step).replace(".0\u00a0", "\u00a0"), "small muted", anchor))
    return drawn


def round_step(least: float) -> float:
    """The smallest of 1, 2, 5, 10, 20, 50, ... that is at least `least`."""
    power: float = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def _plain(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
