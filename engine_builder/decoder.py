"""The Llama family (Llama, Vicuna, SmolLM2, Mistral, Qwen2): emits the decoder's segments, its head and the embedding.

Caches have a fixed capacity and are updated in place: opset 24's TensorScatter, then Attention over the whole cache
under an explicit mask. TensorRT's parser drops `nonpad_kv_seqlen` without a word, so the mask is what says how far the
cache is filled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine_builder.checkpoint import Weights, setting
from engine_builder.graph import Graph
from jetson_runtime.errors import CheckpointError

__all__ = ["FAMILIES", "DecoderTower", "emit_decoder_segment", "emit_embedding", "emit_lm_head", "read_decoder"]

FAMILIES = ("llama", "mistral", "qwen2")
# What transformers fills in where a config.json is silent.
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "llama": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "rms_norm_eps": 1e-6,
        "vocab_size": 32000,
        "max_position_embeddings": 2048,
    },
    "mistral": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-6,
        "vocab_size": 32000,
        "max_position_embeddings": 131072,
    },
    "qwen2": {
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "rms_norm_eps": 1e-6,
        "vocab_size": 151936,
        "max_position_embeddings": 32768,
    },
}


@dataclass(frozen=True)
class DecoderTower:
    """The sizes of a language model."""

    family: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    positions: int
    rope_theta: float
    rope_factor: float
    epsilon: float
    tied: bool


def read_decoder(config: Mapping[str, Any]) -> DecoderTower:
    """The language model of a LLaVA `config.json`.

    Raises:
        CheckpointError: an unknown family, or a variant that these graphs would get wrong.
    """
    given = config.get("text_config") or {}
    family = setting(given, "model_type", "text_config", FAMILIES)
    text = {**_DEFAULTS[family], "hidden_act": "silu", **given}
    setting(text, "hidden_act", "text_config", ["silu"])
    layer_types = set(text.get("layer_types") or ["full_attention"])
    if layer_types != {"full_attention"} or (family == "mistral" and text.get("sliding_window")):
        raise CheckpointError(
            "config.json: text_config asks for sliding-window attention",
            expected="full attention in every layer",
            remedy="use a checkpoint without a sliding window",
        )
    theta, factor = _rope(text)
    heads = int(text["num_attention_heads"])
    return DecoderTower(
        family=family,
        layers=int(text["num_hidden_layers"]),
        width=int(text["hidden_size"]),
        heads=heads,
        kv_heads=int(text.get("num_key_value_heads") or heads),
        head_dim=int(text.get("head_dim") or text["hidden_size"] // heads),
        intermediate=int(text["intermediate_size"]),
        vocabulary=int(text["vocab_size"]),
        positions=int(text["max_position_embeddings"]),
        rope_theta=theta,
        rope_factor=factor,
        epsilon=float(text["rms_norm_eps"]),
        tied=bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", False))),
    )


def _rope(text: Mapping[str, Any]) -> tuple[float, float]:
    """(theta, linear factor); transformers 5 writes `rope_parameters`, older ones `rope_theta` and `rope_scaling`."""
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "linear"):
        raise CheckpointError(
            "config.json: text_config uses a rotary scaling that can't be exported",
            found=kind,
            expected="default or linear",
            remedy="use a checkpoint without long-context scaling",
        )
    return float(rope.get("rope_theta", text.get("rope_theta", 10000.0))), float(rope.get("factor") or 1.0)


def emit_decoder_segment(
    graph: Graph, tower: DecoderTower, weights: Weights, first: int, last: int, capacity: int
) -> None:
    """Blocks `first`..`last` (1-based).

    Inputs: `hidden` [1, S, width]; `positions` int64 [1, S]; `mask` bool [1, 1, S, capacity], true where a token may
    look; `write_index` int64 [1], where the S new entries go; per layer `past_k.N` and `past_v.N`
    [1, kv heads, capacity, head dim].
    Outputs: `features` [1, S, width]; `present_k.N`, `present_v.N`, to be bound to the same memory as their pasts.
    """
    cache = (1, tower.kv_heads, capacity, tower.head_dim)
    x = graph.input("hidden", graph.dtype, (1, "S", tower.width))
    graph.input("positions", np.int64, (1, "S"))
    graph.input("mask", np.bool_, (1, 1, "S", capacity))
    graph.input("write_index", np.int64, (1,))
    cos, sin = rotary_tables(tower, capacity)
    graph.weight("rope.cos", cos)
    graph.weight("rope.sin", sin)
    for layer in range(first, last + 1):
        for part in ("k", "v"):
            graph.input(f"past_{part}.{layer}", graph.dtype, cache)
        x = _block(graph, tower, weights, layer, x)
    graph.output(x, "features", graph.dtype, (1, "S", tower.width))
    for layer in range(first, last + 1):
        for part in ("k", "v"):
            graph.declare_output(f"present_{part}.{layer}", graph.dtype, cache)


def rotary_tables(tower: DecoderTower, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines [capacity, head_dim / 2] of the rotary position embedding (Su et al. 2021)."""
    frequency = tower.rope_theta ** -(np.arange(0, tower.head_dim, 2, dtype=np.float64) / tower.head_dim)
    angles = np.arange(capacity)[:, None] / tower.rope_factor * frequency[None]
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _block(graph: Graph, tower: DecoderTower, weights: Weights, layer: int, x: str) -> str:
    source, name = f"layers.{layer - 1}.", f"layer{layer}"

    def linear(value: str, part: str) -> str:
        return graph.linear(
            value, f"{name}.{part}", weights[f"{source}{part}.weight"], weights.optional(f"{source}{part}.bias")
        )

    def heads(value: str, count: int) -> str:
        split = graph.op("Reshape", value, graph.constant(np.array([1, -1, count, tower.head_dim])))
        return graph.op("Transpose", split, perm=[0, 2, 1, 3])

    normed = _norm(graph, tower, weights, f"{source}input_layernorm", x)
    q = heads(linear(normed, "self_attn.q_proj"), tower.heads)
    k = heads(linear(normed, "self_attn.k_proj"), tower.kv_heads)
    v = heads(linear(normed, "self_attn.v_proj"), tower.kv_heads)
    q, k = (graph.op("RotaryEmbedding", value, "rope.cos", "rope.sin", "positions") for value in (q, k))
    keys, values = (
        graph.op(
            "TensorScatter", f"past_{part}.{layer}", new, "write_index", outputs=[f"present_{part}.{layer}"], axis=2
        )
        for part, new in (("k", k), ("v", v))
    )
    attended = graph.op("Transpose", graph.op("Attention", q, keys, values, "mask"), perm=[0, 2, 1, 3])
    attended = graph.op("Reshape", attended, graph.constant(np.array([1, -1, tower.heads * tower.head_dim])))
    x = graph.op("Add", x, linear(attended, "self_attn.o_proj"))
    normed = _norm(graph, tower, weights, f"{source}post_attention_layernorm", x)
    gate, up = linear(normed, "mlp.gate_proj"), linear(normed, "mlp.up_proj")
    inner = graph.op("Mul", graph.op("Mul", gate, graph.op("Sigmoid", gate)), up)
    return graph.op("Add", x, linear(inner, "mlp.down_proj"))


