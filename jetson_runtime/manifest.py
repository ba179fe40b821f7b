"""What a bundle says about itself: `manifest.json` as frozen values, read with every mistake reported at once."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from jetson_runtime.errors import BundleError, ConfigError
from jetson_runtime.files import canonical_json
from jetson_runtime.ladder import Depth, Ladder

__all__ = [
    "ENVELOPE",
    "MANIFEST",
    "SCHEMA",
    "Engine",
    "FileRecord",
    "Manifest",
    "ModelFacts",
    "SharedTensor",
    "TensorSpec",
]

SCHEMA = "holdfast/bundle/1"
MANIFEST = "manifest.json"
ENVELOPE = "manifest.dsse.json"
ROLES = ("segment", "head", "embedding")
TOWERS = ("vision", "decoder")
KINDS = ("portable", "engine")
_ANSWERING = ("engine", "preprocessing", "tokenizer", "weights")


@dataclass(frozen=True)
class TensorSpec:
    """An engine's input or output; a dimension given as a word is dynamic."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class SharedTensor:
    """Weights that several engines take as an input, so that they are stored and loaded once."""

    name: str
    path: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Engine:
    """One engine: a segment (blocks `first`..`last` of a tower), a tower's head, or the token embedding."""

    name: str
    role: str
    tower: str
    path: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    first: int = 0
    last: int = 0
    shared: tuple[str, ...] = ()


@dataclass(frozen=True)
class FileRecord:
    """A file of the bundle: what it is for, its length and its digest."""

    role: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class ModelFacts:
    """The sizes that the runtime needs to allocate buffers and to build prompts."""

    id: str
    version: str
    vision_family: str
    decoder_family: str
    vision_layers: int
    decoder_layers: int
    image_size: int
    image_tokens: int
    vision_tokens: int
    vision_width: int
    decoder_width: int
    vocabulary: int
    kv_heads: int
    head_dim: int
    kv_capacity: int
    image_token_id: int
    stop_token_ids: tuple[int, ...]


