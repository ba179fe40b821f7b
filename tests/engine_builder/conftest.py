"""What the engine builder's tests share beyond the tiny checkpoints of tests/conftest.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from tiny import build_values


@pytest.fixture
def build_yaml(tmp_path: Path) -> Callable[..., Path]:
    """`build_yaml(precision="fp32")` writes a build.yaml for the tiny checkpoints, with these fields changed."""

    def write(**changes: object) -> Path:
        path = tmp_path / "build.yaml"
        path.write_text(yaml.safe_dump(build_values(**changes)), encoding="utf-8")
        return path

    return write
