"""What a bundle will weigh and whether it fits its target, before anything is built.

Exact, from the export's own graphs over the checkpoint's headers (`engine_builder.sizes`):

    weights   bytes of an engine's tensors in the chosen precision; a shared tensor counts once
    caches    2 x layers x kv heads x capacity x head dim x element size
    buffers   what the runtime's chain keeps between engines (`_buffers`)

Estimated, with T = tokens of the image encoder, C = kv_capacity (the longest prompt) and b = element size:

    kernels       0.5 MiB x (layers + 1) per engine
    activations   vision segment (2 T width + widest) x b; decoder segment (4 C width + 3 C intermediate) x b, and with
                  fp32, which has no fused attention, heads x C x C x b; heads: their largest output
    runtime       512 MiB: CUDA context, TensorRT's libraries, Python
    loading       the largest engine once more, while its file is read into device memory
    build         300 MB + 4.5 x weights of the engine that is being built, one at a time

Kernels and build are fitted to TensorRT-RTX builds for SM86 (docs/engine-build.md); runtime and activations are not
measured on a device. CPU and GPU share one memory on the targets that have a limit, so all of it counts against it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine_builder.compile import HEAD_ROWS
from engine_builder.config import BuildConfig
from engine_builder.export import DTYPES, TOKEN_TABLE
from engine_builder.sizes import EngineSize, Sizes, measure
from engine_builder.tables import megabytes, table
from engine_builder.targets import Target
from jetson_runtime.ladder import Depth

__all__ = ["BuildPlan", "DepthPlan", "EnginePlan", "describe", "plan"]

RUNTIME_BYTES = 512 << 20
_MIN_TENSORRT = (10, 15)  # attention and KV-cache updates came with it


@dataclass(frozen=True)
class EnginePlan:
    """One engine: exact bytes of the portable bundle's files, estimates for the rest."""

    name: str
    role: str
    tower: str
    first: int
    last: int
    portable_bytes: int
    weights_bytes: int
    kv_bytes: int
    kernel_bytes: int
    activation_bytes: int
    build_bytes: int


@dataclass(frozen=True)
class DepthPlan:
    """What one depth takes when it is loaded alone; its engines are also those of every deeper depth."""

    name: str
    vision: int
    decoder: int
    disk_bytes: int
    weights_bytes: int
    kv_bytes: int
    device_bytes: int
    token_floor_ms: float | None  # weights and caches read once at the target's memory bandwidth: no step can be faster


@dataclass(frozen=True)
class BuildPlan:
    """The whole bundle on one target. The engines of full depth are all engines, so its figures are the bundle's."""

    target: Target
    precision: str
    kv_capacity: int
    engines: tuple[EnginePlan, ...]
    shared: Mapping[str, int]
    buffer_bytes: int
    loading_bytes: int
    depths: tuple[DepthPlan, ...]
    separate_bytes: int  # disk, if every depth had an engine of its own with its own weights
    build_bytes: int
    limit_bytes: int | None
    jetpacks: tuple[str, ...]
    problems: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The form for `--json`."""
        return {**asdict(self), "target": self.target.name, "fits": not self.problems}


def plan(checkpoint: Path, config: BuildConfig, target: Target) -> BuildPlan:
    """Weigh the bundle that `config` describes.

    Raises:
        CheckpointError, ConfigError: as the export would raise them.
    """
    sizes = measure(checkpoint, config)
    element = DTYPES[config.precision].itemsize
    engines = tuple(_engine(size, sizes, config.kv_capacity, element) for size in sizes.engines)
    buffers = _buffers(sizes, config.kv_capacity, element)
    loading = max(engine.weights_bytes + engine.kernel_bytes for engine in engines)
    fixed = buffers + loading + RUNTIME_BYTES
    depths = tuple(_depth(depth, engines, sizes.shared, fixed, target) for depth in config.ladder)
    limit = None
    if target.memory_gib is not None:
        limit = int((target.memory_gib - (target.os_reserve_gib or 0)) * 2**30)
    build = max(engine.build_bytes for engine in engines)
    return BuildPlan(
        target=target,
        precision=config.precision,
        kv_capacity=config.kv_capacity,
        engines=engines,
        shared=sizes.shared,
        buffer_bytes=buffers,
        loading_bytes=loading,
        depths=depths,
        separate_bytes=sum(depth.disk_bytes for depth in depths),
        build_bytes=build,
        limit_bytes=limit,
        jetpacks=tuple(name for name, tensorrt in target.jetpacks.items() if _version(tensorrt) >= _MIN_TENSORRT),
        problems=tuple(_problems(target, config.precision, depths[-1].device_bytes, build, limit)),
    )


def _engine(size: EngineSize, sizes: Sizes, capacity: int, element: int) -> EnginePlan:
    layers = size.last - size.first + 1 if size.role == "segment" else 0
    return EnginePlan(
        name=size.name,
        role=size.role,
        tower=size.tower,
        first=size.first,
        last=size.last,
        portable_bytes=size.graph_bytes + size.weights_bytes,
        weights_bytes=size.weights_bytes,
        kv_bytes=size.kv_bytes,
        kernel_bytes=(layers + 1) << 19,
        activation_bytes=_activations(size, sizes, capacity, element),
        build_bytes=int(300e6 + 4.5 * size.weights_bytes),
    )


def _activations(size: EngineSize, sizes: Sizes, capacity: int, element: int) -> int:
    vision, decoder = sizes.towers.vision, sizes.towers.decoder
    if size.role != "segment":
        heads = {"vision": vision.tokens * decoder.width, "decoder": HEAD_ROWS * decoder.vocabulary}
        return heads[size.tower] * element if size.role == "head" else 0
    if size.tower == "vision":
        return (2 * vision.tokens * vision.width + vision.intermediate_values) * element
    values = 4 * capacity * decoder.width + 3 * capacity * decoder.intermediate
    return (values + (decoder.heads * capacity**2 if element == 4 else 0)) * element


def _buffers(sizes: Sizes, capacity: int, element: int) -> int:
    """The chain's: pixels and logits in fp32; two features and two hidden states; token ids, positions; the mask."""
    vision, decoder = sizes.towers.vision, sizes.towers.decoder
    states = 2 * vision.tokens * vision.width + 2 * capacity * decoder.width
    return 4 * (3 * vision.image_size**2 + decoder.vocabulary) + element * states + 16 * capacity + capacity**2


