"""What the report page says about a bundle, from manifest and profile: sizes, times, the depth for each budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from jetson_runtime.errors import BudgetError
from jetson_runtime.ladder import Budget, Depth, Ladder
from jetson_runtime.manifest import Engine, Manifest
from jetson_runtime.policy import choose
from jetson_runtime.profile import LatencyProfile
from refusal_suite.charts import Band, shade

__all__ = ["DepthTimes", "Quantiles", "Sizes", "Workload", "budget_bands", "depth_times", "sizes"]


@dataclass(frozen=True)
class Sizes:
    """Bytes of a bundle's engines with their weights, by name; tensors that engines share are entries of their own.

    `whole` is what one depth would take as a single engine; `stored` is what the bundle takes.
    """

    parts: Mapping[str, int]
    whole: Mapping[str, int]
    stored: int

    @property
    def separate(self) -> int:
        """What one whole engine per depth would take together."""
        return sum(self.whole.values())


@dataclass(frozen=True)
class Workload:
    """The request that times are given for: one picture, a prompt (with the picture's tokens) and an answer."""

    prompt_tokens: int
    answer_tokens: int


@dataclass(frozen=True)
class Quantiles:
    """A time in milliseconds: its median and its 99th percentile (of a sum: the sums of those of its parts)."""

    p50: float
    p99: float


@dataclass(frozen=True)
class DepthTimes:
    """How long one depth takes for a workload."""

    depth: Depth
    vision: Quantiles
    prefill: Quantiles
    first: Quantiles
    step: Quantiles
    answer: Quantiles


def sizes(manifest: Manifest) -> Sizes:
    """What every engine takes, and what whole engines would."""
    parts = {engine.name: _engine_bytes(manifest, engine) for engine in manifest.engines}
    parts |= {tensor.name: manifest.files[tensor.path].size_bytes for tensor in manifest.shared}
    whole = {}
    for depth in manifest.ladder:
        engines = [engine for engine in manifest.engines if _runs(engine, depth)]
        names = {engine.name for engine in engines} | {name for engine in engines for name in engine.shared}
        whole[depth.name] = sum(parts[name] for name in names)
    return Sizes(parts, whole, sum(parts.values()))


def _engine_bytes(manifest: Manifest, engine: Engine) -> int:
    weights = str(PurePosixPath(engine.path).with_suffix(".weights"))
    beside = manifest.files.get(weights) if weights not in {tensor.path for tensor in manifest.shared} else None
    return manifest.files[engine.path].size_bytes + (0 if beside is None else beside.size_bytes)


def _runs(engine: Engine, depth: Depth) -> bool:
    return engine.role != "segment" or engine.last <= (depth.vision if engine.tower == "vision" else depth.decoder)


def depth_times(ladder: Ladder, profile: LatencyProfile, workload: Workload) -> list[DepthTimes]:
    """Times of every depth, shallowest first.

    Raises:
        InputError: the profile lacks an exit of the ladder.
    """
    return [_times(depth, profile, workload) for depth in ladder]


def _times(depth: Depth, profile: LatencyProfile, work: Workload) -> DepthTimes:
    def measured(phase: str, layer: int, tokens: int = 1) -> Quantiles:
        p50, p99 = (profile.phase_ms(phase, layer, tokens, quantile=quantile) for quantile in ("p50", "p99"))
        return Quantiles(p50, p99)

    vision = measured("vision", depth.vision)
    prefill, step = measured("prefill", depth.decoder, work.prompt_tokens), measured("decode", depth.decoder)
    first = Quantiles(vision.p50 + prefill.p50, vision.p99 + prefill.p99)
    more = max(0, work.answer_tokens - 1)
    answer = Quantiles(first.p50 + more * step.p50, first.p99 + more * step.p99)
    return DepthTimes(depth, vision, prefill, first, step, answer)


def budget_bands(ladder: Ladder, profile: LatencyProfile, workload: Workload) -> list[Band]:
    """Which depth the runtime's policy chooses for each whole-answer budget.

    The choice can change only where a depth's predicted time begins to fit, so the policy itself is asked there.
    """
    request: dict[str, Any] = {"prompt_tokens": workload.prompt_tokens, "image": True, "tokens": workload.answer_tokens}
    edges = sorted({profile.answer_ms(depth, **request) for depth in ladder})
    bands = [Band(0.0, None)]
    for edge in edges:
        try:
            chosen = choose(ladder, profile, Budget(answer_ms=edge), **request).depth
        except BudgetError:
            continue
        if chosen.name != bands[-1].depth:
            bands.append(Band(edge, chosen.name, shade(list(ladder).index(chosen), len(ladder))))
    return bands
