"""A tiny bundle that may be written into, and a profile made by hand for it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from calibration.latency import model_facts
from jetson_runtime.bundle import Bundle, open_bundle
from jetson_runtime.profile import LatencyProfile, Row


@pytest.fixture
def bundle(tiny_bundle: Callable[[str, str], Path], tmp_path: Path) -> Bundle:
    shutil.copytree(tiny_bundle("clip-llama", "fp32"), tmp_path / "bundle")
    return open_bundle(tmp_path / "bundle")


@pytest.fixture
def handmade(bundle: Bundle) -> LatencyProfile:
    return by_hand(bundle)


def by_hand(bundle: Bundle) -> LatencyProfile:
    """Each exit's whole phase is the exact sum of its engines; powers of two, so that no sum is rounded."""
    manifest, rows = bundle.manifest, []

    def add(phase: str, name: str, layer: int, tokens: int, ms: float) -> None:
        scope = "engine" if name else "exit"
        rows.append(Row(phase, scope, name, layer, tokens, "warm", 10, ms, 2 * ms, 4 * ms))

    add("vision", "projector", 0, 5, 0.25)
    for segment in manifest.segments("vision"):
        add("vision", segment.name, segment.last, 5, 2.0 * (segment.last - segment.first + 1))
        add("vision", "", segment.last, 5, 0.25 + 2.0 * segment.last)
    add("decode", manifest.head("decoder").name, 0, 1, 0.5)
    for phase, tokens in (("decode", 1), ("prefill", 8), ("prefill", 16)):
        add(phase, manifest.embedding.name, 0, tokens, 0.125 * tokens)
        for segment in manifest.segments("decoder"):
            add(phase, segment.name, segment.last, tokens, tokens * (segment.last - segment.first + 1))
            add(phase, "", segment.last, tokens, 0.5 + 0.125 * tokens + tokens * segment.last)
    return LatencyProfile(
        tuple(rows), manifest.engines_digest, "onnxruntime", {"cpu": {"model": "made up"}}, model_facts(manifest)
    )