@dataclass(frozen=True)
class Manifest:
    """The whole manifest (docs/bundle.md lists the fields)."""

    kind: str
    release: int
    precision: str
    model: ModelFacts
    target: Mapping[str, Any]
    ladder: Ladder
    engines: tuple[Engine, ...]
    shared: tuple[SharedTensor, ...]
    files: Mapping[str, FileRecord]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    admissions: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The value that `manifest.json` holds."""
        return {**asdict(self), "schema": SCHEMA, "ladder": self.ladder.to_dicts()}

    def segments(self, tower: str) -> tuple[Engine, ...]:
        """The segments of a tower, shallowest first."""
        found = [engine for engine in self.engines if engine.role == "segment" and engine.tower == tower]
        return tuple(sorted(found, key=lambda engine: engine.first))

    def head(self, tower: str) -> Engine:
        """The head of a tower."""
        return next(engine for engine in self.engines if engine.role == "head" and engine.tower == tower)

    @property
    def embedding(self) -> Engine:
        """The token embedding."""
        return next(engine for engine in self.engines if engine.role == "embedding")

    @property
    def answers_digest(self) -> str:
        """One digest over what answers come from, whatever depth is asked and however depths are named.

        It covers every engine and weights file, and what the runtime does with them: tokenizer and chat template,
        preprocessing, the engines' wiring and the model's numbers, but not its name.
        """
        value = self.to_dict()
        files = {path: record.sha256 for path, record in self.files.items() if record.role in _ANSWERING}
        numbers = {name: number for name, number in value["model"].items() if name not in ("id", "version")}
        return _digest({"engines": value["engines"], "files": files, "model": numbers, "shared": value["shared"]})

    @property
    def engines_digest(self) -> str:
        """One digest over what a profile or a refusal report was measured on: `answers_digest`, and the ladder."""
        return _digest({"answers": self.answers_digest, "ladder": self.ladder.to_dicts()})

    @classmethod
    def from_dict(cls, value: Any, where: str) -> Manifest:
        """Read what `to_dict` wrote.

        Raises:
            BundleError: another schema, or fields that are missing, of the wrong type or against each other; all of
                them are listed.
        """
        if not isinstance(value, dict) or value.get("schema") != SCHEMA:
            found = value.get("schema") if isinstance(value, dict) else type(value).__name__
            raise BundleError(
                f"{where} is not a manifest that this version reads",
                found=found,
                expected=SCHEMA,
                remedy="export the bundle again with this version of engine-build",
            )
        reader = _Reader()
        manifest = reader.manifest(value)
        if manifest is not None:
            _check(manifest, reader.mistakes)
        if reader.mistakes or manifest is None:
            raise BundleError(
                f"{where} does not hold together",
                found="; ".join(reader.mistakes),
                remedy="export the bundle again; a manifest is never edited by hand",
            )
        return manifest


def _digest(value: Any) -> str:
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


class _Reader:
    """Builds the values and collects what is wrong with them."""

    def __init__(self) -> None:
        self.mistakes: list[str] = []

    def record(self, kind: type[Any], value: Any, where: str) -> Any:
        fields = kind.__dataclass_fields__
        if not isinstance(value, dict):
            self.mistakes.append(f"{where}: an object was expected")
            return None
        wrong = [f"unknown field '{name}'" for name in value if name not in fields]
        kwargs: dict[str, Any] = {}
        for name, spec in fields.items():
            if name not in value:
                wrong.append(f"field '{name}' is missing")
                continue
            item = value[name]
            if spec.type in ("int", "str") and type(item).__name__ != spec.type:
                wrong.append(f"field '{name}' is {item!r}, not {spec.type}")
            elif spec.type == "int" and item < (1 if kind in (ModelFacts, Depth) else 0):
                wrong.append(f"field '{name}' is {item}")
            elif str(spec.type).startswith("tuple["):
                item = self._tuple(str(spec.type), item, f"{where}.{name}")
            kwargs[name] = item
        self.mistakes += [f"{where}: {text}" for text in wrong]
        return None if wrong else kind(**kwargs)

    def _tuple(self, annotation: str, value: Any, where: str) -> tuple[Any, ...]:
        if not isinstance(value, (list, tuple)):
            self.mistakes.append(f"{where}: a list was expected")
            return ()
        if annotation == "tuple[TensorSpec, ...]":
            return tuple(self.record(TensorSpec, item, f"{where}[{n}]") for n, item in enumerate(value))
        allowed = {"int": (int,), "str": (str,), "int | str": (int, str)}[annotation[len("tuple[") : -len(", ...]")]]
        if any(type(item) not in allowed for item in value):
            self.mistakes.append(f"{where}: an item has the wrong type")
        return tuple(value)

    def manifest(self, value: dict[str, Any]) -> Manifest | None:
        before = len(self.mistakes)
        for name, kind in (("kind", str), ("release", int), ("precision", str), ("target", dict), ("ladder", list),
                           ("engines", list), ("shared", list), ("files", dict), ("provenance", dict),
                           ("admissions", dict)):  # fmt: skip
            if type(value.get(name)) is not kind:
                self.mistakes.append(f"field '{name}' is not of type {kind.__name__}")
        self.mistakes += [
            f"unknown field '{name}'" for name in value if name not in {*Manifest.__dataclass_fields__, "schema"}
        ]
        if len(self.mistakes) > before:
            return None
        model = self.record(ModelFacts, value.get("model"), "model")
        engines = tuple(self.record(Engine, item, f"engines[{n}]") for n, item in enumerate(value["engines"]))
        shared = tuple(self.record(SharedTensor, item, f"shared[{n}]") for n, item in enumerate(value["shared"]))
        files = {path: self.record(FileRecord, item, f"files[{path}]") for path, item in value["files"].items()}
        depths = tuple(self.record(Depth, item, f"ladder[{n}]") for n, item in enumerate(value["ladder"]))
        if len(self.mistakes) > before:
            return None
        try:
            ladder = Ladder(depths)
        except ConfigError as error:
            self.mistakes.append(f"ladder: {error}")
            return None
        plain = {name: value[name] for name in ("kind", "release", "precision", "target", "provenance", "admissions")}
        return Manifest(model=model, ladder=ladder, engines=engines, shared=shared, files=files, **plain)


def _stays_inside(path: str) -> bool:
    """Relative, in its shortest form, and of characters that mean nothing else on any system."""
    return (
        path.isprintable()
        and not set(path) & set("\\:")
        and all(part not in ("", ".", "..") for part in path.split("/"))
    )


def _check(manifest: Manifest, mistakes: list[str]) -> None:
    """What the types can't say: paths stay inside, engines chain up to every exit, files are listed."""
    if manifest.kind not in KINDS:
        mistakes.append(f"kind '{manifest.kind}' is not one of {', '.join(KINDS)}")
    if manifest.release < 0:
        mistakes.append(f"release {manifest.release} is less than 0")
    if not isinstance(manifest.target.get("name"), str):
        mistakes.append("the target has no name")
    for path, record in manifest.files.items():
        if not _stays_inside(path):
            mistakes.append(f"file {path!r} does not stay inside the bundle")
        elif path in (MANIFEST, ENVELOPE):
            mistakes.append(f"file '{path}' can't list itself")
        if not re.fullmatch(r"[0-9a-f]{64}", record.sha256, re.ASCII):
            mistakes.append(f"the sha256 of file {path!r} is not 64 hexadecimal digits")
    places = {item.name: item.path for items in (manifest.engines, manifest.shared) for item in items}
    for name, path in places.items():
        if path not in manifest.files:
            mistakes.append(f"'{name}' lies in '{path}', which is not a listed file")
    names = [engine.name for engine in manifest.engines]
    if len(set(names)) != len(names):
        mistakes.append("two engines have the same name")
    for engine in manifest.engines:
        if engine.role not in ROLES or engine.tower not in TOWERS:
            mistakes.append(f"engine '{engine.name}' is a '{engine.role}' of '{engine.tower}'")
        mistakes += [
            f"engine '{engine.name}' shares '{name}', which is not there"
            for name in engine.shared
            if name not in {tensor.name for tensor in manifest.shared}
        ]
    for tower, exits in (("vision", manifest.ladder.vision_exits()), ("decoder", manifest.ladder.decoder_exits())):
        if sum(engine.role == "head" and engine.tower == tower for engine in manifest.engines) != 1:
            mistakes.append(f"the {tower} tower has not exactly one head")
        ends = [0]
        for segment in manifest.segments(tower):
            if segment.first != ends[-1] + 1 or segment.last < segment.first:
                mistakes.append(f"segment '{segment.name}' does not begin where the one before ends")
            ends.append(segment.last)
        mistakes += [f"no {tower} segment ends at exit {exit}" for exit in exits if exit not in ends]
    if sum(engine.role == "embedding" for engine in manifest.engines) != 1:
        mistakes.append("there is not exactly one embedding")
