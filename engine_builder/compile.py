"""Portable bundle → engine bundle: every graph through a target's compiler, all else copied."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace as changed
from pathlib import Path
from typing import Protocol, TypeAlias

from tqdm import tqdm

from engine_builder.targets import Target, load_target
from jetson_runtime.bundle import Bundle, open_bundle, seal
from jetson_runtime.errors import BundleError, ConfigError
from jetson_runtime.files import staged_directory
from jetson_runtime.manifest import Engine, Manifest

__all__ = ["COMPILERS", "HEAD_ROWS", "Compiler", "Ranges", "compile_bundle", "size_ranges"]

HEAD_ROWS = 8  # the most hidden states that the LM head turns into logits in one run
_COPIED = ("tokenizer", "preprocessing")


Ranges: TypeAlias = "Mapping[str, tuple[int, int, int]]"  # the least, usual and most of each dynamic size


class Compiler(Protocol):
    """Builds one engine at a time."""

    version: str

    def build(self, engine: Engine, source: Path, destination: Path, ranges: Ranges) -> None:
        """Compile the graph at `source` into `destination`, for every size within `ranges`."""


def _rtx(target: Target) -> Compiler:
    from engine_builder.rtx import RtxCompiler

    return RtxCompiler(target)


COMPILERS: Mapping[str, Callable[[Target], Compiler]] = {"tensorrt-rtx": _rtx}


def compile_bundle(path: Path, target_name: str, out: Path, *, replace: bool = False) -> Manifest:
    """Compile the portable bundle at `path` for a target, write the engine bundle to `out` and return its manifest.

    Admissions and profiles are not carried over: they hold for the engines that they were measured on.

    Raises:
        ConfigError: an unknown target, one that nothing is compiled for, or one without the bundle's precision.
        BundleError: no portable bundle, or a damaged one. MissingExtraError: the compiler is not installed.
        CompileError: the compiler refuses a graph. StorageError: `out` can't be written. Nothing is left at `out`.
    """
    target = load_target(target_name)
    compiler = _open_compiler(target)
    bundle = open_bundle(path)
    _check(bundle, target)
    manifest = bundle.manifest
    ranges = size_ranges(manifest.model.kv_capacity)
    with staged_directory(out, replace=replace) as folder:
        (folder / "engines").mkdir()
        kept = [name for name, record in manifest.files.items() if record.role in _COPIED]
        for name in [*kept, *(tensor.path for tensor in manifest.shared)]:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.file(name), folder / name)
        engines = []
        for engine in tqdm(manifest.engines, desc=f"compile for {target.name}", unit="engine", disable=None):
            compiled = changed(engine, path=f"engines/{engine.name}.engine")
            compiler.build(engine, bundle.file(engine.path), folder / compiled.path, ranges)
            engines.append(compiled)
        return seal(
            folder,
            kind="engine",
            release=manifest.release,
            precision=manifest.precision,
            model=manifest.model,
            target={
                "name": target.name,
                "compiler": target.compiler,
                "compiler_version": compiler.version,
                "compute_capability": target.compute_capability,
                "jetpacks": sorted(target.jetpacks),
                "ranges": ranges,
            },
            ladder=manifest.ladder,
            engines=tuple(engines),
            shared=manifest.shared,
            provenance={**manifest.provenance, "portable_bundle": {"sha256": bundle.digest}},
        )


def size_ranges(kv_capacity: int) -> Ranges:
    """The dynamic sizes of every bundle: `S` tokens in one run, `N` rows of the LM head.

    Kernels are chosen for the usual size; a single token is what an answer consists of.
    """
    return {"S": (1, 1, kv_capacity), "N": (1, 1, HEAD_ROWS)}


def _open_compiler(target: Target) -> Compiler:
    if target.compiler in COMPILERS:
        return COMPILERS[target.compiler](target)
    if target.compiler == "onnxruntime":
        raise ConfigError(
            f"there is nothing to compile for target '{target.name}'",
            expected="a target with a compiler",
            remedy="use the portable bundle itself: ONNX Runtime runs its graphs as they are",
        )
    raise ConfigError(
        f"this version plans for target '{target.name}' and does not compile for it",
        found=f"compiler '{target.compiler}'",
        expected=f"a target whose compiler is {' or '.join(COMPILERS)}",
        remedy=f"'engine-build plan --target {target.name}' says what fits; an rtx target compiles the same graphs",
    )


def _check(bundle: Bundle, target: Target) -> None:
    if bundle.manifest.kind != "portable":
        raise BundleError(
            f"{bundle.path} is compiled already",
            found=f"an engine bundle for target '{bundle.manifest.target.get('name')}'",
            expected="a portable bundle",
            remedy="give the directory that 'engine-build export' wrote",
        )
    if bundle.manifest.precision not in target.precisions:
        raise ConfigError(
            f"target '{target.name}' does not run this bundle's precision",
            found=bundle.manifest.precision,
            expected=" or ".join(target.precisions),
            remedy="change precision in build.yaml and export again",
        )
