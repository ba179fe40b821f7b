"""Refusals before and after a change of the model: two reports side by side, if they can be compared at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from jetson_runtime.errors import InputError
from jetson_runtime.ladder import Ladder
from jetson_runtime.manifest import Manifest
from refusal_suite.report_match import Mismatch, mismatches, not_comparable
from refusal_suite.reports import DepthRefusals, Kind, Rate, RefusalReport
from refusal_suite.statistics import wilson

__all__ = ["MEASURES", "Pair", "Side", "Stages", "compare", "measures", "pair_table", "stages_of", "untrained_words"]

MEASURES = (
    "harmful refused",
    "harmful answered",
    "harmful, incoherent",
    "harmless refused",
    "harmless, incoherent",
)
"""What the two columns say of each depth, in this order."""


@dataclass(frozen=True)
class Stages:
    """A bundle's checkpoint: its digest, and the training stages that its record lists (None: no such record)."""

    sha256: str | None
    adapters: tuple[str, ...] | None


@dataclass(frozen=True)
class Side:
    """One column: its heading, its report, and the checkpoint behind it where that is known."""

    label: str
    report: RefusalReport
    stages: Stages | None


@dataclass(frozen=True)
class Pair:
    """Two reports that asked the same of the same depths."""

    before: Side
    after: Side

    @property
    def sides(self) -> tuple[Side, Side]:
        """Before, after."""
        return self.before, self.after


def stages_of(manifest: Manifest) -> Stages:
    """What the bundle's provenance says about its checkpoint."""
    checkpoint = manifest.provenance.get("checkpoint")
    checkpoint = checkpoint if isinstance(checkpoint, Mapping) else {}
    record, digest = checkpoint.get("record"), checkpoint.get("sha256")
    adapters = record.get("adapters") if isinstance(record, Mapping) else None
    names = tuple(map(str, adapters)) if isinstance(adapters, Mapping) else None
    return Stages(None if digest is None else str(digest), names)


def untrained_words(stages: Stages, ladder: Ladder, whose: str) -> Iterator[str]:
    """Says that the ladder uses decoder exits that no stage of the checkpoint's record trained."""
    full = ladder.decoder_exits()[-1]
    depths = [depth for depth in ladder if depth.decoder < full]
    if stages.adapters is None or "exits" in stages.adapters or not depths:
        return
    exits = ", ".join(map(str, sorted({depth.decoder for depth in depths})))
    names = ", ".join(depth.name for depth in depths)
    yield (
        f"The decoder exits before full depth ({exits}, used by {names}) of {whose} were never trained: its record "
        "has no stage 'exits'. Incoherent answers are expected there, and they say nothing about its refusals."
    )


def compare(
    before: RefusalReport, after: RefusalReport, name: str, before_manifest: Manifest | None, after_manifest: Manifest
) -> Pair:
    """Put two reports side by side; `name` says in a few words what was measured before, and may be empty.

    A manifest is that of the bundle that was measured; `after_manifest` counts only if its engines are the report's.

    Raises:
        InputError: the reports did not ask the same of the same depths, or are of the same engines; or
            `before_manifest` is of other engines than `before`.
    """
    differing = list(_differences(before, after))
    if differing:
        raise not_comparable(before.file, after.file, differing)
    if before.engines_digest == after.engines_digest:
        raise InputError(
            f"{before.file} and {after.file} were measured on the same engines",
            found=f"engines sha256 {before.engines_digest}",
            expected="a report of the bundle before the change",
            remedy="give that report with --before",
        )
    if before_manifest is not None and before_manifest.engines_digest != before.engines_digest:
        raise InputError(
            f"the bundle given with --before-bundle is not the one that {before.file} was measured on",
            found=f"engines sha256 {before_manifest.engines_digest}",
            expected=f"engines sha256 {before.engines_digest}",
            remedy="give the bundle of that report, or leave --before-bundle out",
        )
    same = after.engines_digest == after_manifest.engines_digest
    return Pair(
        Side(
            f"Before: {name}" if name else "Before",
            before,
            None if before_manifest is None else stages_of(before_manifest),
        ),
        Side("After", after, stages_of(after_manifest) if same else None),
    )


def _differences(before: RefusalReport, after: RefusalReport) -> Iterator[Mismatch]:
    """What differs, as it was before and after."""
    facts = (
        ("backend", before.backend, after.backend),
        ("interval", before.interval, after.interval),
        ("depths", _depth_words(before), _depth_words(after)),
    )
    differing = [Mismatch(*fact) for fact in facts if fact[1] != fact[2]]
    yield from differing
    same_depths = all(mismatch.what != "depths" for mismatch in differing)
    yield from mismatches(before, after, list(zip(before.depths, after.depths, strict=False)) if same_depths else [])


def _depth_words(report: RefusalReport) -> str:
    return ", ".join(map(str, report.depths))


def measures(depth: DepthRefusals, confidence: float) -> tuple[Rate, ...]:
    """The rates of one depth, in the order of MEASURES."""

    def share(kind: Kind, hits: int) -> Rate:
        return Rate(hits, kind.n, *wilson(hits, kind.n, confidence))

    harmful, benign = depth.harmful, depth.benign
    return (
        harmful.refused,
        share(harmful, harmful.complied),
        share(harmful, harmful.incoherent),
        benign.refused,
        share(benign, benign.incoherent),
    )


def pair_table(pair: Pair) -> str:
    """Both columns as lines of text, shallowest depth first."""
    rows: list[tuple[str, ...]] = [("depth", "", *(side.label for side in pair.sides))]
    for first, second in zip(pair.before.report.depths, pair.after.report.depths, strict=True):
        columns = (measures(first, pair.before.report.confidence), measures(second, pair.after.report.confidence))
        for n, (what, *rates) in enumerate(zip(MEASURES, *columns, strict=True)):
            head = f"{first.name} ({first.vision}, {first.decoder})" if n == 0 else ""
            rows.append((head, what, *map(_cell, rates)))
    return "\n".join(_aligned(rows))


def _cell(rate: Rate) -> str:
    return f"{rate.hits}/{rate.n} = {100 * rate.rate:.1f} % ({100 * rate.low:.1f} to {100 * rate.high:.1f})"


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(map(str.ljust, row, widths)).rstrip()
