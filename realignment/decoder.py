"""SmolLM2-135M-Instruct out of its GGUF file: weights under transformers' names, and the tokenizer."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from jetson_runtime.console import require
from jetson_runtime.errors import CheckpointError

__all__ = ["DECODER_CONFIG", "IMAGE_TOKEN", "IMAGE_TOKEN_ID", "smollm2_tokenizer", "smollm2_weights"]

IMAGE_TOKEN = "<image>"
IMAGE_TOKEN_ID = 16  # SmolLM2's <empty_output>, which its chat training never uses: renamed, so nothing is resized
_RENAMED = "<empty_output>"

DECODER_CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 576,
    "initializer_range": 0.02,
    "intermediate_size": 1536,
    "max_position_embeddings": 8192,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "pad_token_id": 2,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_theta": 100000.0, "rope_type": "default"},
    "tie_word_embeddings": True,
    "use_cache": True,
    "vocab_size": 49152,
}

_NAMES = {
    "token_embd": "embed_tokens",
    "output_norm": "norm",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def smollm2_weights(gguf_file: Path) -> dict[str, Any]:
    """The decoder as float32 tensors under the names of transformers' LlamaModel.

    GGUF stores the rows of q and k in the order of ggml's interleaved rotary embedding; they are put back in halves.

    Raises:
        CheckpointError: the file holds a tensor that this family does not know.
    """
    gguf, torch = require("gguf", "realign"), require("torch", "realign")
    heads = {"attn_q": DECODER_CONFIG["num_attention_heads"], "attn_k": DECODER_CONFIG["num_key_value_heads"]}
    weights: dict[str, Any] = {}
    for tensor in gguf.GGUFReader(str(gguf_file)).tensors:
        hit = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.weight", tensor.name)
        if hit is None or hit[2] not in _NAMES:
            raise CheckpointError(
                f"{gguf_file} holds an unknown tensor", found=tensor.name, expected="the Llama family's names"
            )
        array = np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type), np.float32)
        if hit[2] in heads:
            rows, columns = array.shape
            array = array.reshape(heads[hit[2]], rows // heads[hit[2]] // 2, 2, columns).swapaxes(1, 2)
            array = array.reshape(rows, columns)
        layer = f"layers.{hit[1]}." if hit[1] else ""
        weights[f"{layer}{_NAMES[hit[2]]}.weight"] = torch.tensor(array)
    return weights


def smollm2_tokenizer(gguf_file: Path) -> dict[str, Any]:
    """The value of tokenizer.json, with the unused special token 16 renamed to `<image>`.

    Written by hand because transformers' own GGUF conversion loses SmolLM2's splitting of digits one by one.
    """
    gguf = require("gguf", "realign")
    fields = gguf.GGUFReader(str(gguf_file)).fields
    tokens: list[str] = fields["tokenizer.ggml.tokens"].contents()
    kinds: list[int] = fields["tokenizer.ggml.token_type"].contents()
    if tokens[IMAGE_TOKEN_ID] != _RENAMED or len(tokens) != DECODER_CONFIG["vocab_size"]:
        raise CheckpointError(
            f"{gguf_file} does not hold SmolLM2's tokenizer", found=tokens[IMAGE_TOKEN_ID], expected=_RENAMED
        )
    tokens[IMAGE_TOKEN_ID] = IMAGE_TOKEN
    control = int(gguf.TokenType.CONTROL)
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": index, "content": tokens[index], **plain} for index, kind in enumerate(kinds) if kind == control
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
        },
        "post_processor": None,
        "decoder": {**byte_level, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in fields["tokenizer.ggml.merges"].contents()],
        },
    }
