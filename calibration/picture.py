"""Draws a profile: time to the first token and per token by depth, and which engines the time goes to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

from calibration.report import DepthTimes, depth_times, ladder_of, machine_lines
from jetson_runtime.console import require
from jetson_runtime.files import storage_errors
from jetson_runtime.profile import LatencyProfile, Row

__all__ = ["draw"]

_VISION, _PREFILL, _DECODE = "#0072B2", "#E69F00", "#009E73"  # Okabe and Ito: told apart by every eye
_SHADES = (0.75, 0.55, 0.4, 0.3, 0.2)


def draw(profile: LatencyProfile, path: Path) -> None:
    """Write the picture of a profile as SVG, whole or not at all.

    Raises:
        MissingExtraError: matplotlib is not installed. StorageError: no place to write.
    """
    figures = require("matplotlib.figure", "report", "matplotlib")
    matplotlib = require("matplotlib", "report")
    partial = path.with_name(f".{path.name}.partial")
    # Text stays text (searchable, and small), and the same profile gives the same file.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "holdfast", "font.size": 9}):
        figure = figures.Figure(figsize=(8, 7.2), layout="constrained")
        first, token, share = figure.subplots(3, 1, gridspec_kw={"height_ratios": [1.1, 1, 1.2]})
        typical, slow = depth_times(profile, "p50"), depth_times(profile, "p99")
        _first_token(first, typical, slow)
        _per_token(token, typical, slow)
        _engines(share, profile)
        figure.suptitle("\n".join(["Latency by depth", *wrap(machine_lines(profile), 100)]), fontsize=10)
        with storage_errors(path):
            try:
                figure.savefig(partial, format="svg", metadata={"Date": None})
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)


def _labels(times: Sequence[DepthTimes]) -> list[str]:
    return [f"{item.name}\nvision {item.vision}, decoder {item.decoder}" for item in times]


def _bars(axes: Any, typical: Sequence[DepthTimes], title: str) -> range:
    places = range(len(typical))
    axes.set_yticks(places, _labels(typical))
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds")
    axes.set_title(title, loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    return places


def _first_token(axes: Any, typical: Sequence[DepthTimes], slow: Sequence[DepthTimes]) -> None:
    places = _bars(axes, typical, f"Time to first token (image, {typical[0].prompt_tokens} tokens)")
    vision = [item.vision_ms for item in typical]
    axes.barh(places, vision, 0.6, color=_VISION, label="vision, median")
    axes.barh(places, [item.prefill_ms for item in typical], 0.6, vision, color=_PREFILL, label="prefill, median")
    _tail(axes, [item.first_token_ms for item in typical], [item.first_token_ms for item in slow], "{:.0f} ms")


def _per_token(axes: Any, typical: Sequence[DepthTimes], slow: Sequence[DepthTimes]) -> None:
    places = _bars(axes, typical, "Time per further token")
    times = [item.per_token_ms for item in typical]
    axes.barh(places, times, 0.6, color=_DECODE, label="decode, median")
    _tail(axes, times, [item.per_token_ms for item in slow], "{:.1f} ms")


def _tail(axes: Any, typical: Sequence[float], slow: Sequence[float], form: str) -> None:
    """Mark the 99th percentile, which the policy counts on, and write both beside the bar."""
    axes.plot(slow, range(len(slow)), "k|", markersize=14, markeredgewidth=2, label="p99")
    for place, (p50, p99) in enumerate(zip(typical, slow, strict=True)):
        text = f"{form.format(p50)} (p99 {form.format(p99)})"
        axes.annotate(text, (max(p50, p99), place), (6, 0), textcoords="offset points", va="center")
    axes.set_xlim(0, 1.35 * max(*typical, *slow))  # room for the text behind the longest bar
    corner = {"loc": "lower right", "bbox_to_anchor": (1, 1), "borderaxespad": 0.2}
    axes.legend(**corner, ncols=3, columnspacing=1.2, frameon=False, fontsize=8)


def _engines(axes: Any, profile: LatencyProfile) -> None:
    _, tokens, _ = ladder_of(profile)
    phases = (("vision", _VISION), ("prefill", _PREFILL), ("decode", _DECODE))
    places, names = range(len(phases)), []
    for place, (phase, colour) in zip(places, phases, strict=True):
        rows = _engine_rows(profile, phase, tokens)
        total, left = sum(row.p50_ms for row in rows), 0.0
        names.append(f"{phase}, {rows[0].tokens} token{'s' * (rows[0].tokens > 1)}\n{total:.1f} ms")
        for number, row in enumerate(rows):
            width = 100 * row.p50_ms / total
            axes.barh(place, width, 0.6, left, color=colour, alpha=_SHADES[number % len(_SHADES)], edgecolor="white")
            if width > 9:
                axes.text(left + width / 2, place, f"{row.name}\n{width:.0f} %", ha="center", va="center", fontsize=8)
            left += width
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("percent of the phase (medians of the engines one by one; shares below 9 % are not labelled)")
    axes.set_title("Where the time goes at full depth, engine by engine", loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)


def _engine_rows(profile: LatencyProfile, phase: str, tokens: int) -> list[Row]:
    """The engines of a phase in the order in which they run, prefill at the measured length that is nearest."""
    engines = [row for row in profile.rows if (row.scope, row.state) == ("engine", "warm")]
    rows = [row for row in engines if row.phase == phase]
    if phase == "prefill":
        nearest = min((row.tokens for row in rows), key=lambda count: abs(count - tokens))
        rows = [row for row in rows if row.tokens == nearest]
        names = {row.name for row in rows}
        # The head does the same for a prompt as for a token, and is measured with the latter.
        rows += [row for row in engines if row.phase == "decode" and row.name not in names]
    return sorted(rows, key=lambda row: (row.layer == 0 and row.name != "embedding", row.layer))
