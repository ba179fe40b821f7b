"""The arrows between the packages (docs/architecture.md), and the oldest Python that the runtime must run on."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ALLOWED = {
    "jetson_runtime": set(),
    "engine_builder": {"jetson_runtime"},
    "calibration": {"jetson_runtime"},
    "refusal_suite": {"jetson_runtime"},
    "realignment": {"jetson_runtime", "refusal_suite"},
}
HEAVY = {
    "torch",
    "transformers",
    "tensorrt",
    "tensorrt_rtx",
    "onnx",
    "onnxruntime",
    "matplotlib",
    "scipy",
    "safetensors",
    "gguf",
    "ray",
}


def imported(tree: ast.AST) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", ALLOWED)
def test_arrows_point_down(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        found = imported(ast.parse(path.read_text(encoding="utf-8"))) & set(ALLOWED)
        assert found - {package} <= ALLOWED[package], path


def test_heavy_modules_are_imported_when_needed_not_before() -> None:
    for package in ("jetson_runtime", "engine_builder", "calibration", "refusal_suite"):
        for path in (ROOT / package).rglob("*.py"):
            top_level = ast.Module(ast.parse(path.read_text(encoding="utf-8")).body, [])
            direct = {name for node in top_level.body for name in imported(ast.Module([node], [])) if _is_import(node)}
            assert not direct & HEAVY, path


def _is_import(node: ast.stmt) -> bool:
    return isinstance(node, (ast.Import, ast.ImportFrom))


def test_the_runtime_is_written_in_python_3_10() -> None:
    for path in (ROOT / "jetson_runtime").rglob("*.py"):
        ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 10))
