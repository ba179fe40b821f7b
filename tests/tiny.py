"""Tiny LLaVA checkpoints with random weights: every family that can be exported, in its real file format."""

from __future__ import annotations

import json
from pathlib import Path

from engine_builder.config import BuildConfig

VOCABULARY = 272
IMAGE_TOKEN, BOS, EOS = 256, 257, 258
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
)
VISION = {
    "clip": {
        "model_type": "clip_vision_model",
        "projection_dim": 32,
        "intermediate_size": 128,
        "hidden_act": "quick_gelu",
    },
    "dinov2": {"model_type": "dinov2", "mlp_ratio": 2},
}
# Per checkpoint: image encoder, text family, tied, dtype on disk.
KINDS = {
    "clip-llama": ("clip", "llama", False, "float16"),
    "dinov2-llama": ("dinov2", "llama", True, "float16"),
    "clip-qwen2": ("clip", "qwen2", False, "bfloat16"),
    "dinov2-mistral": ("dinov2", "mistral", False, "float32"),
}
LADDER = [{"name": "d1", "vision": 2, "decoder": 2}, {"name": "d2", "vision": 3, "decoder": 4}]


def build_values(**changes: object) -> dict[str, object]:
    values: dict[str, object] = {
        "model": {"id": "tiny", "version": "1.0"},
        "precision": "fp16",
        "kv_capacity": 64,
        "target": "rtx-sm86",
        "ladder": LADDER,
    }
    return {name: value for name, value in {**values, **changes}.items() if value is not None}


def build_config(**changes: object) -> BuildConfig:
    return BuildConfig.from_dict(build_values(**changes), Path("build.yaml"))


def save_model(folder: Path, vision: str, text: str, tied: bool, dtype: str) -> None:
    import torch
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    layers = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config={**VISION[vision], **layers, "image_size": 28, "patch_size": 14},
        text_config={
            "model_type": text,
            **layers,
            "num_key_value_heads": 1,
            "intermediate_size": 96,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 64,
            "bos_token_id": BOS,
            "eos_token_id": EOS,
            "pad_token_id": EOS,
            "tie_word_embeddings": tied,
            **({"sliding_window": None} if text == "mistral" else {}),
        },
        image_token_index=IMAGE_TOKEN,
        image_seq_length=4,
        vision_feature_layer=3,
        vision_feature_select_strategy="default",
        tie_word_embeddings=tied,
    )
    torch.manual_seed(0)
    LlavaForConditionalGeneration(config).to(getattr(torch, dtype)).save_pretrained(folder)


def save_processor(folder: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: n for n, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in ("<image>", "<s>", "</s>")])
    assert tokenizer.token_to_id("<image>") == IMAGE_TOKEN
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": "<s>", "eos_token": "</s>"}), encoding="utf-8"
    )
    processor = {
        "processor_class": "LlavaProcessor",
        "patch_size": 14,
        "num_additional_image_tokens": 1,
        "vision_feature_select_strategy": "default",
        "image_token": "<image>",
    }
    (folder / "processor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    preprocessing = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "size": {"shortest_edge": 28},
        "crop_size": {"height": 28, "width": 28},
        "resample": 3,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing), encoding="utf-8")
