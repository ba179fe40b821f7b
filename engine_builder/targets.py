"""Targets: what an engine is compiled for. One YAML file each in `engine_builder/targets/`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from jetson_runtime.errors import ConfigError

__all__ = ["Target", "load_target", "target_names"]

_FOLDER = Path(__file__).parent / "targets"


@dataclass(frozen=True)
class Target:
    """A machine, or a compiler's idea of one. Memory is what the whole board has; null where no board is meant."""

    name: str
    title: str
    compiler: str
    compute_capability: str | None
    jetpack: str | None
    tensorrt: str | None
    memory_gib: float | None
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
