"""Targets: what an engine is compiled for. One YAML file each in `engine_builder/targets/`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from jetson_runtime.errors import ConfigError

__all__ = ["Target", "load_target", "target_names"]

_FOLDER = Path(__file__).parent / "targets"


@dataclass(frozen=True)
class Target:
    """A machine, or a compiler's idea of one.

    `memory_gib` is what the whole board has, shared by CPU and GPU, and `os_reserve_gib` the share of it that is left
    to firmware, operating system and other programs; both are null where no board is meant. `memory_bandwidth_gb_s`
    counts in 10^9 bytes. `jetpacks` says which TensorRT each JetPack brings. `precisions` are those that engines can be
    built with.
    """

    name: str
    title: str
    compiler: str
    compute_capability: str | None
    jetpacks: Mapping[str, str]
    memory_gib: float | None
    os_reserve_gib: float | None
    memory_bandwidth_gb_s: float | None
    precisions: tuple[str, ...]
    notes: str


def target_names() -> list[str]:
    """The targets that this version knows."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def load_target(name: str) -> Target:
    """The target `name`.

    Raises:
        ConfigError: no such target, or its file does not have the fields of `Target`.
    """
    if name not in target_names():
        raise ConfigError(f"there is no target '{name}'", expected=", ".join(target_names()))
    path = _FOLDER / f"{name}.yaml"
    value: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    expected = {field.name for field in fields(Target)} - {"name"}
    if set(value) != expected:
        raise ConfigError(f"{path} is not a target", found=sorted(value), expected=sorted(expected))
    return Target(name=name, **{**value, "precisions": tuple(value["precisions"])})
