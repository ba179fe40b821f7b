"""What every engine will weigh, exactly, from headers alone: the export's own graphs, without the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine_builder.checkpoint import Checkpoint
from engine_builder.config import BuildConfig
from engine_builder.export import DTYPES, TOKEN_TABLE, Towers, plan_engines, read_towers
from engine_builder.graph import Graph
from jetson_runtime.manifest import TensorSpec

__all__ = ["EngineSize", "Sizes", "measure"]


class _Headers(Checkpoint):
    """A checkpoint whose tensors have shapes and no values: no weight is read."""

    def tensor(self, name: str) -> np.ndarray:
        return np.broadcast_to(np.zeros((), np.float32), self.shape(name))


class _Measured(Graph):
    """A graph that keeps count of its weights and drops them."""

    def _store(self, name: str, array: np.ndarray) -> int:
        return self._reserve(array)


@dataclass(frozen=True)
class EngineSize:
    """One engine of the bundle that would be exported."""

    name: str
    role: str
    tower: str
    first: int
    last: int
    graph_bytes: int  # the .onnx file
    weights_bytes: int  # the .weights file beside it
    kv_bytes: int  # its caches
    shared: tuple[str, ...]


@dataclass(frozen=True)
class Sizes:
    """Every engine, in the order in which an answer runs them, and what they share."""

    towers: Towers
    engines: tuple[EngineSize, ...]
    shared: Mapping[str, int]  # bytes by name


def measure(checkpoint: Path, config: BuildConfig) -> Sizes:
    """Emit every engine as `export` does, but without a weight being read or a file being written.

    Raises:
        CheckpointError, ConfigError: as `export` would raise them.
    """
    headers = _Headers(checkpoint)
    towers = read_towers(headers, config)
    dtype = DTYPES[config.precision]
    engines = []
    for plan in plan_engines(headers, config, towers):
        graph = _Measured(plan.name, Path(f"{plan.name}.onnx"), dtype)
        plan.emit(graph)
        engines.append(
            EngineSize(
                name=plan.name,
                role=plan.role,
                tower=plan.tower,
                first=plan.first,
                last=plan.last,
                graph_bytes=len(graph.serialized()),
                weights_bytes=graph.weights_bytes,
                kv_bytes=sum(_cache_bytes(spec) for spec in graph.inputs),
                shared=tuple(spec.name for spec in graph.inputs if spec.name == TOKEN_TABLE),
            )
        )
    table = towers.decoder.vocabulary * towers.decoder.width * dtype.itemsize
    return Sizes(towers, tuple(engines), {TOKEN_TABLE: table} if towers.tied else {})


def _cache_bytes(spec: TensorSpec) -> int:
    if not spec.name.startswith("past_"):
        return 0
    return math.prod(size for size in spec.shape if isinstance(size, int)) * np.dtype(spec.dtype).itemsize
