"""What a bundle holds, for people; `--json` gives the manifest itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from engine_builder.tables import megabytes, table
from jetson_runtime.admission import Admissions
from jetson_runtime.bundle import Bundle
from jetson_runtime.errors import AdmissionError
from jetson_runtime.manifest import Engine, TensorSpec

__all__ = ["describe"]

_CACHES = ("past_", "present_")


def describe(bundle: Bundle) -> str:
    """Model, target, ladder, engines, files, profiles, admissions and provenance as text."""
    return "\n\n".join(_sections(bundle))


def _sections(bundle: Bundle) -> Iterator[str]:
    manifest, model = bundle.manifest, bundle.manifest.model
    total = sum(record.size_bytes for record in manifest.files.values())
    yield "\n".join(
        [
            f"{model.id} {model.version}, release {manifest.release}: {manifest.kind} bundle, {manifest.precision}",
            f"manifest sha256  {bundle.digest}",
            f"engines sha256   {manifest.engines_digest}",
            "signatures       " + ("there; 'engine-build verify' says whose" if bundle.signed else "none"),
            "target           " + ", ".join(_flat("", manifest.target)),
            f"image encoder    {model.vision_family}, {model.vision_layers} layers, {model.image_size} px, "
            f"{model.image_tokens} image tokens",
            f"decoder          {model.decoder_family}, {model.decoder_layers} layers, vocabulary {model.vocabulary}, "
            f"cache of {model.kv_capacity} tokens",
        ]
    )
    rows = [
        [depth.name, str(depth.vision), str(depth.decoder), _admission(bundle, depth.name)] for depth in manifest.ladder
    ]
    yield table(("depth", "vision exit", "decoder exit", "admission"), rows, words=(0, 3))
    yield table(
        ("engine", "role", "size", "inputs and outputs"),
        [
            [engine.name, engine.role, megabytes(_size(bundle, engine)), _signature(engine)]
            for engine in manifest.engines
        ],
        words=(0, 1, 3),
    )
    rows = [
        [path, record.role, megabytes(record.size_bytes), record.sha256[:16]]
        for path, record in sorted(manifest.files.items())
    ]
    yield table(("file", "role", "size", "sha256"), [*rows, ["all files", "", megabytes(total), ""]], words=(0, 1))
    yield "profiles         " + (", ".join(bundle.profiles()) or "none: 'engine-calibrate latency' makes one")
    yield "provenance       " + "\n                 ".join(_flat("", manifest.provenance))


def _admission(bundle: Bundle, depth: str) -> str:
    manifest = bundle.manifest
    try:
        found = Admissions.from_dict(manifest.admissions, manifest.engines_digest).depths.get(depth)
    except AdmissionError:
        return "void"
    return "none" if found is None else found.verdict


def _size(bundle: Bundle, engine: Engine) -> int:
    """The engine's file and, in a portable bundle, the weights beside it."""
    files = bundle.manifest.files
    beside = engine.path.removesuffix(".onnx") + ".weights"
    return files[engine.path].size_bytes + (files[beside].size_bytes if beside in files else 0)


def _signature(engine: Engine) -> str:
    inputs, outputs = (
        ", ".join(_spec(spec) for spec in specs if not spec.name.startswith(_CACHES))
        for specs in (engine.inputs, engine.outputs)
    )
    caches = sum(spec.name.startswith("past_") for spec in engine.inputs)
    return f"{inputs} -> {outputs}" + (f", {caches} caches in place" if caches else "")


def _spec(spec: TensorSpec) -> str:
    return f"{spec.name} {spec.dtype}[{','.join(map(str, spec.shape))}]"


def _flat(prefix: str, value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key in sorted(value):
            yield from _flat(f"{prefix}{'.' if prefix else ''}{key}", value[key])
    else:
        yield f"{prefix}: {value}"
