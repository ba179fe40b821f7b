"""Runs a portable bundle on the CPU. The engines are the ONNX graphs themselves."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetson_runtime.bundle import Bundle
from jetson_runtime.console import require
from jetson_runtime.errors import BackendError
from jetson_runtime.manifest import Engine, SharedTensor

__all__ = ["HostBuffer", "OnnxRuntimeBackend"]


@dataclass(frozen=True)
class HostBuffer:
    """A contiguous numpy array, or a window into one."""

    array: NDArray[Any]

    @cached_property
    def address(self) -> int:
        """Where the first element lies."""
        return int(self.array.ctypes.data)

    @property
    def shape(self) -> tuple[int, ...]:
        """Elements along each dimension."""
        return self.array.shape

    def window(self, shape: tuple[int, ...], offset: int = 0) -> HostBuffer:
        """The same memory with another shape, `offset` elements in."""
        count = int(np.prod(shape))
        return HostBuffer(self.array.reshape(-1)[offset : offset + count].reshape(shape))

    def write(self, values: NDArray[Any]) -> None:
        """Copy values into the memory."""
        self.array[...] = values

    def read(self) -> NDArray[Any]:
        """A copy of the values."""
        return self.array.copy()


@dataclass(frozen=True)
class _Session:
    """A session, its binding, and what is bound: by name, the memory's address and shape."""

    session: Any
    binding: Any
    bound: dict[str, tuple[int, tuple[int, ...]]]


class OnnxRuntimeBackend:
    """ONNX Runtime, CPU execution provider."""

    name = "onnxruntime"

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        if bundle.manifest.target.get("compiler") != "onnxruntime":
            raise BackendError(
                f"{bundle.path} holds engines of another compiler",
                found=bundle.manifest.target.get("compiler"),
                expected="onnxruntime (a portable bundle)",
                remedy="open the portable bundle that these engines were compiled from",
            )
        self._ort = require("onnxruntime", "cpu")
        # It would keep a database of events and an id of the machine in the user's cache: nothing that a car should do.
        self._ort.disable_telemetry_events()
        self._bundle = bundle
        self._options = self._ort.SessionOptions()
        self._options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
        self._options.log_severity_level = 3
        # A session's threads spin between its operators, which is fast; by default they go on after a run and take the
        # cores from the next session's: a chain of three is then 4 times slower.
        self._options.add_session_config_entry("session.force_spinning_stop", "1")

    def load(self, engine: Engine) -> Any:
        """Open a session with buffers bound by address."""
        path = self._bundle.file(engine.path)
        try:
            session = self._ort.InferenceSession(path, self._options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the library's exceptions share no base class
            raise BackendError(
                f"{path} can't be loaded", found=_first_line(error), remedy="export the bundle again"
            ) from None
        return _Session(session, session.io_binding(), {})

    def share(self, tensor: SharedTensor) -> HostBuffer:
        """Map the weights; pages are read when they are first used and can be dropped again."""
        return HostBuffer(_map(self._bundle.file(tensor.path), tensor))

    def allocate(self, shape: tuple[int, ...], dtype: str) -> HostBuffer:
        """Zeroed memory."""
        return HostBuffer(np.zeros(shape, dtype))

    def enqueue(self, engine: Any, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        """Run at once; ONNX Runtime's CPU provider has no queue."""
        binding, bound = engine.binding, engine.bound
        for bind, buffers in ((binding.bind_input, inputs), (binding.bind_output, outputs)):
            for name, buffer in buffers.items():
                # From one token to the next only the mask moves; caches by the dozen stay where they are.
                if bound.get(name) != (place := (buffer.address, buffer.shape)):
                    bind(name, "cpu", 0, buffer.array.dtype.type, buffer.shape, buffer.address)
                    bound[name] = place
        try:
            engine.session.run_with_iobinding(binding)
        except Exception as error:  # see load
            raise BackendError(
                "an engine failed", found=_first_line(error), remedy="run 'engine-build check'"
            ) from None

    def wait(self) -> None:
        """Nothing is pending."""

    def now_ms(self) -> float:
        """The monotonic clock."""
        return time.perf_counter() * 1e3

    def close(self) -> None:
        """Sessions are freed with their engines."""


def _map(path: Path, tensor: SharedTensor) -> NDArray[Any]:
    return np.memmap(path, np.dtype(tensor.dtype), mode="r", shape=tensor.shape)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
