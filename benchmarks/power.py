"""`python -m benchmarks.power [FILE]`: the power of the gate's test as a picture, by default docs/gate-power.svg."""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path
from typing import Any

from benchmarks.claims import ROOT
from jetson_runtime.console import require
from refusal_suite.noninferiority import chance, least_n

__all__ = ["main", "power_svg"]

ALPHA, PROMPTS = 0.05, 264
MARGINS = {0.03: "#7a4fa3", 0.05: "#2a6f97", 0.10: "#3f7d4e"}
SHARES = {0.02: "#2a6f97", 0.05: "#3f7d4e", 0.10: "#b4402e", 0.20: "#7a4fa3"}  # of prompts judged differently
INK, MUTED, GRID = "#1f2933", "#5f6b76", "#d9dee3"


def power_svg(most: int = 1100, step: int = 40) -> str:
    """Left, how likely an equal depth is admitted, by number of prompts; right, how that falls with the true loss.

    Raises:
        MissingExtraError: scipy or matplotlib is not installed (extras `gate`, `report`).
    """
    matplotlib, figures = require("matplotlib", "report"), require("matplotlib.figure", "report")
    style = {
        "svg.hashsalt": "holdfast", "svg.fonttype": "path", "font.size": 10, "font.family": "DejaVu Sans",
        "axes.edgecolor": GRID, "text.color": INK, "axes.labelcolor": INK, "xtick.color": MUTED, "ytick.color": MUTED,
    }  # fmt: skip
    with matplotlib.rc_context(style):
        figure = figures.Figure(figsize=(10, 4.4), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        _by_number(left, most, step)
        _by_loss(right)
        for axis in (left, right):
            axis.set_ylim(0, 102)
            axis.grid(color=GRID, linewidth=0.8)
            axis.tick_params(length=0)
            axis.spines[["top", "right"]].set_visible(False)
        left.set_ylabel("% admitted")
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()


def _by_number(axis: Any, most: int, step: int) -> None:
    for margin, colour in MARGINS.items():
        least = least_n(margin, ALPHA)
        numbers = [least, *range((least // step + 1) * step, most + 1, step)]
        for share, line in ((0.05, "-"), (0.10, "--")):
            admitted = [100 * chance(n, margin, ALPHA, share / 2, share / 2) for n in numbers]
            label = f"margin {100 * margin:g} points, {100 * share:g} % differ"
            axis.plot(numbers, admitted, line, color=colour, linewidth=1.5, label=label)
    axis.axhline(80, color=MUTED, linewidth=0.8, linestyle=":")
    axis.set_title("An equal depth, by number of prompts", loc="left", fontsize=11)
    axis.set_xlabel("independent prompts of a kind")
    axis.legend(loc="lower right", frameon=False, fontsize=8)


def _by_loss(axis: Any) -> None:
    for share, colour in SHARES.items():
        losses = [loss / 400 for loss in range(33) if loss / 400 <= share]
        admitted = [100 * chance(PROMPTS, 0.05, ALPHA, (share + loss) / 2, (share - loss) / 2) for loss in losses]
        label = f"{100 * share:g} % differ"
        axis.plot([100 * loss for loss in losses], admitted, color=colour, linewidth=1.5, label=label)
    axis.axhline(100 * ALPHA, color=MUTED, linewidth=0.8, linestyle=":")
    axis.axvline(5, color=MUTED, linewidth=0.8, linestyle=":")
    axis.set_title(f"{PROMPTS} prompts, margin 5 points, by the true loss", loc="left", fontsize=11)
    axis.set_xlabel("points worse than the reference")
    axis.legend(loc="upper right", frameon=False, fontsize=8)


def main(argv: list[str] | None = None) -> int:
    """Draw it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.power", description=__doc__)
    parser.add_argument("file", type=Path, nargs="?", default=ROOT / "docs" / "gate-power.svg")
    file: Path = parser.parse_args(argv).file
    file.write_text(power_svg(), encoding="utf-8")
    print(file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
