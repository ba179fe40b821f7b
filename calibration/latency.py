"""Measures a bundle on this machine: every engine and every exit, warm and cold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from tqdm import tqdm

from calibration.bench import Bench, Cell
from calibration.quantiles import METHOD, summarise
from calibration.schedule import in_turn, runs_in_time
from jetson_runtime.backends import open_backend
from jetson_runtime.bundle import Bundle
from jetson_runtime.errors import ConfigError
from jetson_runtime.machine import machine_facts
from jetson_runtime.manifest import Manifest, ModelFacts
from jetson_runtime.profile import LatencyProfile, Row

__all__ = ["Settings", "default_tokens", "image_prompt", "measure", "model_facts"]

_QUESTION_TOKENS = 44  # a question with its chat template: what an image prompt has besides the image
_SHORT_PROMPTS = (16, 64)
_SHORTEST_MS = 1e-3


@dataclass(frozen=True)
class Settings:
    """How to measure. `tokens` are prompt lengths (None: `default_tokens`); `seconds` 0 sets no limit.

    Raises:
        ConfigError: a number that can't be used.
    """

    backend: str = "onnxruntime"
    tokens: tuple[int, ...] | None = None
    count: int = 30
    cold_count: int = 3
    pause_ms: float = 150.0
    seconds: float = 40.0
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.backend == "simulated":
            raise ConfigError(
                "the simulated backend has no times of its own",
                expected="a backend that runs engines",
                remedy="measure with another --backend",
            )
        for name, least in (("count", 1), ("cold_count", 0), ("pause_ms", 0), ("seconds", 0), ("threads", 1)):
            value = getattr(self, name)
            if value is not None and not least <= value < 1e6:
                raise ConfigError(
                    f"--{name.replace('_', '-')} can't be used",
                    found=value,
                    expected=f"{least} or more, below a million",
                )


def image_prompt(model: ModelFacts) -> int:
    """How many tokens a prompt with an image and a question has."""
    return min(model.image_tokens + _QUESTION_TOKENS, model.kv_capacity)


def default_tokens(model: ModelFacts) -> tuple[int, ...]:
    """The prompt lengths to measure: short ones, and that of a question about an image."""
    longest = image_prompt(model)
    return (*(count for count in _SHORT_PROMPTS if count < longest), longest)


def model_facts(manifest: Manifest) -> dict[str, Any]:
    """What a profile keeps of the model: enough to predict for its depths without the bundle."""
    model = manifest.model
    return {
        "id": model.id,
        "version": model.version,
        "precision": manifest.precision,
        "ladder": manifest.ladder.to_dicts(),
        "kv_capacity": model.kv_capacity,
        "image_tokens": model.image_tokens,
        "image_prompt_tokens": image_prompt(model),
    }


def measure(bundle: Bundle, settings: Settings) -> LatencyProfile:
    """Load the bundle, measure it, and return its profile; nothing is written.

    Raises:
        ConfigError: a prompt length that the bundle can't take. BackendError: see `open_backend`.
    """
    manifest = bundle.manifest
    tokens = _checked(settings.tokens or default_tokens(manifest.model), manifest.model.kv_capacity)
    backend = open_backend(settings.backend, bundle, None, settings.threads)
    try:
        rows = _rows(Bench(bundle, backend), tokens, settings)
    finally:
        backend.close()
    return LatencyProfile(
        rows=rows,
        engines_digest=manifest.engines_digest,
        backend=backend.name,
        machine=machine_facts(),  # now, and not before: clocks and temperatures are those of the work
        model=model_facts(manifest),
        method=_method(settings),
    )


def _checked(tokens: Sequence[int], capacity: int) -> list[int]:
    wrong = [count for count in tokens if not 2 <= count <= capacity]
    if wrong:
        raise ConfigError(
            "a prompt length can't be measured",
            found=", ".join(f"{count} tokens" for count in wrong),
            expected=f"2 to {capacity} tokens (kv_capacity)",
            remedy="change --tokens, or export with a larger kv_capacity",
        )
    return sorted(set(tokens))


def _rows(bench: Bench, tokens: Sequence[int], settings: Settings) -> tuple[Row, ...]:
    cells = bench.cells(tokens)
    times: dict[tuple[str, str, str, int, int, str], list[float]] = defaultdict(list)
    with tqdm(total=len(cells), desc="warm up", unit="run", disable=None) as progress:
        estimates = {cell: _warm_up(bench, cell, progress) for cell in cells}
        cold_ms = settings.cold_count * (sum(estimates.values()) + len(cells) * settings.pause_ms)
        limit_ms = settings.seconds * 1e3 - cold_ms if settings.seconds else float("inf")
        runs = runs_in_time(estimates, settings.count, limit_ms)
        progress.total = len(cells) * (1 + settings.cold_count) + sum(runs.values())
        progress.set_description("warm")
        for cell in in_turn(runs):
            for key, ms in bench.warm(cell):
                times[(*key, "warm")].append(ms)
            progress.update()
        progress.set_description("cold")
        for cell in in_turn(dict.fromkeys(cells, settings.cold_count)):
            for key, ms in bench.cold(cell, settings.pause_ms):
                times[(*key, "cold")].append(ms)
            progress.update()
    return tuple(summarise(key, measured) for key, measured in sorted(times.items()))


def _warm_up(bench: Bench, cell: Cell, progress: tqdm[Any]) -> float:
    """Run a cell, throw its time away, and return roughly what a run takes; at full depth each engine is met again."""
    started_ms = bench.watch.now_ms()
    bench.warm(cell)
    progress.update()
    return max(_SHORTEST_MS, bench.watch.now_ms() - started_ms)


def _method(settings: Settings) -> dict[str, Any]:
    try:
        holdfast = version("holdfast")
    except PackageNotFoundError:
        holdfast = "from the source tree"
    return {
        "holdfast": holdfast,
        "measured_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "count": settings.count,
        "cold_count": settings.cold_count,
        "pause_ms": settings.pause_ms,
        "seconds": settings.seconds,
        "threads": settings.threads,
        "quantiles": METHOD,
    }
