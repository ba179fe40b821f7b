"""The report page's few leading figures, what was not run, and where everything came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from jetson_runtime.bundle import Bundle
from jetson_runtime.files import sha256_file
from jetson_runtime.manifest import Manifest
from jetson_runtime.profile import LatencyProfile
from refusal_suite.charts import ms
from refusal_suite.page_facts import sizes
from refusal_suite.page_pair import Pair, stages_of, untrained_words
from refusal_suite.page_reports import RefusalReport
from refusal_suite.page_view import backend_words, judge_words, megabytes, percent

__all__ = ["Commands", "accuracy_not_run", "commands", "date_words", "machine_words", "not_run", "provenance", "tiles"]


@dataclass(frozen=True)
class Commands:
    """The lines that measure what is missing."""

    latency: str
    compile: str
    ask: str
    refusals: str
    accuracy: str


def commands(bundle: Bundle) -> Commands:
    """The lines for this bundle, by its folder's name."""
    name = bundle.path.name
    return Commands(
        latency=f"engine-calibrate latency {name}",
        compile=f"engine-build compile {name} --target rtx-sm86 --out engines",
        ask=f"jetson-runtime ask {name} --image picture.png --prompt 'What do you see?' --budget-ms 800 --json",
        refusals=f"refusal-check run {name} --out refusals.json",
        accuracy="realign projector --out projector",
    )


def machine_words(profile: LatencyProfile) -> str:
    """The machine of a profile in a few words: board, else CPU, and its power mode."""
    machine = profile.machine
    cpu, mode = machine.get("cpu", {}), machine.get("power_mode", {})
    name = machine.get("device") or (cpu.get("model") if isinstance(cpu, Mapping) else None) or "an unnamed machine"
    cores = cpu.get("cores_usable") if isinstance(cpu, Mapping) else None
    words = [str(name), f"{cores} core{'s' if cores != 1 else ''}" if cores else ""]
    words.append(f"power mode {mode['name']}" if isinstance(mode, Mapping) and "name" in mode else "")
    return ", ".join(word for word in words if word)


def date_words(profile: LatencyProfile) -> str | None:
    """When the profile was measured, to the minute; None where it does not say."""
    found = profile.method.get("measured_at")
    try:
        return datetime.fromisoformat(str(found)).astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    except ValueError:
        return None


def tiles(
    bundle: Bundle, profiles: Sequence[Mapping[str, Any]], refusals: Sequence[RefusalReport], pair: Pair | None = None
) -> list[dict[str, str]]:
    """Four figures: depths, bytes, time to first token, refusals."""
    ladder, measured = bundle.manifest.ladder, sizes(bundle.manifest)
    vision, decoder = ladder.vision_exits(), ladder.decoder_exits()
    depths = f"vision exits {_list(vision)}; decoder exits {_list(decoder)}"
    stored = f"{megabytes(measured.separate)} as one whole engine per depth"
    return [
        _tile("Depths", str(len(ladder)), depths),
        _tile("Engines and weights", megabytes(measured.stored), stored),
        _first_token_tile(profiles),
        _refusal_tile(refusals, pair),
    ]


