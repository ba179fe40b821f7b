"""Claims about TensorRT: every graph is accepted. Compiled by TensorRT-RTX without a GPU; nothing is executed."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.claims import Measured, claim
from benchmarks.workspace import EXITS, bundle
from engine_builder.compile import compile_bundle
from engine_builder.config import BuildConfig
from engine_builder.export import export
from jetson_runtime.bundle import Bundle, open_bundle
from jetson_runtime.errors import CompileError


@claim(
    "tensorrt.every-engine-compiles",
    "engines that TensorRT-RTX refuses: reference and CLIP + Llama ladders, fp16",
    "engines",
    "<=",
    0,
)
def every_engine_compiles() -> Measured:
    """Sizes and times are in the details; a refusal's words are too."""
    refused = 0
    details: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, made in {
            "reference": bundle(EXITS, "fp16", "rtx-sm86"),
            "clip-llama": _clip_llama(Path(folder)),
        }.items():
            try:
                compiled = compile_bundle(made.path, "rtx-sm86", Path(folder) / f"{name}-engines")
            except CompileError as error:
                refused += 1
                details[name] = str(error)
                continue
            details[name] = {engine.name: compiled.files[engine.path].size_bytes for engine in compiled.engines}
            assert len(compiled.engines) == len(made.manifest.engines)
    return Measured(refused, details)


@claim("tensorrt.weights-once", "compiled bundle bytes / weight bytes, reference ladder, fp16", "ratio", "<=", 1.05)
def weights_once() -> Measured:
    """Beside it: the same depths as one whole engine each."""
    from benchmarks.end_to_end import total_bytes, weight_bytes

    portable = bundle(EXITS, "fp16", "rtx-sm86")
    with tempfile.TemporaryDirectory() as folder:
        chain = _compiled_bytes(portable, Path(folder) / "chain")
        whole = sum(
            _compiled_bytes(bundle([exits], "fp16", "rtx-sm86"), Path(folder) / f"whole-{number}")
            for number, exits in enumerate(EXITS)
        )
    weights = weight_bytes(portable)
    details = {
        "engine_bundle_bytes": chain,
        "weight_bytes": weights,
        "portable_bundle_bytes": total_bytes(portable.path),
        "one_whole_engine_per_depth_bytes": whole,
    }
    return Measured(chain / weights, details)


def _compiled_bytes(portable: Bundle, out: Path) -> int:
    from benchmarks.end_to_end import total_bytes

    compile_bundle(portable.path, "rtx-sm86", out)
    return total_bytes(out)


def _clip_llama(folder: Path) -> Bundle:
    """LLaVA-1.5's classes at small size, with random weights: the tests' own checkpoint."""
    from tests.tiny import KINDS, build_values, save_model, save_processor

    source = folder / "clip-llama"
    save_model(source, *KINDS["clip-llama"])
    save_processor(source)
    export(source, BuildConfig.from_dict(build_values(), Path("build.yaml")), folder / "clip-llama-bundle")
    return open_bundle(folder / "clip-llama-bundle")
