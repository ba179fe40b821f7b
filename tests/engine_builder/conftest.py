"""What the engine builder's tests share beyond the tiny checkpoints of tests/conftest.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from tiny import build_config, build_values

from engine_builder.export import export

CAPACITY = 64  # TensorRT-RTX 1.7 fails on segments with caches of 32 entries or fewer (docs/engine-build.md)


@pytest.fixture(scope="session")
def rtx_bundle(tiny_llava: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`rtx_bundle("clip-llama")` is a portable fp16 bundle of that checkpoint that TensorRT-RTX takes."""
    made: dict[tuple[str, str], Path] = {}

    def make(kind: str, precision: str = "fp16") -> Path:
        if (kind, precision) not in made:
            made[kind, precision] = tmp_path_factory.mktemp("bundles") / f"{kind}-{precision}"
            config = build_config(precision=precision, kv_capacity=CAPACITY, target="rtx-sm86")
            export(tiny_llava(kind), config, made[kind, precision])
        return made[kind, precision]

    return make


@pytest.fixture
def build_yaml(tmp_path: Path) -> Callable[..., Path]:
    """`build_yaml(precision="fp32")` writes a build.yaml for the tiny checkpoints, with these fields changed."""

    def write(**changes: object) -> Path:
        path = tmp_path / "build.yaml"
        path.write_text(yaml.safe_dump(build_values(**changes)), encoding="utf-8")
        return path

    return write
