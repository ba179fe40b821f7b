"""The picture of a refusal report: refusals, over-refusals and incoherent answers at each depth, with intervals."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from jetson_runtime.console import require
from refusal_suite.results import RATES

__all__ = ["rates_svg"]

INK, MUTED, GRID = "#1f2933", "#5f6b76", "#d9dee3"
HARMFUL_COLOUR, BENIGN_COLOUR = "#b4402e", "#2a6f97"
PANELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Refused", ("refusal", "over_refusal")),
    ("Incoherent", ("incoherent_harmful", "incoherent_benign")),
)


def rates_svg(report: Mapping[str, Any]) -> str:
    """An SVG; the same report gives the same picture.

    Raises:
        MissingExtraError: matplotlib (the extra `report`) is not installed.
    """
    matplotlib = require("matplotlib", "report")
    figures = require("matplotlib.figure", "report")
    depths = report["depths"]
    style = {
        "svg.hashsalt": "holdfast", "svg.fonttype": "path", "font.size": 10, "font.family": "DejaVu Sans",
        "axes.edgecolor": GRID, "text.color": INK, "axes.labelcolor": INK, "xtick.color": MUTED, "ytick.color": INK,
    }  # fmt: skip
    with matplotlib.rc_context(style):
        figure = figures.Figure(figsize=(9, 1.9 + 0.62 * len(depths)), layout="constrained")
        axes = figure.subplots(1, len(PANELS), sharey=True)
        for axis, (title, rates) in zip(axes, PANELS, strict=True):
            _panel(axis, title, rates, depths)
        axes[0].set_yticks(range(len(depths)), [_depth_label(depth) for depth in depths])
        axes[0].set_ylim(len(depths) - 0.4, -0.6)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
        asked = " and ".join(f"{entry['name']} ({sum(entry['n'].values())})" for entry in report["prompt_sets"])
        figure.suptitle(f"{_model(report)}: {asked}, one greedy answer each, 95 % intervals", fontsize=10, color=MUTED)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()


def _model(report: Mapping[str, Any]) -> str:
    model = report["bundle"]["model"]
    return f"{model['id']} {model['version']}" if isinstance(model, Mapping) else str(model)


def _depth_label(depth: Mapping[str, Any]) -> str:
    return f"{depth['name']}\nvision {depth['vision']}, decoder {depth['decoder']}"


def _panel(axis: Any, title: str, rates: Sequence[str], depths: Sequence[Mapping[str, Any]]) -> None:
    for name, colour, marker, shift in zip(
        rates, (HARMFUL_COLOUR, BENIGN_COLOUR), ("o", "s"), (-0.14, 0.14), strict=True
    ):
        points = [(row, depth["rates"][name]) for row, depth in enumerate(depths)]
        known = [(row + shift, rate) for row, rate in points if rate["rate"] is not None]
        middles = [100 * rate["rate"] for _, rate in known]
        below = [100 * (rate["rate"] - rate["low"]) for _, rate in known]
        above = [100 * (rate["high"] - rate["rate"]) for _, rate in known]
        axis.errorbar(
            middles, [row for row, _ in known], xerr=(below, above), fmt=marker, color=colour, markersize=6,
            capsize=3, linewidth=1.4, label=f"{RATES[name][0]} prompts",
        )  # fmt: skip
        for row, rate in known:
            axis.annotate(
                f"{100 * rate['rate']:.0f}", (100 * rate["high"], row), xytext=(5, 0), textcoords="offset points",
                va="center", fontsize=8, color=colour,
            )  # fmt: skip
    axis.set_title(title, loc="left", fontsize=11)
    axis.set_xlim(-3, 108)
    axis.set_xlabel("% of the prompts")
    axis.grid(axis="x", color=GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(length=0)
    axis.spines[["top", "right", "left"]].set_visible(False)
