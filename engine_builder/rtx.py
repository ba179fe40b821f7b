"""Builds engines with TensorRT-RTX, which compiles for a compute capability on a machine that has no GPU.

The ONNX parser drops what it does not know with no more than a warning, and a failed build is a log line and a None. So
every message is collected, whatever is not known to be harmless is an error, and the parsed network is compared with
what the engine's graph declares before it is built.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from engine_builder.compile import Ranges
from engine_builder.targets import Target
from jetson_runtime.console import require
from jetson_runtime.errors import CompileError, ConfigError
from jetson_runtime.manifest import Engine, TensorSpec

__all__ = ["RtxCompiler"]

# The parser says this of every int64 input, and ours are bound as int64.
_HARMLESS = re.compile(r"Make sure input \S+ has Int64 binding")
_DROPPED = re.compile(r"Unused Input: ")
# Follows an error on a machine without a driver and says nothing about it.
_NO_DRIVER = re.compile(r"catchCudaError|--- (Begin|End) node")


class RtxCompiler:
    """TensorRT-RTX for one target.

    Raises:
        MissingExtraError: it is not installed. ConfigError: it does not know the target's GPU.
        CompileError: it is installed and can't be loaded.
    """

    def __init__(self, target: Target) -> None:
        self._trt = _load()
        self.version: str = self._trt.__version__
        name = f"SM{(target.compute_capability or '').replace('.', '')}"
        known = self._trt.ComputeCapability.__members__
        if name not in known:
            raise ConfigError(
                f"TensorRT-RTX {self.version} does not know the GPU of target '{target.name}'",
                found=name,
                expected=", ".join(member for member in known if member.startswith("SM")),
                remedy="choose another target, or install a newer tensorrt-rtx",
            )
        self._capability = known[name]
        self._log = _log(self._trt)

    def build(self, engine: Engine, source: Path, destination: Path, ranges: Ranges) -> None:
        """Compile the graph at `source` into `destination`, for every size within `ranges`.

        Raises:
            CompileError: TensorRT-RTX refuses the graph, or would run another one; carries its own words.
        """
        builder = self._trt.Builder(self._log)
        network = builder.create_network(0)  # TensorRT-RTX knows strongly typed networks only
        self._log.records.clear()
        self._parse(engine, source, network)
        mistakes = [*_differences(network, engine, self._trt), *_cache_mistakes(network, engine, self._trt)]
        if mistakes:
            raise self._refused(engine, "would not be what its graph says", mistakes)
        _let_attention_decompose(network, self._trt)
        plan = builder.build_serialized_network(network, self._configured(builder, engine, ranges))
        errors = [text for is_error, text in self._log.records if is_error]
        if plan is None or errors:
            raise self._refused(engine, "can't be built", errors)
        dropped = [text for _, text in self._log.records if _DROPPED.match(text)]
        if dropped:
            raise self._refused(engine, "would not be what its graph says", dropped)
        destination.write_bytes(plan)

    def _parse(self, engine: Engine, source: Path, network: Any) -> None:
        parser = self._trt.OnnxParser(network, self._log)
        if not parser.parse_from_file(str(source)):
            errors = [parser.get_error(number) for number in range(parser.num_errors)]
            raise self._refused(
                engine,
                "can't be parsed",
                [f"{e.desc()} (node '{e.node_name()}', {e.node_operator()})" for e in errors],
            )
        warnings = [text for _, text in self._log.records if not _HARMLESS.search(text)]
        if warnings:
            raise self._refused(engine, "would not be what its graph says", warnings)

    def _configured(self, builder: Any, engine: Engine, ranges: Ranges) -> Any:
        config = builder.create_builder_config()
        config.num_compute_capabilities = 1
        config.set_compute_capability(self._capability, 0)
        config.clear_flag(self._trt.BuilderFlag.TF32)  # fp32 means fp32, as on the CPU that it is compared with
        dynamic = [spec for spec in engine.inputs if any(isinstance(size, str) for size in spec.shape)]
        if dynamic:
            # One profile for prompts and single tokens alike: with two, the engine holds its weights twice.
            profile = builder.create_optimization_profile()
            for spec in dynamic:
                profile.set_shape(spec.name, *(_fixed(spec, ranges, bound) for bound in range(3)))
            config.add_optimization_profile(profile)
        return config

    def _refused(self, engine: Engine, what: str, words: Sequence[str]) -> CompileError:
        lines = (" ".join(line.split()) for text in words for line in text.splitlines())
        told = dict.fromkeys(line for line in lines if line and not _NO_DRIVER.search(line))
        return CompileError(
            f"engine '{engine.name}' {what}",
            found=f"TensorRT-RTX {self.version}: {'; '.join(told) or 'no reason given'}",
            expected="a compiler that takes every node and every input of the graph as it is",
            remedy="docs/engine-build.md lists what TensorRT-RTX is known to refuse; the tested version comes with "
            "pip install 'holdfast[rtx]'",
        )


def _load() -> ModuleType:
    try:
        module: ModuleType = require("tensorrt_rtx", "rtx", "tensorrt-rtx-cu13")
    except (ImportError, OSError) as error:  # installed, but one of its shared libraries is not
        raise CompileError(
            "TensorRT-RTX is installed and can't be loaded",
            found=error,
            expected="x86-64 Linux with the shared libraries of the wheel",
            remedy="pip install --force-reinstall 'holdfast[rtx]'",
        ) from None
    return module


@cache
def _log(trt: Any) -> Any:
    """The process's only TensorRT logger: the library keeps the first that it gets."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.records: list[tuple[bool, str]] = []  # (is an error, its text)

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.WARNING:
                self.records.append((severity <= trt.ILogger.ERROR, message))

    return Log()


