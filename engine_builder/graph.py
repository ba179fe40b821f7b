"""Writes one ONNX graph whose weights lie in a file beside it, tensor by tensor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jetson_runtime.console import require
from jetson_runtime.errors import CheckpointError
from jetson_runtime.manifest import TensorSpec

__all__ = ["IR_VERSION", "OPSET", "Graph", "in_precision"]

OPSET = 24  # TensorScatter and Attention with a mask over a fixed cache came with 24
IR_VERSION = 11
_ALIGNMENT = 64  # bytes; what a CPU reads at once from a memory-mapped file
_INLINE_BYTES = 1024  # shapes and scalars stay in the graph, where tools look for them


def in_precision(name: str, array: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """A tensor of the checkpoint, contiguous, in the exported precision.

    Raises:
        CheckpointError: a value is too large for it.
    """
    with np.errstate(over="ignore"):
        cast = np.ascontiguousarray(array, dtype)
    if not np.isfinite(cast).all():
        raise CheckpointError(
            f"tensor '{name}' does not fit the precision {dtype.name}",
            found=f"values up to {np.abs(array.astype(np.float64)).max():.3g}",
            expected=f"at most {np.finfo(dtype).max:.3g}",
            remedy="export with precision fp32",
        )
    return cast


class Graph:
    """A graph under construction. Values are known by their ONNX names; `op` returns the name of what it made."""

    def __init__(self, name: str, path: Path, dtype: np.dtype[Any]) -> None:
        self._onnx = require("onnx", "build")
        self.name = name
        self.path = path
        self.dtype = np.dtype(dtype)
        self.inputs: list[TensorSpec] = []
        self.outputs: list[TensorSpec] = []
        self._nodes: list[Any] = []
        self._initializers: list[Any] = []
        self._known: set[str] = set()
        self.weights_bytes = 0  # length of the weights file so far
        self._weights_path = path.with_suffix(".weights")

    @property
    def element_type(self) -> int:
        """ONNX's number for the graph's precision."""
        return self._element_type(self.dtype)

    def _element_type(self, dtype: Any) -> int:
        return int(self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def input(self, name: str, dtype: Any, shape: Sequence[int | str]) -> str:
        """Declare an input; a dimension given as a word is dynamic."""
        self.inputs.append(TensorSpec(name, np.dtype(dtype).name, tuple(shape)))
        return name

    def output(self, value: str, name: str, dtype: Any, shape: Sequence[int | str]) -> None:
        """Let `value`, what the last node made, leave the graph as `name`."""
        assert self._nodes[-1].output[0] == value, "only the last node's result can be renamed"
        self._nodes[-1].output[0] = name
        self.declare_output(name, dtype, shape)

    def declare_output(self, name: str, dtype: Any, shape: Sequence[int | str]) -> None:
        """Declare a value that is called `name` already as an output."""
        self.outputs.append(TensorSpec(name, np.dtype(dtype).name, tuple(shape)))

    def op(self, kind: str, *inputs: str, outputs: Sequence[str] | None = None, **attributes: Any) -> str:
        """Append a node and return the name of its first output."""
        label = f"{kind}.{len(self._nodes)}"
        results = list(outputs or [label])
        self._nodes.append(self._onnx.helper.make_node(kind, list(inputs), results, name=label, **attributes))
        return results[0]

    def constant(self, array: np.ndarray) -> str:
        """A small value that belongs to the graph: a shape, a scalar."""
        name = f"constant.{len(self._initializers)}"
        self._initializers.append(self._onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def weight(self, name: str, array: np.ndarray) -> str:
        """A tensor of the checkpoint in the graph's precision, appended to the weights file (once per name)."""
        if name in self._known:
            return name
        self._known.add(name)
        size_bytes = array.size * self.dtype.itemsize
        if size_bytes <= _INLINE_BYTES:
            self._initializers.append(self._onnx.numpy_helper.from_array(in_precision(name, array, self.dtype), name))
            return name
        tensor = self._onnx.TensorProto(name=name, data_type=self.element_type, dims=array.shape)
        tensor.data_location = self._onnx.TensorProto.EXTERNAL
        location = {"location": self._weights_path.name, "offset": self._store(name, array), "length": size_bytes}
        for key, value in location.items():
            tensor.external_data.add(key=key, value=str(value))
        self._initializers.append(tensor)
        return name

    def _store(self, name: str, array: np.ndarray) -> int:
        """Append a tensor to the weights file, which comes into being with the first, and return its offset."""
        offset = self._reserve(array)
        with self._weights_path.open("ab") as file:
            file.write(b"\0" * (offset - file.tell()))
            file.write(in_precision(name, array, self.dtype).data.cast("B"))
        return offset

    def _reserve(self, array: np.ndarray) -> int:
        """The next aligned offset; the weights then end behind `array`."""
        offset = self.weights_bytes + -self.weights_bytes % _ALIGNMENT
        self.weights_bytes = offset + array.size * self.dtype.itemsize
        return offset

    def linear(self, x: str, name: str, weight: np.ndarray, bias: np.ndarray | None = None) -> str:
        """`x @ weight.T + bias`; a checkpoint's [out, in] weight is stored as [in, out], ready for MatMul."""
        y = self.op("MatMul", x, self.weight(f"{name}.weight", weight.T))
        return y if bias is None else self.op("Add", y, self.weight(f"{name}.bias", bias))

    def save(self) -> None:
        """Write the graph; its weights lie beside it already."""
        self.path.write_bytes(self.serialized())

    def serialized(self) -> bytes:
        """The ONNX model without the weights that lie beside it."""
        helper = self._onnx.helper
        declared = [
            [
                helper.make_tensor_value_info(spec.name, self._element_type(spec.dtype), list(spec.shape))
                for spec in specs
            ]
            for specs in (self.inputs, self.outputs)
        ]
        graph = helper.make_graph(self._nodes, self.name, *declared, self._initializers)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="holdfast"
        )
        serialized: bytes = model.SerializeToString(deterministic=True)
        return serialized
