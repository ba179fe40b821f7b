"""The ladder as a picture: both towers as chains of segments, and below them one line per depth, like a transit map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from jetson_runtime.ladder import Depth
from jetson_runtime.manifest import Manifest
from refusal_suite.charts import element, figure, shade, text

__all__ = ["ladder_picture"]

_CHAIN_TOP, _CHAIN_HEIGHT, _ROWS_TOP, _ROW = 52.0, 56.0, 156.0, 44.0
_EXIT_RADIUS = 13.0
_FAMILIES = {"clip": "CLIP", "siglip": "SigLIP", "dinov2": "DINOv2", "llama": "Llama"}
_HEADS = {"vision": ("projector",), "decoder": ("final norm", "+ LM head")}


@dataclass(frozen=True)
class _Tower:
    name: str
    title: str
    facts: str
    layers: int
    segments: tuple[tuple[int, int, str], ...]  # first block, last block, size
    exits: tuple[int, ...]
    head_size: str


@dataclass(frozen=True)
class _Panel:
    """Where a tower lies in the picture: its chain from `left` to `right`, its head beside it."""

    tower: _Tower
    left: float
    right: float
    head: float
    head_width: float
    top: float

    def ends(self) -> list[tuple[float, float]]:
        """Left and right edge of every segment, and of the layers that were not built."""
        counts = [last - first + 1 for first, last, _ in self.tower.segments]
        missing = self.tower.layers - sum(counts)
        counts += [missing] * (missing > 0)
        gap = min(2 * _EXIT_RADIUS + 8, 0.45 * (self.right - self.left) / len(counts))
        unit = (self.right - self.left - gap * len(self.tower.segments)) / sum(counts)
        edges, at = [], self.left
        for blocks in counts:
            edges.append((at, at + blocks * unit))
            at += blocks * unit + gap
        return edges

    def exit_x(self, layer: int) -> float:
        """The middle of the gap behind the segment that ends with `layer`."""
        edges = self.ends()
        number = [last for _, last, _ in self.tower.segments].index(layer)
        following = edges[number + 1][0] if number + 1 < len(edges) else self.right
        return (edges[number][1] + following) / 2


def ladder_picture(manifest: Manifest, sizes: dict[str, str], *, wide: bool) -> Markup:
    """The picture for wide pages (towers side by side) or narrow ones (one below the other).

    `sizes` gives, by engine name, the words for its size.
    """
    vision, decoder = (_tower(manifest, sizes, name) for name in ("vision", "decoder"))
    depths = list(manifest.ladder)
    bottom = _ROWS_TOP + _ROW * len(depths)
    if wide:
        panels = [_Panel(vision, 100, 424, 432, 96, 0), _Panel(decoder, 612, 942, 950, 92, 0)]
        size = (1042.0, bottom)
    else:
        panels = [_Panel(vision, 46, 306, 312, 92, 0), _Panel(decoder, 46, 306, 312, 92, bottom + 18)]
        size = (406.0, 2 * bottom + 18)
    drawn: list[Markup] = []
    for panel in panels:
        drawn += [*_chain(panel), *_head(panel)]
    if wide:
        drawn += _between(manifest, panels)
    drawn += [_drop(panel, depth, index) for panel in panels for index, depth in enumerate(depths)]
    for index, depth in enumerate(depths):
        drawn.append(_line(panels, depth, index, len(depths), wide=wide))
    name = "wide" if wide else "narrow"
    return figure(f"ladder-{name}", size, "The ladder: towers, exits and depths", _summary(manifest), drawn)


def _tower(manifest: Manifest, sizes: dict[str, str], name: str) -> _Tower:
    model, ladder = manifest.model, manifest.ladder
    segments = tuple((item.first, item.last, sizes[item.name]) for item in manifest.segments(name))
    if name == "vision":
        title, family, layers, width = "Vision tower", model.vision_family, model.vision_layers, model.vision_width
        exits = ladder.vision_exits()
    else:
        title, family, layers, width = "Decoder tower", model.decoder_family, model.decoder_layers, model.decoder_width
        exits = ladder.decoder_exits()
    facts = f"{_FAMILIES.get(family, family)}, {layers} layers, width {width}"
    return _Tower(name, title, facts, layers, segments, exits, sizes[manifest.head(name).name])


def _chain(panel: _Panel) -> list[Markup]:
    tower, top = panel.tower, panel.top + _CHAIN_TOP
    middle = top + _CHAIN_HEIGHT / 2
    drawn = [
        text(panel.left, panel.top + 16, tower.title, "strong"),
        text(panel.left, panel.top + 35, tower.facts, "small muted"),
        element("path", d=f"M{panel.left} {middle}H{panel.head}", class_="rail"),
    ]
    edges = panel.ends()
    gap = (edges[1][0] if len(edges) > 1 else panel.right) - edges[0][1]
    for (first, last, size), (x0, x1) in zip(tower.segments, edges, strict=False):
        drawn += _segment(first, last, size, (x0, x1), gap, top)
        if last in tower.exits:
            drawn += _exit(panel.exit_x(last), middle, last)
    if len(edges) > len(tower.segments):
        x0, x1 = edges[-1]
        drawn.append(
            element(
                "rect",
                element("title", f"{_layers(tower.layers - tower.segments[-1][1])} that no depth needs: not built"),
                x=x0,
                y=top,
                width=x1 - x0,
                height=_CHAIN_HEIGHT,
                rx=7,
                class_="unbuilt",
            )
        )
    return drawn


def _segment(first: int, last: int, size: str, edges: tuple[float, float], gap: float, top: float) -> list[Markup]:
    x0, x1 = edges
    blocks, width = last - first + 1, x1 - x0
    words = f"blocks {first}–{last}" if width > 82 else f"{first}–{last}" if last > first else str(first)
    drawn = [
        element(
            "rect",
            element("title", f"segment: blocks {first} to {last}, {size}"),
            x=x0,
            y=top,
            width=width,
            height=_CHAIN_HEIGHT,
            rx=7,
            class_="segment",
        )
    ]
    tick = width / blocks
    drawn += [
        element("rect", x=x0 + tick * (n + 0.28), y=top + 10, width=tick * 0.44, height=20, rx=1.5, class_="block")
        for n in range(blocks)
    ]
    if len(words) * 7.2 < width:
        drawn.append(text((x0 + x1) / 2, top + 46, words, "small", "middle"))
    if len(size) * 7.6 < width + gap:
        drawn.append(text((x0 + x1) / 2, top + _CHAIN_HEIGHT + 17, size, "small muted", "middle"))
    return drawn


def _exit(x: float, y: float, layer: int) -> list[Markup]:
    return [
        element("circle", element("title", f"exit {layer}"), cx=x, cy=y, r=_EXIT_RADIUS, class_="exit"),
        text(x, y + 4.5, str(layer), "small strong", "middle"),
    ]


def _head(panel: _Panel) -> list[Markup]:
    top, middle = panel.top + _CHAIN_TOP, panel.head + panel.head_width / 2
    words = _HEADS[panel.tower.name]
    first = top + _CHAIN_HEIGHT / 2 + 5 - 8 * (len(words) - 1)
    return [
        element("rect", x=panel.head, y=top, width=panel.head_width, height=_CHAIN_HEIGHT, rx=7, class_="head"),
        *(text(middle, first + 16 * n, line, "small strong", "middle") for n, line in enumerate(words)),
        text(middle, panel.top + 16, "Head", "small muted", "middle"),
        text(middle, top + _CHAIN_HEIGHT + 17, panel.tower.head_size, "small muted", "middle"),
    ]


def _between(manifest: Manifest, panels: Sequence[_Panel]) -> list[Markup]:
    """What goes into the vision tower, and what goes from it into the decoder beside it."""
    model, y = manifest.model, _CHAIN_TOP + _CHAIN_HEIGHT / 2
    start, end = panels[0].head + panels[0].head_width, panels[1].left
    middle = (start + end) / 2
    return [
        text(0, y - 4, "Picture", "small strong"),
        text(0, y + 13, f"{model.image_size} × {model.image_size} px", "small muted"),
        element("path", d=f"M{start} {y}H{end}", class_="rail"),
        text(middle, y - 9, f"{model.image_tokens} tokens", "small muted", "middle"),
        text(middle, y + 19, "+ the text's", "small muted", "middle"),
    ]


def _drop(panel: _Panel, depth: Depth, index: int) -> Markup:
    """From an exit down to its depth's row; drawn before every row, so that words stay in front of it."""
    x, top = panel.exit_x(_exit_of(panel, depth)), panel.top + _CHAIN_TOP + _CHAIN_HEIGHT - 12
    return element("path", d=f"M{x:.2f} {top}V{_row_y(panel, index)}", class_="drop")


