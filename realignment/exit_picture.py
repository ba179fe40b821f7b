"""The picture of a measurement: attack success, refusals, incoherence and visual questions, one row per depth."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from jetson_runtime.console import require
from realignment.exit_report import VISUAL, rates

__all__ = ["exits_svg"]

INK, MUTED, GRID = "#1f2933", "#5f6b76", "#d9dee3"
RED, BLUE, GREY = "#b4402e", "#2a6f97", "#8a929b"
Line = tuple[str, str, str, str]

# title → (rate, what it is called, colour, marker)
PANELS: dict[str, tuple[Line, ...]] = {
    "Harmful prompts": (
        ("attack_success", "answered", RED, "o"),
        ("refusal", "refused", BLUE, "s"),
        ("incoherent_harmful", "incoherent", GREY, "x"),
    ),
    "Benign prompts": (
        ("over_refusal", "refused", BLUE, "s"),
        ("incoherent_benign", "incoherent", GREY, "x"),
    ),
    "Visual questions": ((VISUAL, "right", INK, "D"),),
}


def exits_svg(report: Mapping[str, Any]) -> str:
    """An SVG; the same report gives the same picture.

    Raises:
        MissingExtraError: matplotlib (the extra `report`) is not installed.
    """
    matplotlib = require("matplotlib", "report")
    figures = require("matplotlib.figure", "report")
    depths = report["depths"]
    panels = [title for title in PANELS if title != "Visual questions" or report["questions"]]
    style = {
        "svg.hashsalt": "holdfast", "svg.fonttype": "path", "font.size": 9, "font.family": "DejaVu Sans",
        "axes.edgecolor": GRID, "text.color": INK, "axes.labelcolor": INK, "xtick.color": MUTED, "ytick.color": INK,
    }  # fmt: skip
    with matplotlib.rc_context(style):
        figure = figures.Figure(figsize=(2 + 3 * len(panels), 1.9 + 0.27 * len(depths)), layout="constrained")
        axes = figure.subplots(1, len(panels), sharey=True)
        for axis, title in zip(axes, panels, strict=True):
            _panel(axis, title, depths)
        axes[0].set_yticks(range(len(depths)), [_label(depth, report["full_depth"]) for depth in depths])
        axes[0].set_ylim(len(depths) - 0.4, -0.6)
        # One legend for all panels: a word has the same colour in each.
        words: dict[str, Any] = {}
        for axis in axes:
            handles, labels = axis.get_legend_handles_labels()
            words |= dict(zip(labels, handles, strict=True))
        figure.legend(words.values(), words.keys(), loc="outside lower center", ncols=len(words), frameon=False)
        asked = " and ".join(f"{entry['name']} ({sum(entry['n'].values())})" for entry in report["prompt_sets"])
        name = report["checkpoint"]["name"]
        figure.suptitle(f"{name}: {asked}, one greedy answer each, 95 % intervals", fontsize=10, color=MUTED)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()


def _label(depth: Mapping[str, Any], full: Mapping[str, Any]) -> str:
    vision = "text alone" if depth["vision"] is None else f"vision {depth['vision']}"
    mark = " (full depth)" if (depth["vision"], depth["decoder"]) == (full["vision"], full["decoder"]) else ""
    return f"{vision}, decoder {depth['decoder']}{mark}"


def _panel(axis: Any, title: str, depths: Sequence[Mapping[str, Any]]) -> None:
    lines = PANELS[title]
    for number, (name, words, colour, marker) in enumerate(lines):
        shift = 0.22 * (number - (len(lines) - 1) / 2)
        known = [(row + shift, rates(depth)[name]) for row, depth in enumerate(depths) if name in rates(depth)]
        axis.errorbar(
            [100 * rate["rate"] for _, rate in known], [row for row, _ in known],
            xerr=(
                [100 * (rate["rate"] - rate["low"]) for _, rate in known],
                [100 * (rate["high"] - rate["rate"]) for _, rate in known],
            ),
            fmt=marker, color=colour, markersize=4, linewidth=1, label=words,
        )  # fmt: skip
    axis.set_title(title, loc="left", fontsize=10)
    axis.set_xlim(-3, 103)
    axis.set_xlabel("%")
    axis.grid(axis="both", color=GRID, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.tick_params(length=0)
    axis.spines[["top", "right", "left"]].set_visible(False)
