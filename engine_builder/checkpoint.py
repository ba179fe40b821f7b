"""Reads a Hugging Face LLaVA directory: configuration and memory-mapped tensors, one at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jetson_runtime.console import require
from jetson_runtime.errors import CheckpointError
from jetson_runtime.files import sha256_file

__all__ = ["Checkpoint", "Weights"]

# llava-hf checkpoints, and what newer transformers write: the same tensors under two orders of the same words.
_PLACES = {
    "vision": (
        "vision_tower.vision_model.",
        "model.vision_tower.vision_model.",
        "vision_tower.",
        "model.vision_tower.",
    ),
    "projector": ("multi_modal_projector.", "model.multi_modal_projector."),
    "decoder": ("language_model.model.", "model.language_model.", "language_model."),
    "lm_head": ("language_model.lm_head.", "lm_head."),
}
_ANCHORS = {
    "vision": "embeddings.",
    "projector": "linear_1.weight",
    "decoder": "embed_tokens.weight",
    "lm_head": "weight",
}


@dataclass(frozen=True)
class Weights:
    """The tensors below one prefix; `weights["layers.0.mlp.up_proj.weight"]` reads that one from disk."""

    checkpoint: Checkpoint
    prefix: str

    def __getitem__(self, name: str) -> np.ndarray:
        return self.checkpoint.tensor(self.prefix + name)

    def __contains__(self, name: str) -> bool:
        return self.prefix + name in self.checkpoint.files

    def optional(self, name: str) -> np.ndarray | None:
        """The tensor, or None where the checkpoint has none of that name (a bias, for instance)."""
        return self[name] if name in self else None  # noqa: SIM401 (a read from disk, not a dict)


class Checkpoint:
    """A directory with `config.json` and safetensors.

    Raises:
        CheckpointError: the directory, its configuration or a shard is missing, damaged or not understood.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_dir():
            raise CheckpointError(
                f"{path} is not a checkpoint",
                found="no such directory" if not path.exists() else "a file",
                expected="a Hugging Face directory with config.json and *.safetensors",
                remedy="'realign assemble DIR' makes the reference checkpoint",
            )
        self.config = self.json("config.json")
        if self.config.get("model_type") != "llava":
            raise CheckpointError(
                f"{path / 'config.json'} is of a family that can't be exported",
                found=f"model_type {self.config.get('model_type')!r}",
                expected="model_type 'llava'",
                remedy="convert the checkpoint to LlavaForConditionalGeneration",
            )
        self.files = self._index()
        self._open: dict[str, Any] = {}

    def json(self, name: str) -> dict[str, Any]:
        """A JSON file of the directory."""
        try:
            value = json.loads((self.path / name).read_text(encoding="utf-8"))
        except OSError as error:
            raise self._damaged(name, error.strerror or "unreadable") from None
        except ValueError as error:
            raise self._damaged(name, f"not JSON: {error}") from None
        if not isinstance(value, dict):
            raise self._damaged(name, f"a JSON {type(value).__name__}")
        return value

    def _damaged(self, name: str, found: str) -> CheckpointError:
        return CheckpointError(
            f"{self.path / name} can't be read",
            found=found,
            expected="the file as its publisher wrote it",
            remedy="download or assemble the checkpoint again",
        )

    def _index(self) -> Mapping[str, str]:
        if (self.path / "model.safetensors.index.json").exists():
            index = self.json("model.safetensors.index.json").get("weight_map")
            if not isinstance(index, dict):
                raise self._damaged("model.safetensors.index.json", "no weight_map")
            missing = sorted({name for name in index.values() if not (self.path / name).is_file()})
            if missing:
                raise self._damaged(missing[0], f"missing ({len(missing)} of {len(set(index.values()))} shards are)")
            return index
        return dict.fromkeys(self._shard("model.safetensors").keys(), "model.safetensors")

    def _shard(self, name: str) -> Any:
        safetensors = require("safetensors", "build")
        try:
            return safetensors.safe_open(self.path / name, framework="numpy")
        except FileNotFoundError:
            raise self._damaged(name, "missing") from None
        except (OSError, safetensors.SafetensorError) as error:
            raise self._damaged(name, f"damaged: {error}") from None

    def tensor(self, name: str) -> np.ndarray:
        """One tensor as it is stored; its shard is mapped, not loaded."""
        shard, holder = self._holder(name)
        safetensors = require("safetensors", "build")
        try:
            array: np.ndarray = holder.get_tensor(name)
        except safetensors.SafetensorError as error:
            raise self._damaged(shard, f"tensor '{name}': {error}") from None
        if not np.isfinite(array).all():
            raise self._damaged(shard, f"tensor '{name}' holds values that are not finite")
        return array

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, from its shard's header; none of its values are read."""
        shard, holder = self._holder(name)
        safetensors = require("safetensors", "build")
        try:
            return tuple(holder.get_slice(name).get_shape())
        except safetensors.SafetensorError as error:
            raise self._damaged(shard, f"tensor '{name}': {error}") from None

    def _holder(self, name: str) -> tuple[str, Any]:
        """The shard that holds a tensor: its file name, and the shard itself, mapped."""
        shard = self.files.get(name)
        if shard is None:
            raise CheckpointError(
                f"{self.path} has no tensor '{name}'",
                expected="every tensor that its config.json implies",
                remedy="check that config.json and the shards belong together",
            )
        if shard not in self._open:
            self._open = {shard: self._shard(shard)}  # one shard at a time: a 7B checkpoint fits a small machine
        return shard, self._open[shard]

    def weights(self, part: str) -> Weights:
        """The tensors of `part`: vision, projector, decoder or lm_head."""
        for prefix in _PLACES[part]:
            if any(name.startswith(prefix + _ANCHORS[part]) for name in self.files):
                return Weights(self, prefix)
        raise CheckpointError(
            f"{self.path} has no {part}",
            found=f"{len(self.files)} tensors, none under {' or '.join(_PLACES[part])}",
            expected="the tensors of a LlavaForConditionalGeneration",
            remedy="check that every shard is there and listed in the index",
        )

    def has(self, part: str) -> bool:
        """Whether the checkpoint stores `part` at all (a tied lm_head is not stored)."""
        return any(prefix + _ANCHORS[part] in self.files for prefix in _PLACES[part])

    def digest(self) -> str:
        """One SHA-256 over the configuration and every shard, for the provenance of what is made from them."""
        names = ["config.json", *sorted(set(self.files.values()))]
        return hashlib.sha256("".join(sha256_file(self.path / name) for name in names).encode()).hexdigest()


def setting(config: Mapping[str, Any], name: str, where: str, allowed: Sequence[Any] | None = None) -> Any:
    """A field of a configuration that the export depends on.

    Raises:
        CheckpointError: it is missing, or its value is one that the emitted graph would get wrong.
    """
    if name not in config or (allowed is not None and config[name] not in allowed):
        raise CheckpointError(
            f"config.json: {where}.{name} can't be exported",
            found=config.get(name, "missing"),
            expected="a value" if allowed is None else " or ".join(map(str, allowed)),
            remedy="use a checkpoint of a supported family (docs/engine-build.md)",
        )
    return config[name]