def _row_y(panel: _Panel, index: int) -> float:
    return panel.top + _ROWS_TOP + _ROW * index + 14


def _layers(count: int) -> str:
    return f"{count} layer{'s' if count != 1 else ''}"


def _exit_of(panel: _Panel, depth: Depth) -> int:
    return depth.vision if panel.tower.name == "vision" else depth.decoder


def _line(panels: Sequence[_Panel], depth: Depth, index: int, count: int, *, wide: bool) -> Markup:
    """One depth: solid where blocks run, dashed where they are skipped, a square where a head runs."""
    strength, drawn = shade(index, count), []
    for number, panel in enumerate(panels):
        y, layer = _row_y(panel, index), _exit_of(panel, depth)
        exit_x, head_x = panel.exit_x(layer), panel.head + panel.head_width / 2
        skipped = max(item[1] for item in panel.tower.segments) - layer
        drawn += [
            element("path", d=f"M{exit_x:.2f} {y}H{head_x}", class_="skip" if skipped else "carry"),
            element("path", d=f"M{panel.left} {y}H{exit_x:.2f}", class_="run", stroke_opacity=strength),
            element("circle", cx=exit_x, cy=y, r=7, class_="stop"),
            element("rect", x=head_x - 7, y=y - 7, width=14, height=14, rx=3, class_="stop"),
        ]
        if skipped and head_x - exit_x > 130:
            drawn.append(text((exit_x + head_x) / 2, y - 7, f"skips {_layers(skipped)}", "small muted halo", "middle"))
        if number + 1 < len(panels) and wide:
            drawn.append(element("path", d=f"M{head_x + 7} {y}H{panels[1].left}", class_="carry"))
        if number == 0 or not wide:
            drawn += [text(0, y + 1, depth.name, "strong"), *_note(depth, index, count, y, wide=wide)]
    return element("g", *drawn, class_="depth")


def _note(depth: Depth, index: int, count: int, y: float, *, wide: bool) -> list[Markup]:
    if not wide:
        return []
    words = "full depth" if index + 1 == count else f"{depth.vision} + {depth.decoder} layers"
    return [text(0, y + 17, words, "small muted")]


def _summary(manifest: Manifest) -> str:
    ladder = manifest.ladder
    parts = [
        f"{name} tower: segments "
        + ", ".join(f"{item.first} to {item.last}" for item in manifest.segments(name))
        + f", exits after layers {', '.join(map(str, exits))}."
        for name, exits in (("Vision", ladder.vision_exits()), ("Decoder", ladder.decoder_exits()))
        for name in (name.lower(),)
    ]
    return " ".join([*parts, "Depths, shallowest first:", "; ".join(str(depth) for depth in ladder) + "."])