def _depth(
    depth: Depth, engines: Sequence[EnginePlan], shared: Mapping[str, int], fixed: int, target: Target
) -> DepthPlan:
    used = [engine for engine in engines if engine.role != "segment" or engine.last <= getattr(depth, engine.tower)]
    weights = sum(engine.weights_bytes for engine in used) + sum(shared.values())
    kernels = sum(engine.kernel_bytes for engine in used)
    caches = sum(engine.kv_bytes for engine in used)
    # A step runs the decoder's segments and its head; of the embedding it reads one row.
    read = sum(engine.weights_bytes for engine in used if engine.tower == "decoder" and engine.role != "embedding")
    read += caches + shared.get(TOKEN_TABLE, 0)
    bandwidth = target.memory_bandwidth_gb_s
    return DepthPlan(
        name=depth.name,
        vision=depth.vision,
        decoder=depth.decoder,
        disk_bytes=weights + kernels,
        weights_bytes=weights,
        kv_bytes=caches,
        device_bytes=weights + kernels + caches + sum(engine.activation_bytes for engine in used) + fixed,
        token_floor_ms=None if bandwidth is None else round(read / bandwidth / 1e6, 3),
    )


def _problems(target: Target, precision: str, device: int, build: int, limit: int | None) -> list[str]:
    problems = []
    if precision not in target.precisions:
        problems.append(f"it does not run {precision}, only {', '.join(target.precisions)}")
    for what, size in (("running full depth", device), ("building the largest engine", build)):
        if limit is not None and size > limit:
            problems.append(f"{what} needs about {size / 1e6:,.0f} MB, and {limit / 1e6:,.0f} MB are left for it")
    return problems


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def describe(plan: BuildPlan) -> str:
    """The plan as text."""
    target = plan.target
    engines = [
        [one.name, *map(megabytes, (one.portable_bytes, one.kv_bytes, one.activation_bytes, one.build_bytes))]
        for one in plan.engines
    ]
    shared = [[f"{name} (shared)", megabytes(size), "", "", ""] for name, size in plan.shared.items()]
    depths = [
        [
            f"{depth.name} (vision {depth.vision}, decoder {depth.decoder})",
            *map(megabytes, (depth.disk_bytes, depth.weights_bytes, depth.kv_bytes, depth.device_bytes)),
            "" if depth.token_floor_ms is None else f"{depth.token_floor_ms:.2f} ms",
        ]
        for depth in plan.depths
    ]
    full = plan.depths[-1]
    lines = [
        f"{target.title}: {plan.precision}, a cache of {plan.kv_capacity} tokens",
        "",
        table(("engine", "portable", "caches", "activations~", "build~"), [*engines, *shared]),
        "",
        table(("depth, loaded alone", "engines~", "weights", "caches", "device~", "token floor"), depths),
        "",
        f"~ is an estimate. The device column holds the runtime ({megabytes(RUNTIME_BYTES)}), buffers "
        f"({megabytes(plan.buffer_bytes)}) and loading ({megabytes(plan.loading_bytes)}); the floor is what reading "
        "weights and caches once takes at the target's memory bandwidth.",
        f"All depths together take {megabytes(full.disk_bytes)} on disk and {megabytes(full.device_bytes)} on the "
        "device: the deeper ones reuse the shallower ones' engines.",
        f"One engine per depth, each with its own weights, would take {megabytes(plan.separate_bytes)} on disk.",
    ]
    if plan.jetpacks:
        lines.append(f"Needs JetPack {' or '.join(plan.jetpacks)}: cache updates came with TensorRT 10.15.")
    return "\n".join([*lines, "", *_verdict(plan)])


def _verdict(plan: BuildPlan) -> list[str]:
    target = plan.target
    if plan.problems:
        return [f"Not for target '{target.name}': {problem}." for problem in plan.problems]
    if plan.limit_bytes is None:
        return [f"Target '{target.name}' runs {plan.precision}; it states no memory to fit into."]
    return [
        f"Fits target '{target.name}': {target.memory_gib:g} GiB less {target.os_reserve_gib:g} GiB for firmware, "
        f"operating system and other programs leave {megabytes(plan.limit_bytes)}."
    ]