def _first_token_tile(profiles: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    label = "First token, 99th percentile"
    if not profiles:
        return _tile(label, "Not measured", "the bundle has no latency profile")
    times = profiles[0]["times"]
    first, last = times[0], times[-1]
    if first is last:
        return _tile(label, ms(last.first.p99), str(last.depth))
    note = f"{first.depth.name} to {last.depth.name}, with a picture"
    return _tile(label, f"{ms(first.first.p99).split()[0]} to {ms(last.first.p99)}", note)


def _refusal_tile(refusals: Sequence[RefusalReport], pair: Pair | None) -> dict[str, str]:
    label = "Harmful requests refused"
    if not refusals:
        return _tile(label, "Not measured", "no refusal report of these engines was given")
    deepest, note = refusals[0].depths[-1], _worst_words(refusals[0])
    if pair is not None:
        before = pair.before.report
        rate = before.depths[-1].harmful.refused.rate
        note += f". {pair.before.label}, {percent(rate)} {_worst_words(before)}"
    return _tile(label, percent(deepest.harmful.refused.rate), note)


def _worst_words(report: RefusalReport) -> str:
    worst, deepest = min(report.depths, key=lambda row: row.harmful.refused.rate), report.depths[-1]
    return f"at {deepest.name}; at the worst depth, {worst.name}, {percent(worst.harmful.refused.rate)}"


def _tile(label: str, value: str, note: str) -> dict[str, str]:
    return {"label": label, "value": value, "note": note}


def _list(layers: Sequence[int]) -> str:
    return ", ".join(map(str, layers))


def not_run(
    bundle: Bundle,
    profiles: Mapping[str, LatencyProfile],
    engines: Sequence[Manifest],
    refusals: Sequence[RefusalReport],
    said: Sequence[str],
) -> list[str]:
    """What the caller says was not run, and what the inputs themselves show was not."""
    return [*said, *_engines_not_run(engines), *_times_not_run(bundle, profiles), *_refusals_not_run(bundle, refusals)]


def _engines_not_run(engines: Sequence[Manifest]) -> Iterator[str]:
    for manifest in engines:
        if all(record.role != "profile" for record in manifest.files.values()):
            yield (
                f"No engine of the bundle for {manifest.target.get('name')} ({manifest.precision}) was executed: its "
                "engines were compiled, and their sizes are given; there are no times and no answers from them."
            )
    if not engines:
        yield "No compiled engine bundle was given: nothing here says that the graphs compile for a GPU."


def _times_not_run(bundle: Bundle, profiles: Mapping[str, LatencyProfile]) -> Iterator[str]:
    for name, profile in profiles.items():
        words = f"The times of profile {name} are those of {machine_words(profile)} by {backend_words(profile.backend)}"
        if profile.engines_digest != bundle.manifest.engines_digest:
            yield f"Profile {name} was measured on other engines than this bundle's and is left out."
        elif "device" not in profile.machine:
            yield f"{words}, which is no Jetson. They say how the depths compare, not what a car's computer will need."
        else:
            yield f"{words}. Other power modes and temperatures were not measured."
    if not profiles:
        yield "No latency was measured: neither times per depth nor the depth for a budget are known."


def _refusals_not_run(bundle: Bundle, refusals: Sequence[RefusalReport]) -> Iterator[str]:
    own = [report for report in refusals if report.engines_digest == bundle.manifest.engines_digest]
    for report in own:
        yield (
            f"The refusals in {report.file} were measured by {backend_words(report.backend)}, greedily, up to "
            f"{report.max_tokens} tokens per answer, and judged by {judge_words(report.judge)}, not by people."
        )
        missing = [depth.name for depth in bundle.manifest.ladder if depth.name not in report.names]
        if missing:
            yield f"{report.file} has no refusals for depth {', '.join(missing)}."
        yield from (f"{report.file} asked {part}." for part in report.samples)
    if not bundle.manifest.admissions:
        yield "The bundle carries no admissions: no verdict on any depth is bound to these engines."
    yield from untrained_words(stages_of(bundle.manifest), bundle.manifest.ladder, "this bundle's checkpoint")
    if not own:
        yield "No refusals were measured on this bundle: nothing here says that any depth is safe."


def accuracy_not_run(manifest: Manifest) -> Iterator[str]:
    """The accuracy record is that of the projector's training; stages after it changed the decoder."""
    adapters = stages_of(manifest).adapters
    if adapters:
        yield (
            "The right answers per vision exit are those of the checkpoint when its projector had been trained. Stages "
            f"after that ({', '.join(adapters)}) trained it further; its answers to these questions may have changed."
        )


def provenance(
    bundle: Bundle, engines: Mapping[str, Manifest], profiles: Mapping[str, LatencyProfile], files: Sequence[Path]
) -> list[tuple[str, list[tuple[str, str]]]]:
    """Digests and sources, group by group."""
    manifest = bundle.manifest
    groups = [("Bundle", [("Manifest SHA-256", bundle.digest), ("Engines SHA-256", manifest.engines_digest),
                          *_flat("", manifest.provenance)])]  # fmt: skip
    for label, compiled in engines.items():
        source = compiled.provenance.get("portable_bundle", {})
        facts = [
            ("Engines SHA-256", compiled.engines_digest),
            ("Compiled from bundle", str(source.get("sha256", "not said"))),
            *_flat("target", compiled.target),
        ]
        groups.append((label, facts))
    for name, profile in profiles.items():
        facts = [("Engines SHA-256", profile.engines_digest), *_flat("", profile.machine), *_flat("", profile.method)]
        groups.append((f"Latency profile {name}", facts))
    if files:
        groups.append(("Input files, SHA-256", [(path.name, sha256_file(path)) for path in files]))
    return groups


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key in sorted(value):
            yield from _flat(f"{prefix} / {key}" if prefix else key, value[key])
    elif value is not None:
        yield prefix, ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
