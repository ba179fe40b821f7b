"""Before and after as the page shows them: words, rows, and a picture of paired bars."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from jetson_runtime.ladder import Ladder
from refusal_suite.charts import element, figure, text
from refusal_suite.page_pair import MEASURES, Pair, Side, measures, untrained_words
from refusal_suite.page_view import backend_words, judge_words, percent, refusals_view
from refusal_suite.reports import DepthRefusals, Kind

__all__ = ["pair_digests", "pair_not_run", "pair_picture", "pair_view"]

_TOP, _BAR, _AFTER, _ROW = 44.0, 15.0, 32.0, 78.0


def pair_view(pair: Pair) -> dict[str, Any]:
    """What both columns are, both forms of the picture, the table's rows, and what to mind when reading them."""
    depths = list(zip(*(side.report.depths for side in pair.sides), strict=True))
    return {
        "labels": [side.label for side in pair.sides],
        "facts": [*((side.label, _side_words(side)) for side in pair.sides), ("Both", _both_words(pair))],
        "wide": pair_picture(depths, wide=True),
        "narrow": pair_picture(depths, wide=False),
        "rows": [
            {"depth": both[0], "lines": _lines(both, pair.after.report.confidence)} for both in depths
        ],
        "notes": [words for side in pair.sides for words in _incoherent_words(side)],
        "before": refusals_view(pair.before.report, pair.before.report.engines_digest),
        "interval": pair.after.report.interval,
    }  # fmt: skip


def _side_words(side: Side) -> str:
    words = [side.report.model]
    if side.stages is not None and side.stages.sha256 is not None:
        words.append(f"checkpoint sha256 {side.stages.sha256[:16]}…")
    if side.stages is not None and side.stages.adapters is not None:
        words.append(f"trained by {_commands(side.stages.adapters)}" if side.stages.adapters else "no stage trained it")
    return ", ".join([*words, f"bundle sha256 {side.report.bundle_digest[:16]}… ({side.report.file})"])


def _commands(adapters: Sequence[str]) -> str:
    return ", ".join(f"'realign {name}'" for name in adapters)


def _both_words(pair: Pair) -> str:
    report = pair.after.report
    asked = report.depths[0].harmful.n + report.depths[0].benign.n
    return (
        f"{'; '.join(report.sets)}: the same {asked} prompts at every depth, one greedy answer each "
        f"of up to {report.max_tokens} tokens, by {backend_words(report.backend)}, judged by "
        f"{judge_words(report.judge)}"
    )


def _lines(both: Sequence[DepthRefusals], confidence: float) -> list[dict[str, Any]]:
    columns = [measures(depth, confidence) for depth in both]
    return [
        {"what": what[0].upper() + what[1:], "rates": rates}
        for what, *rates in zip(MEASURES, *columns, strict=True)
    ]  # fmt: skip


def _incoherent_words(side: Side) -> Iterator[str]:
    names = [
        depth.name
        for depth in side.report.depths
        if 2 * (depth.harmful.incoherent + depth.benign.incoherent) > depth.harmful.n + depth.benign.n
    ]
    if names:
        yield f"{side.label}: most answers at {', '.join(names)} were incoherent; nothing useful is said there."


def pair_digests(pair: Pair) -> list[tuple[str, list[tuple[str, str]]]]:
    """The digests of what was measured before, for the page's provenance."""
    report, stages = pair.before.report, pair.before.stages
    facts = [("Manifest SHA-256", report.bundle_digest), ("Engines SHA-256", report.engines_digest)]
    if stages is not None and stages.sha256 is not None:
        facts.append(("Checkpoint SHA-256", stages.sha256))
    return [(f"Bundle of {report.file}", facts)]


def pair_not_run(pair: Pair, ladder: Ladder) -> Iterator[str]:
    """What the two columns don't show."""
    before, after = pair.before.stages, pair.after.stages
    if before is not None:
        yield from untrained_words(before, ladder, "the checkpoint before")
    if before is not None and after is not None and before.adapters is not None and after.adapters is not None:
        between = [name for name in after.adapters if name not in before.adapters]
        if len(between) > 1:
            yield (
                f"Between before and after lie {_commands(between)}. What each of them changed by itself is not "
                "measured here."
            )
    yield (
        "Before and after have an interval each, and a difference within the intervals shows nothing. What tests them "
        "prompt by prompt is 'refusal-check compare'."
    )


