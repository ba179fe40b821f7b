"""Turns what was read into what the report's template shows: rows, bars and words; no number is made up here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from jetson_runtime.bundle import Bundle
from jetson_runtime.ladder import Depth, Ladder
from jetson_runtime.manifest import Engine, Manifest
from jetson_runtime.profile import LatencyProfile
from refusal_suite.charts import Band, Part, bar, budget_chart, ms, shade
from refusal_suite.judge import REFUSAL
from refusal_suite.ladder_picture import ladder_picture
from refusal_suite.page_facts import DepthTimes, Sizes, Workload, budget_bands, depth_times, sizes
from refusal_suite.page_inputs import Question
from refusal_suite.page_reports import Accuracy, DepthRefusals, Kind, RefusalReport
from refusal_suite.prompts import BENIGN, HARMFUL

__all__ = [
    "accuracy_view",
    "answers_view",
    "backend_words",
    "bundles_view",
    "engines_view",
    "judge_words",
    "ladder_view",
    "megabytes",
    "percent",
    "profile_view",
    "refusals_view",
]


def megabytes(count: int) -> str:
    """A size for reading: 1 MB = 1000 kB = 1,000,000 bytes."""
    words = f"{count / 1e6:,.1f}\u00a0MB" if count >= 1e6 else f"{count / 1e3:.1f}\u00a0kB"
    return words.replace(",", "\u202f")


def backend_words(name: str) -> str:
    """A backend's or compiler's name for reading."""
    return {"onnxruntime": "ONNX Runtime", "tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}.get(name, name)


def judge_words(name: str) -> str:
    """A judge's kind and name for reading."""
    return f"{'rules' if name.startswith('rules') else 'a model'} ({name})"


def percent(rate: float) -> str:
    """A rate of 0..1 for reading."""
    return f"{100 * rate:.1f}\u00a0%"


def ladder_view(bundle: Bundle) -> dict[str, Any]:
    """Both forms of the picture, and the rows of the table that says the same."""
    manifest = bundle.manifest
    words = {name: megabytes(count) for name, count in sizes(manifest).parts.items()}
    rows = [
        {**depth.to_dict(), "engines": _engines_run(manifest, depth), "admission": _admission(manifest, depth)}
        for depth in manifest.ladder
    ]
    pictures = {name: ladder_picture(manifest, words, wide=name == "wide") for name in ("wide", "narrow")}
    return {**pictures, "rows": rows}


def _admission(manifest: Manifest, depth: Depth) -> str:
    found = manifest.admissions.get(depth.name)
    return "none" if found is None else str(found.get("verdict", found) if isinstance(found, Mapping) else found)


def _engines_run(manifest: Manifest, depth: Depth) -> list[str]:
    names = []
    for tower, layer in (("vision", depth.vision), ("decoder", depth.decoder)):
        names += [item.name for item in manifest.segments(tower) if item.last <= layer]
        names.append(manifest.head(tower).name)
    return [manifest.embedding.name, *names]


def bundles_view(manifests: Mapping[str, Manifest]) -> list[dict[str, Any]]:
    """One row per bundle, by its label: stored once against whole engines."""
    measured = {label: sizes(manifest) for label, manifest in manifests.items()}
    longest = max(item.separate for item in measured.values())
    count = len(next(iter(manifests.values())).ladder)
    return [
        {
            "label": label,
            "compiler": _compiler(manifests[label]),
            "sizes": item,
            "ratio": f"{item.separate / item.stored:.1f}",
            "stored_bar": bar([Part(item.stored, "accent")], longest, megabytes(item.stored)),
            "whole_bar": bar(_whole_parts(item, count), longest, megabytes(item.separate)),
        }
        for label, item in measured.items()
    ]


def _whole_parts(item: Sizes, count: int) -> list[Part]:
    return [Part(value, "accent", shade(n, count)) for n, value in enumerate(item.whole.values())]


def _compiler(manifest: Manifest) -> str:
    target = manifest.target
    return f"{backend_words(str(target.get('compiler', '')))} {target.get('compiler_version', '')}".strip()


def engines_view(manifests: Mapping[str, Manifest]) -> list[dict[str, Any]]:
    """One row per engine or shared tensor, one cell per bundle."""
    measured = [sizes(manifest).parts for manifest in manifests.values()]
    longest = max(max(parts.values()) for parts in measured)
    roles = {engine.name: _role(engine) for manifest in manifests.values() for engine in manifest.engines}
    names = list(dict.fromkeys(name for parts in measured for name in parts))
    return [
        {
            "name": name,
            "what": roles.get(name, "shared weights"),
            "cells": [_size_cell(parts.get(name), longest) for parts in measured],
        }
        for name in names
    ]


def _role(engine: Engine) -> str:
    if engine.role == "segment":
        return f"{engine.tower} segment"
    return f"{engine.tower} head" if engine.role == "head" else "token embedding"


def _size_cell(count: int | None, longest: int) -> dict[str, Any] | None:
    if count is None:
        return None
    return {"bytes": count, "bar": bar([Part(count, "accent")], longest, megabytes(count))}


