"""Checkpoint → portable bundle: ONNX segments straight from the weights, one tensor in memory at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from engine_builder import decoder as decoders
from engine_builder import vision as visions
from engine_builder.checkpoint import Checkpoint
from engine_builder.config import BuildConfig
from engine_builder.graph import Graph, in_precision
from engine_builder.prompting import copy_prompting, read_preprocessing
from jetson_runtime.bundle import PORTABLE_TARGET, seal
from jetson_runtime.errors import CheckpointError, ConfigError
from jetson_runtime.files import staged_directory
from jetson_runtime.manifest import Engine, Manifest, ModelFacts, SharedTensor

__all__ = ["DTYPES", "TOKEN_TABLE", "Plan", "Towers", "export", "plan_engines", "read_towers"]

DTYPES: Mapping[str, np.dtype[Any]] = {"fp32": np.dtype(np.float32), "fp16": np.dtype(np.float16)}
TOKEN_TABLE = "token_table"


@dataclass(frozen=True)
class Plan:
    """One engine to emit: what it is, and the function that fills its graph."""

    name: str
    role: str
    tower: str
    first: int
    last: int
    emit: Callable[[Graph], None]


@dataclass(frozen=True)
class Towers:
    """A checkpoint read together with a build configuration."""

    vision: visions.VisionTower
    decoder: decoders.DecoderTower
    tied: bool


def read_towers(checkpoint: Checkpoint, config: BuildConfig) -> Towers:
    """The towers of the checkpoint, checked against the configuration's exits and capacity.

    Raises:
        CheckpointError: an unknown family. ConfigError: an exit beyond a tower, a cache beyond the model's positions.
    """
    image_size = config.image_size or read_preprocessing(checkpoint).side
    vision = visions.read_vision(checkpoint.config, image_size)
    decoder = decoders.read_decoder(checkpoint.config)
    own = visions.own_exit(checkpoint.config, vision)
    for name, layers, exits in (
        ("vision", own, config.vision_exits),
        ("decoder", decoder.layers, config.decoder_exits),
    ):
        if exits[-1] > layers:
            raise ConfigError(
                f"exit {exits[-1]} lies beyond the {name} tower",
                found=f"exits {list(exits)}",
                expected=f"layers 1 to {layers}, full depth by {checkpoint.path / 'config.json'}",
                remedy="correct exits and ladder in build.yaml",
            )
    if config.kv_capacity > decoder.positions:
        raise ConfigError(
            "kv_capacity is larger than the positions that the model knows",
            found=config.kv_capacity,
            expected=f"at most {decoder.positions}",
            remedy="lower kv_capacity in build.yaml",
        )
    return Towers(vision, decoder, decoder.tied or not checkpoint.has("lm_head"))


def plan_engines(checkpoint: Checkpoint, config: BuildConfig, towers: Towers) -> Iterator[Plan]:
    """Every engine of the bundle, in the order in which an answer runs them."""
    vision, decoder = towers.vision, towers.decoder

    def vision_segment(graph: Graph, first: int, last: int) -> None:
        visions.emit_vision_segment(graph, vision, checkpoint.weights("vision"), first, last)

    def projector(graph: Graph) -> None:
        visions.emit_projector(graph, vision, checkpoint.weights("projector"), checkpoint.config, decoder.width)

    def embedding(graph: Graph) -> None:
        decoders.emit_embedding(graph, decoder, _table(checkpoint, towers, "decoder"))

    def decoder_segment(graph: Graph, first: int, last: int) -> None:
        decoders.emit_decoder_segment(graph, decoder, checkpoint.weights("decoder"), first, last, config.kv_capacity)

    def lm_head(graph: Graph) -> None:
        decoders.emit_lm_head(graph, decoder, checkpoint.weights("decoder"), _table(checkpoint, towers, "lm_head"))

    for first, last in _segments(config.vision_exits):
        emit = partial(vision_segment, first=first, last=last)
        yield Plan(f"vision.{first:02}-{last:02}", "segment", "vision", first, last, emit)
    yield Plan("projector", "head", "vision", 0, 0, projector)
    yield Plan("embedding", "embedding", "decoder", 0, 0, embedding)
    for first, last in _segments(config.decoder_exits):
        emit = partial(decoder_segment, first=first, last=last)
        yield Plan(f"decoder.{first:02}-{last:02}", "segment", "decoder", first, last, emit)
    yield Plan("lm_head", "head", "decoder", 0, 0, lm_head)


def _segments(exits: tuple[int, ...]) -> list[tuple[int, int]]:
    return [(before + 1, exit) for before, exit in zip((0, *exits), exits, strict=False)]


def _table(checkpoint: Checkpoint, towers: Towers, part: str) -> np.ndarray | None:
    """A tied table belongs to two engines and so to neither: it becomes a shared tensor."""
    if towers.tied:
        return None
    return checkpoint.weights(part)["embed_tokens.weight" if part == "decoder" else "weight"]


def export(checkpoint_path: Path, config: BuildConfig, out: Path, *, replace: bool = False) -> Manifest:
    """Write the portable bundle of a checkpoint to `out` and return its manifest.

    Raises:
        CheckpointError, ConfigError, StorageError: see their docstrings; nothing is left at `out`.
    """
    checkpoint = Checkpoint(checkpoint_path)
    towers = read_towers(checkpoint, config)
    with staged_directory(out, replace=replace) as folder:
        (folder / "engines").mkdir()
        engines = []
        plans = list(plan_engines(checkpoint, config, towers))
        for plan in tqdm(plans, desc="export", unit="engine", disable=None):
            engines.append(_emit(plan, folder, config.precision))
        shared = _write_shared(checkpoint, towers, folder, config.precision)
        stop_ids, image_token_id = copy_prompting(checkpoint, folder, towers.vision.image_size)
        return seal(
            folder,
            kind="portable",
            release=config.release,
            precision=config.precision,
            model=_facts(config, towers, checkpoint.config, stop_ids, image_token_id),
            target=PORTABLE_TARGET,
            ladder=config.ladder,
            engines=tuple(engines),
            shared=shared,
            provenance=_provenance(checkpoint),
        )


def _emit(plan: Plan, folder: Path, precision: str) -> Engine:
    path = f"engines/{plan.name}.onnx"
    graph = Graph(plan.name, folder / path, DTYPES[precision])
    plan.emit(graph)
    graph.save()
    shared = tuple(spec.name for spec in graph.inputs if spec.name == TOKEN_TABLE)
    return Engine(
        name=plan.name, role=plan.role, tower=plan.tower, path=path, inputs=tuple(graph.inputs),
        outputs=tuple(graph.outputs), first=plan.first, last=plan.last, shared=shared,
    )  # fmt: skip


def _write_shared(checkpoint: Checkpoint, towers: Towers, folder: Path, precision: str) -> tuple[SharedTensor, ...]:
    if not towers.tied:
        return ()
    dtype = DTYPES[precision]
    table = in_precision(TOKEN_TABLE, checkpoint.weights("decoder")["embed_tokens.weight"], dtype)
    path = f"engines/{TOKEN_TABLE}.weights"
    (folder / path).write_bytes(table.data.cast("B"))
    return (SharedTensor(TOKEN_TABLE, path, dtype.name, table.shape),)


def _facts(
    config: BuildConfig, towers: Towers, raw: Mapping[str, Any], stop_ids: tuple[int, ...], image_token_id: int
) -> ModelFacts:
    vision, decoder = towers.vision, towers.decoder
    return ModelFacts(
        id=config.model_id,
        version=config.model_version,
        vision_family=vision.family,
        decoder_family=decoder.family,
        vision_layers=vision.layers,
        decoder_layers=decoder.layers,
        image_size=vision.image_size,
        image_tokens=visions.image_tokens(vision, raw),
        vision_tokens=vision.tokens,
        vision_width=vision.width,
        decoder_width=decoder.width,
        vocabulary=decoder.vocabulary,
        kv_heads=decoder.kv_heads,
        head_dim=decoder.head_dim,
        kv_capacity=config.kv_capacity,
        image_token_id=image_token_id,
        stop_token_ids=stop_ids,
    )


def _provenance(checkpoint: Checkpoint) -> dict[str, Any]:
    from importlib.metadata import version

    record: dict[str, Any] = {
        "checkpoint": {"sha256": checkpoint.digest()},
        "tools": {package: version(package) for package in ("onnx", "numpy", "safetensors")},
    }
    try:
        record["checkpoint"]["record"] = json.loads((checkpoint.path / "provenance.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{checkpoint.path / 'provenance.json'} can't be read", found=error, remedy="assemble the checkpoint again"
        ) from None
    return record