@dataclass(frozen=True)
class _Panel:
    """Where the bars of one kind of prompt lie, and the styles of refused, incoherent and answered."""

    title: str
    harmful: bool
    left: float
    right: float
    top: float
    styles: tuple[str, str, str]

    def x(self, share: float) -> float:
        """Where a share of 0..1 lies."""
        return self.left + share * (self.right - self.left)

    def kind(self, depth: DepthRefusals) -> Kind:
        """The answers that this panel shows."""
        return depth.harmful if self.harmful else depth.benign


def pair_picture(depths: Sequence[tuple[DepthRefusals, ...]], *, wide: bool) -> Markup:
    """For each depth (before, after) two bars per kind of prompt, the interval of the refused share below each."""
    height = _TOP + _ROW * len(depths) + 20
    styles = {True: ("accent", "empty", "alarm"), False: ("alarm", "empty", "accent")}
    places = ((214.0, 562.0, 0.0), (640.0, 988.0, 0.0)) if wide else ((92.0, 350.0, 0.0), (92.0, 350.0, height + 16))
    panels = [
        _Panel(title, harmful, *place, styles[harmful])
        for title, harmful, place in zip(("Harmful requests", "Harmless requests"), (True, False), places, strict=True)
    ]
    drawn = []
    for number, panel in enumerate(panels):
        drawn += [text(panel.left, panel.top + 16, panel.title, "strong")]
        drawn += [text(panel.right + 54, panel.top + 16, "refused", "small muted", "end")]
        for index, both in enumerate(depths):
            y = panel.top + _TOP + _ROW * index
            if number == 0 or not wide:
                drawn += _labels(both[0], y, wide=wide)
            for depth, at in zip(both, (y, y + _AFTER), strict=True):
                drawn += _bar(panel, panel.kind(depth), at)
        drawn += _axis(panel, panel.top + _TOP + _ROW * len(depths) - 6)
    size = (1042.0, height) if wide else (406.0, 2 * height + 16)
    name = "pair-wide" if wide else "pair-narrow"
    return figure(name, size, "Refusals per depth, before and after", _summary(depths), drawn)


def _labels(depth: DepthRefusals, y: float, *, wide: bool) -> list[Markup]:
    end = 204.0 if wide else 82.0
    drawn = [
        text(0, y + 12, depth.name, "strong"),
        text(end, y + 12, "before", "small muted", "end"),
        text(end, y + _AFTER + 12, "after", "small strong", "end"),
    ]
    if wide:
        drawn.append(text(0, y + 30, f"vision {depth.vision}, decoder {depth.decoder}", "small muted"))
    return drawn


def _bar(panel: _Panel, kind: Kind, y: float) -> list[Markup]:
    counts = (kind.refused.hits, kind.incoherent, kind.complied)
    drawn, at = [], 0.0
    for count, style in zip(counts, panel.styles, strict=True):
        share = count / kind.n
        drawn.append(
            element("rect", x=panel.x(at), y=y, width=panel.x(share) - panel.left, height=_BAR, class_=style)
        )  # fmt: skip
        at += share
    low, high = panel.x(kind.refused.low), panel.x(kind.refused.high)
    whisker = (
        f"M{low:.2f} {y + _BAR + 3:.2f}v5M{low:.2f} {y + _BAR + 5.5:.2f}H{high:.2f}M{high:.2f} {y + _BAR + 3:.2f}v5"
    )
    drawn.append(element("path", d=whisker, class_="edge"))
    drawn.append(text(panel.right + 54, y + 12, f"{100 * kind.refused.rate:.0f}\u00a0%", "small", "end"))
    return drawn


def _axis(panel: _Panel, y: float) -> list[Markup]:
    drawn = [element("path", d=f"M{panel.left} {y}H{panel.right}", class_="axis")]
    for share in (0.0, 0.5, 1.0):
        drawn.append(element("path", d=f"M{panel.x(share):.2f} {y}v5", class_="axis"))
        drawn.append(text(panel.x(share), y + 20, f"{100 * share:.0f}\u00a0%", "small muted", "middle"))
    return drawn


def _summary(depths: Sequence[tuple[DepthRefusals, ...]]) -> str:
    return "; ".join(
        f"{before.name}: harmful refused {percent(before.harmful.refused.rate)} before, "
        f"{percent(after.harmful.refused.rate)} after, harmless refused {percent(before.benign.refused.rate)} before, "
        f"{percent(after.benign.refused.rate)} after"
        for before, after in depths
    )