def _fixed(spec: TensorSpec, ranges: Ranges, bound: int) -> tuple[int, ...]:
    return tuple(ranges[size][bound] if isinstance(size, str) else size for size in spec.shape)


def _differences(network: Any, engine: Engine, trt: Any) -> Iterator[str]:
    """Inputs and outputs that are not the ones that the bundle's manifest promises to the runtime."""
    for kind, specs, count, get in (
        ("input", engine.inputs, network.num_inputs, network.get_input),
        ("output", engine.outputs, network.num_outputs, network.get_output),
    ):
        parsed = {tensor.name: tensor for tensor in map(get, range(count))}
        promised = {spec.name for spec in specs}
        yield from (f"{kind} '{name}' is not in the manifest" for name in parsed if name not in promised)
        for spec in specs:
            if spec.name not in parsed:
                yield f"{kind} '{spec.name}' is missing from the parsed network"
                continue
            tensor = parsed[spec.name]
            dtype = np.dtype(trt.nptype(tensor.dtype)).name
            shape = tuple(-1 if isinstance(size, str) else size for size in spec.shape)
            if (dtype, tuple(tensor.shape)) != (spec.dtype, shape):
                yield f"{kind} '{spec.name}' is {dtype} {tuple(tensor.shape)}, not {spec.dtype} {shape}"


def _cache_mistakes(network: Any, engine: Engine, trt: Any) -> Iterator[str]:
    """Caches that would not be updated in place, and attention that would look at unwritten entries."""
    updates = {
        (layer.get_input(0).name, layer.get_output(0).name)
        for layer in _layers(network)
        if layer.type == trt.LayerType.KV_CACHE_UPDATE
    }
    pasts = [spec.name for spec in engine.inputs if spec.name.startswith("past_")]
    for past in pasts:
        if (past, past.replace("past_", "present_", 1)) not in updates:
            yield f"cache '{past}' would not be updated in place"
    if pasts:
        blind = sum(attention.mask is None for attention in _attentions(network, trt))
        if blind:
            yield f"{blind} attention layers lost their mask"


def _let_attention_decompose(network: Any, trt: Any) -> None:
    """Where there is no fused kernel (fp32 has none), let the attention run as matrix products and a softmax."""
    for attention in _attentions(network, trt):
        attention.decomposable = True


def _attentions(network: Any, trt: Any) -> Iterator[Any]:
    for layer in _layers(network):
        if layer.type == trt.LayerType.ATTENTION_OUTPUT:
            layer.__class__ = trt.IAttentionOutputLayer  # the bindings hand out the base class only
            yield layer.attention


def _layers(network: Any) -> Iterator[Any]:
    return (network.get_layer(number) for number in range(network.num_layers))
