"""Backends behind one protocol: load an engine, allocate a buffer, enqueue an engine over named buffers, wait, read.

The chain, the policy and everything above never ask which backend it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

from jetson_runtime.bundle import Bundle
from jetson_runtime.errors import BackendError
from jetson_runtime.manifest import Engine, SharedTensor
from jetson_runtime.profile import LatencyProfile

__all__ = ["Backend", "BackendName", "Buffer", "open_backend"]

BackendName = str
NAMES = ("onnxruntime", "simulated")


class Buffer(Protocol):
    """Memory that engines read and write, or a window into it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Elements along each dimension."""

    def window(self, shape: tuple[int, ...], offset: int = 0) -> Buffer:
        """The same memory seen with another shape, `offset` elements in; no bytes are copied."""

    def write(self, values: NDArray[Any]) -> None:
        """Copy values of the buffer's shape into it."""

    def read(self) -> NDArray[Any]:
        """A copy of the values, once `Backend.wait` has returned."""


class Backend(Protocol):
    """What runs engines. Work that is enqueued runs in order; `wait` returns when all of it is done."""

    name: str

    def load(self, engine: Engine) -> Any:
        """Make an engine ready to run; the result goes into `enqueue`."""

    def share(self, tensor: SharedTensor) -> Buffer:
        """The weights that several engines take as an input, loaded once."""

    def allocate(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        """A zeroed buffer."""

    def enqueue(self, engine: Any, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        """Run an engine over named buffers; an output may share memory with an input where the engine allows it."""

    def wait(self) -> None:
        """Return when everything enqueued so far is done."""

    def now_ms(self) -> float:
        """The backend's clock; only differences mean something."""

    def close(self) -> None:
        """Give engines and memory back."""


def open_backend(name: BackendName, bundle: Bundle, profile: LatencyProfile | None, threads: int | None) -> Backend:
    """The backend `name` for a bundle.

    Raises:
        BackendError: an unknown name, or a bundle that was compiled for another one. MissingExtraError: not installed.
    """
    if name == "onnxruntime":
        from jetson_runtime.backends.onnxruntime import OnnxRuntimeBackend

        return OnnxRuntimeBackend(bundle, threads)
    if name == "simulated":
        from jetson_runtime.backends.simulated import SimulatedBackend

        return SimulatedBackend(bundle, profile)
    raise BackendError(f"there is no backend '{name}'", expected=", ".join(NAMES), remedy="choose one of them")
