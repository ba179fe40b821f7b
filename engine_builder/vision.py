"""The ViT family (DINOv2, CLIP): emits the image encoder's segments and its head, the projector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine_builder.checkpoint import Weights, setting
from engine_builder.graph import Graph
from jetson_runtime.errors import CheckpointError

__all__ = ["FAMILIES", "VisionTower", "emit_projector", "emit_vision_segment", "read_vision"]

# What transformers fills in where a config.json is silent.
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "clip_vision_model": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": 224,
        "patch_size": 32,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
    },
    "dinov2": {
        "hidden_size": 768,
        "mlp_ratio": 4,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": 224,
        "patch_size": 14,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "qkv_bias": True,
        "use_swiglu_ffn": False,
    },
}


@dataclass(frozen=True)
class Names:
    """Where one family keeps the tensors of a block, below `layers.N.` or `layer.N.`."""

    layers: str
    norm1: str
    norm2: str
    qkv: tuple[str, str, str]
    out: str
    fc1: str
    fc2: str


FAMILIES = {
    "clip_vision_model": Names("encoder.layers", "layer_norm1", "layer_norm2",
                               ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "self_attn.out_proj",
                               "mlp.fc1", "mlp.fc2"),
    "dinov2": Names("encoder.layer", "norm1", "norm2",
                    ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
                    "attention.output.dense", "mlp.fc1", "mlp.fc2"),
}  # fmt: skip


@dataclass(frozen=True)
class VisionTower:
    """The sizes of an image encoder."""

    family: str
    layers: int
    width: int
    heads: int
    patch: int
    image_size: int
    activation: str
    epsilon: float

    @property
    def grid(self) -> int:
        """Patches along one side of the image."""
        return self.image_size // self.patch

    @property
    def tokens(self) -> int:
        """Patches and the class token."""
        return self.grid**2 + 1

    @property
    def intermediate_values(self) -> int:
        """Elements of the widest activation of a block: what `plan` counts as workspace."""
        return self.tokens * self.width * 4 + self.heads * self.tokens**2


def read_vision(config: Mapping[str, Any], image_size: int | None) -> VisionTower:
    """The image encoder of a LLaVA `config.json`, at `image_size` pixels (None: the configuration's own).

    Raises:
        CheckpointError: an unknown family, or a variant that these graphs would get wrong.
    """
    given = config.get("vision_config") or {}
    family = setting(given, "model_type", "vision_config", list(FAMILIES))
    vision = {**_DEFAULTS[family], **given}
    setting(vision, "hidden_act", "vision_config", ["gelu", "quick_gelu"])
    if family == "dinov2":
        setting(vision, "use_swiglu_ffn", "vision_config", [False])
    size = int(image_size or vision["image_size"])
    if size % vision["patch_size"]:
        raise CheckpointError(
            "the image size is not a whole number of patches",
            found=f"{size} pixels, patches of {vision['patch_size']}",
            remedy="choose an image_size that the patch size divides",
        )
    if family == "clip_vision_model" and size != vision["image_size"]:
        raise CheckpointError(
            "a CLIP encoder runs at its own image size only",
            found=f"{size} pixels",
            expected=f"{vision['image_size']} pixels",
            remedy="leave image_size out of build.yaml",
        )
    return VisionTower(
        family=family,
        layers=int(vision["num_hidden_layers"]),
        width=int(vision["hidden_size"]),
        heads=int(vision["num_attention_heads"]),
        patch=int(vision["patch_size"]),
        image_size=size,
        activation=vision["hidden_act"],
        epsilon=float(vision["layer_norm_eps"]),
    )


def emit_vision_segment(graph: Graph, tower: VisionTower, weights: Weights, first: int, last: int) -> None:
    """Blocks `first`..`last` (1-based); the first segment begins with the patch embedding.

    Input `pixels` [1, 3, side, side] float32 or `hidden` [1, tokens, width]; output `features` [1, tokens, width].
    """
    if first == 1:
        x = _embed(graph, tower, weights)
    else:
        x = graph.input("hidden", graph.dtype, (1, tower.tokens, tower.width))
    for layer in range(first, last + 1):
        x = _block(graph, tower, weights, layer, x)
    graph.output(x, "features", graph.dtype, (1, tower.tokens, tower.width))


def _embed(graph: Graph, tower: VisionTower, weights: Weights) -> str:
    pixels = graph.input("pixels", np.float32, (1, 3, tower.image_size, tower.image_size))
    if graph.dtype != np.float32:
        pixels = graph.op("Cast", pixels, to=graph.element_type)
    if tower.family == "dinov2":
        kernel, bias = (
            weights["embeddings.patch_embeddings.projection.weight"],
            "embeddings.patch_embeddings.projection.bias",
        )
        cls, positions = weights["embeddings.cls_token"], weights["embeddings.position_embeddings"]
    else:
        kernel, bias = weights["embeddings.patch_embedding.weight"], "embeddings.patch_embedding.bias"
        cls, positions = weights["embeddings.class_embedding"], weights["embeddings.position_embedding.weight"]
    operands = [pixels, graph.weight("patches.weight", kernel)]
    if bias in weights:
        operands.append(graph.weight("patches.bias", weights[bias]))
    patches = graph.op("Conv", *operands, strides=[tower.patch] * 2, kernel_shape=[tower.patch] * 2)
    rows = graph.op("Reshape", patches, graph.constant(np.array([1, tower.width, tower.grid**2])))
    rows = graph.op("Transpose", rows, perm=[0, 2, 1])
    x = graph.op("Concat", graph.weight("cls", cls.reshape(1, 1, -1)), rows, axis=1)
    x = graph.op(
        "Add", x, graph.weight("positions", fit_positions(positions.reshape(-1, tower.width), tower.grid)[None])
    )
    if tower.family == "clip_vision_model":
        x = _norm(graph, tower, weights, "pre_layrnorm", "pre_norm", x)
    return x


def _block(graph: Graph, tower: VisionTower, weights: Weights, layer: int, x: str) -> str:
    names, name = FAMILIES[tower.family], f"layer{layer}"
    source = f"{names.layers}.{layer - 1}."

    def linear(value: str, part: str) -> str:
        return graph.linear(
            value, f"{name}.{part}", weights[f"{source}{part}.weight"], weights.optional(f"{source}{part}.bias")
        )

    def residual(branch: str, scale: str) -> str:
        if f"{source}{scale}" in weights:  # DINOv2's LayerScale
            branch = graph.op("Mul", branch, graph.weight(f"{name}.{scale}", weights[f"{source}{scale}"]))
        return graph.op("Add", x, branch)

    normed = _norm(graph, tower, weights, source + names.norm1, f"{name}.norm1", x)
    q, k, v = (linear(normed, part) for part in names.qkv)
    attended = graph.op("Attention", q, k, v, q_num_heads=tower.heads, kv_num_heads=tower.heads)
    x = residual(linear(attended, names.out), "layer_scale1.lambda1")
    normed = _norm(graph, tower, weights, source + names.norm2, f"{name}.norm2", x)
    inner = _activate(graph, tower.activation, linear(normed, names.fc1))
    return residual(linear(inner, names.fc2), "layer_scale2.lambda1")


def _norm(graph: Graph, tower: VisionTower, weights: Weights, source: str, name: str, x: str) -> str:
    scale, shift = (graph.weight(f"{name}.{part}", weights[f"{source}.{part}"]) for part in ("weight", "bias"))
    return graph.op("LayerNormalization", x, scale, shift, axis=-1, epsilon=tower.epsilon)


def _activate(graph: Graph, activation: str, x: str) -> str:
    if activation == "gelu":
        return graph.op("Gelu", x)
    scaled = graph.op("Mul", x, graph.constant(np.array(1.702, graph.dtype)))
    return graph.op("Mul", x, graph.op("Sigmoid", scaled))


def emit_projector(graph: Graph, tower: VisionTower, weights: Weights, config: Mapping[str, Any], width: int) -> None:
    """The vision tower's head: `features` [1, tokens, width] to `embeddings` [1, image tokens, decoder width]."""
    x = graph.input("features", graph.dtype, (1, tower.tokens, tower.width))
    tokens = image_tokens(tower, config)
    if tokens != tower.tokens:
        bounds = [graph.constant(np.array([n])) for n in (1, tower.tokens, 1)]
        x = graph.op("Slice", x, *bounds)
    x = graph.linear(x, "linear_1", weights["linear_1.weight"], weights.optional("linear_1.bias"))
    x = _activate(
        graph, setting({"projector_hidden_act": "gelu", **config}, "projector_hidden_act", "config", ["gelu"]), x
    )
    x = graph.linear(x, "linear_2", weights["linear_2.weight"], weights.optional("linear_2.bias"))
    graph.output(x, "embeddings", graph.dtype, (1, tokens, width))


def own_exit(config: Mapping[str, Any], tower: VisionTower) -> int:
    """The checkpoint's own exit: LLaVA's `vision_feature_layer`, an index that may count from the end.

    Raises:
        CheckpointError: several layers at once, or one that is not there.
    """
    layer = config.get("vision_feature_layer", -2)
    exit = layer if not isinstance(layer, int) or layer >= 0 else tower.layers + 1 + layer
    if not isinstance(exit, int) or not 1 <= exit <= tower.layers:
        raise CheckpointError(
            "config.json: vision_feature_layer can't be exported",
            found=layer,
            expected=f"one layer of the image encoder, 1 to {tower.layers} or counted from the end",
            remedy="use a checkpoint whose projector reads a single layer",
        )
    return exit


def image_tokens(tower: VisionTower, config: Mapping[str, Any]) -> int:
    """Embeddings per image: LLaVA's `vision_feature_select_strategy` drops the class token or keeps it."""
    strategy: str = setting(
        {"vision_feature_select_strategy": "default", **config},
        "vision_feature_select_strategy",
        "config",
        ["default", "full"],
    )
    return tower.tokens - int(strategy == "default")


def fit_positions(table: np.ndarray, grid: int) -> np.ndarray:
    """Position embeddings [1 + n*n, width] resampled to [1 + grid*grid, width], as DINOv2 does (bicubic, a = -0.75)."""
    side = round((len(table) - 1) ** 0.5)
    if side == grid:
        return table
    cls, squares = table[:1], table[1:].astype(np.float64).reshape(side, side, -1)
    weights = _bicubic(side, grid)
    squares = np.einsum("ai,bj,ijd->abd", weights, weights, squares)
    return np.concatenate([cls.astype(np.float32), squares.reshape(grid * grid, -1).astype(np.float32)])


def _bicubic(source: int, target: int) -> np.ndarray:
    """[target, source] interpolation weights: half-pixel centres, no antialiasing, edges repeated (as torch does)."""
    weights = np.zeros((target, source))
    for row in range(target):
        centre = (row + 0.5) * source / target - 0.5
        low = int(np.floor(centre))
        for tap in range(low - 1, low + 3):
            t = abs(centre - tap)
            near = (1.25 * t - 2.25) * t * t + 1
            far = ((-0.75 * t + 3.75) * t - 6) * t + 3
            weights[row, min(max(tap, 0), source - 1)] += near if t <= 1 else far
    return weights