def _norm(graph: Graph, tower: DecoderTower, weights: Weights, source: str, x: str) -> str:
    scale = graph.weight(f"{source}.weight", weights[f"{source}.weight"])
    return graph.op("RMSNormalization", x, scale, axis=-1, epsilon=tower.epsilon)


def emit_lm_head(graph: Graph, tower: DecoderTower, weights: Weights, table: np.ndarray | None) -> None:
    """The decoder's head: `features` [N, width] to `logits` [N, vocabulary] float32.

    With `table` None the weights are the input `token_table` [vocabulary, width], which the embedding takes too.
    """
    x = graph.input("features", graph.dtype, ("N", tower.width))
    if table is None:
        name = graph.input("token_table", graph.dtype, (tower.vocabulary, tower.width))
    else:
        name = graph.weight("lm_head.weight", table)
    logits = graph.op("Gemm", _norm(graph, tower, weights, "norm", x), name, transB=1)
    if graph.dtype != np.float32:
        logits = graph.op("Cast", logits, to=1)
    graph.output(logits, "logits", np.float32, ("N", tower.vocabulary))


def emit_embedding(graph: Graph, tower: DecoderTower, table: np.ndarray | None) -> None:
    """`tokens` int64 [1, S] to `embeddings` [1, S, width]; `table` as in `emit_lm_head`."""
    tokens = graph.input("tokens", np.int64, (1, "S"))
    if table is None:
        name = graph.input("token_table", graph.dtype, (tower.vocabulary, tower.width))
    else:
        name = graph.weight("token_table", table)
    graph.output(graph.op("Gather", name, tokens, axis=0), "embeddings", graph.dtype, (1, "S", tower.width))