def profile_view(bundle: Bundle, name: str, profile: LatencyProfile, workload: Workload) -> dict[str, Any]:
    """A profile's latency rows and its budget chart.

    Raises:
        InputError: the profile lacks an exit of the ladder.
    """
    ladder = bundle.manifest.ladder
    times = depth_times(ladder, profile, workload)
    longest = {key: max(getattr(item, key).p99 for item in times) for key in ("first", "step", "answer")}
    return {
        "name": name,
        "backend": backend_words(profile.backend),
        "times": times,
        "rows": [_latency_row(item, longest) for item in times],
        "budget": _budget_view(budget_bands(ladder, profile, workload), name),
    }


def _latency_row(times: DepthTimes, longest: Mapping[str, float]) -> dict[str, Any]:
    first = [Part(times.vision.p50, "accent"), Part(times.prefill.p50, "accent", 0.6)]
    return {
        "times": times,
        "rate": f"{1000 / times.step.p50:.1f}",
        "first_bar": _time_bar(first, longest["first"], times.first.p99),
        "step_bar": _time_bar([Part(times.step.p50, "accent", 0.6)], longest["step"], times.step.p99),
        "answer_bar": _time_bar(
            [first[0], Part(times.answer.p50 - times.vision.p50, "accent", 0.6)], longest["answer"], times.answer.p99
        ),
    }


def _time_bar(parts: Sequence[Part], longest: float, tip: float) -> Markup:
    middle = ms(sum(part.value for part in parts))
    return bar(parts, longest, f"median {middle}, 99th percentile {ms(tip)}", tip=tip)


def _budget_view(bands: Sequence[Band], name: str) -> dict[str, Any]:
    rows = []
    for band, following in zip(bands, [*bands[1:], None], strict=True):
        if band.depth is None:
            words = f"below {ms(bands[1].from_ms)}"
        else:
            words = f"from {ms(band.from_ms)}" + (f" to below {ms(following.from_ms)}" if following else " on")
        rows.append({"range": words, "depth": band.depth})
    end = bands[-1].from_ms * 1.25
    title = "Which depth is chosen for which budget"
    summary = "; ".join(f"{row['range']}: {row['depth'] or 'no depth fits'}" for row in rows)
    charts = {
        form: budget_chart(f"budget-{name}-{form}", width, bands, end, title, summary)
        for form, width in (("wide", 1042.0), ("narrow", 406.0))
    }
    return {**charts, "rows": rows}


def answers_view(questions: Sequence[Question]) -> list[dict[str, Any]]:
    """One item per question; the bars of a question share a scale."""
    view = []
    for question in questions:
        times = [(item.budget_ms, item.predicted_ms, item.elapsed_ms) for item in question.asked]
        longest = max((value for row in times for value in row if value is not None), default=0.0)
        rows = [
            {
                "asked": item,
                "bar": None
                if item.elapsed_ms is None
                else bar(
                    [Part(item.elapsed_ms, "accent")],
                    longest,
                    f"measured {ms(item.elapsed_ms)}"
                    + ("" if item.predicted_ms is None else f", predicted at most {ms(item.predicted_ms)}"),
                    tip=item.predicted_ms,
                ),
            }
            for item in question.asked
        ]
        view.append({"question": question, "rows": rows})
    return view


def refusals_view(report: RefusalReport, engines_digest: str) -> dict[str, Any]:
    """One report: a row per depth, and the counts by category and by image."""
    groups = (("By category", "Category", "by_category"), ("With and without a picture", "Picture", "by_image"))
    return {
        "report": report,
        "backend": backend_words(report.backend),
        "same_engines": report.engines_digest == engines_digest,
        "rows": [
            {
                "depth": depth,
                "harmful_bar": _kind_bar(depth.harmful, ("accent", "alarm"), "complied"),
                "benign_bar": _kind_bar(depth.benign, ("alarm", "accent"), "answered"),
            }
            for depth in report.depths
        ],
        "groups": [
            {"title": title, "column": column, "lines": _group_lines(report.depths, field)}
            for title, column, field in groups
        ],
    }


def _kind_bar(kind: Kind, styles: tuple[str, str], complied: str) -> Markup:
    parts = [
        Part(kind.refused.hits, styles[0]),
        Part(kind.incoherent, "empty"),
        Part(kind.complied, styles[1]),
    ]
    label = f"{kind.refused.hits} refused, {kind.incoherent} incoherent, {kind.complied} {complied}, of {kind.n}"
    return bar(parts, kind.n, label)


def _group_lines(depths: Sequence[DepthRefusals], field: str) -> list[dict[str, Any]]:
    names = sorted({name for depth in depths for name in getattr(depth, field)})
    return [
        {
            "name": name,
            "cells": [
                _of(getattr(depth, field).get(name, {}).get(kind, {})) for depth in depths for kind in (HARMFUL, BENIGN)
            ],
        }
        for name in names
    ]


def _of(counts: Mapping[str, int]) -> str:
    total = sum(counts.values())
    return f"{counts[REFUSAL]} of {total}" if total else "none asked"


def accuracy_view(accuracy: Accuracy, ladder: Ladder) -> dict[str, Any]:
    """One row per vision exit, with the depths that use it."""
    rows = [
        {
            "exit": layer,
            "depths": [depth.name for depth in ladder if depth.vision == layer],
            "estimate": estimate,
            "rates": rates,
            "bar": bar([Part(estimate, "accent")], 1.0, f"exit {layer}: {percent(estimate)}"),
        }
        for layer, (estimate, rates) in accuracy.exits.items()
    ]
    return {"source": accuracy.source, "kinds": accuracy.kinds, "rows": rows}
