"""Handmade latency profiles."""

from __future__ import annotations

from jetson_runtime.bundle import Bundle
from jetson_runtime.profile import LatencyProfile, Row


def made_up_profile(bundle: Bundle, scale: float = 1.0) -> LatencyProfile:
    """10 ms per vision block, 1 ms per decoder block and prompt, 0.5 ms per decoder block and step; heads are free."""
    rows = []
    fixed = {"state": "warm", "count": 10}

    def add(phase: str, scope: str, name: str, layer: int, tokens: int, ms: float) -> None:
        times = dict.fromkeys(("p50_ms", "p90_ms", "p99_ms"), scale * ms)
        rows.append(Row(phase=phase, scope=scope, name=name, layer=layer, tokens=tokens, **fixed, **times))

    for segment in bundle.manifest.segments("vision"):
        add("vision", "exit", "", segment.last, 1, 10.0 * segment.last)
        add("vision", "engine", segment.name, segment.last, 1, 10.0 * (segment.last - segment.first + 1))
    for segment in bundle.manifest.segments("decoder"):
        add("prefill", "exit", "", segment.last, 8, 1.0 * segment.last)
        add("decode", "exit", "", segment.last, 1, 0.5 * segment.last)
        for tokens, ms in ((1, 0.5), (8, 1.0)):
            blocks = segment.last - segment.first + 1
            add("decode" if tokens == 1 else "prefill", "engine", segment.name, segment.last, tokens, ms * blocks)
    for engine in (bundle.manifest.head("vision"), bundle.manifest.head("decoder"), bundle.manifest.embedding):
        add("decode", "engine", engine.name, 0, 1, 1e-9)
    return LatencyProfile(tuple(rows), bundle.manifest.engines_digest, "onnxruntime", {"cpu": "made up"})
