"""Copies what turns questions and pictures into inputs: tokenizer, chat template, preprocessing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine_builder.checkpoint import Checkpoint, setting
from jetson_runtime.bundle import CHAT_TEMPLATE, PREPROCESSING, TOKENIZER
from jetson_runtime.errors import CheckpointError
from jetson_runtime.files import write_json
from jetson_runtime.image import Preprocessing

__all__ = ["copy_prompting", "read_preprocessing"]


def copy_prompting(checkpoint: Checkpoint, folder: Path, image_size: int) -> tuple[tuple[int, ...], int]:
    """Fill the bundle's tokenizer, chat template and preprocessing; return (stop token ids, image token id)."""
    for path in (TOKENIZER, CHAT_TEMPLATE):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copyfile(checkpoint.path / "tokenizer.json", folder / TOKENIZER)
    except FileNotFoundError:
        raise CheckpointError(
            f"{checkpoint.path} has no tokenizer.json",
            expected="a fast tokenizer",
            remedy="save it once with transformers: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)",
        ) from None
    (folder / CHAT_TEMPLATE).write_text(_special_tokens(checkpoint) + _chat_template(checkpoint), encoding="utf-8")
    preprocessing = read_preprocessing(checkpoint)
    if preprocessing.side != image_size:
        preprocessing = Preprocessing.from_dict(
            {**preprocessing.to_dict(), "shortest_edge": image_size, "side": image_size}
        )
    write_json(folder / PREPROCESSING, preprocessing.to_dict())
    return _stop_tokens(checkpoint), _image_token(checkpoint.config)


def _image_token(config: Mapping[str, Any]) -> int:
    return int(setting(config, "image_token_id" if "image_token_id" in config else "image_token_index", "config"))


def _stop_tokens(checkpoint: Checkpoint) -> tuple[int, ...]:
    text = checkpoint.config.get("text_config") or {}
    generation = (
        checkpoint.json("generation_config.json") if (checkpoint.path / "generation_config.json").exists() else {}
    )
    for source in (
        generation,
        checkpoint.config,
        text,
        {"eos_token_id": 2 if text.get("model_type") == "llama" else None},
    ):
        ids = source.get("eos_token_id")
        if ids is not None:
            return tuple(ids) if isinstance(ids, list) else (int(ids),)
    raise CheckpointError(
        f"{checkpoint.path} does not say where an answer ends",
        expected="eos_token_id in generation_config.json or config.json",
        remedy="add it",
    )


def _chat_template(checkpoint: Checkpoint) -> str:
    path = checkpoint.path / "chat_template.jinja"
    if path.exists():
        return path.read_text(encoding="utf-8")
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        if (checkpoint.path / name).exists():
            template = checkpoint.json(name).get("chat_template")
            if isinstance(template, str):
                return template
    raise CheckpointError(
        f"{checkpoint.path} has no chat template",
        expected="chat_template.jinja, or chat_template in processor_config.json or tokenizer_config.json",
        remedy="add the template that the model was trained with",
    )


def _special_tokens(checkpoint: Checkpoint) -> str:
    """Templates may name bos_token and eos_token, which transformers passes in; here the template carries them."""
    template, config = _chat_template(checkpoint), {}
    if (checkpoint.path / "tokenizer_config.json").exists():
        config = checkpoint.json("tokenizer_config.json")
    settings = ""
    for name in ("bos_token", "eos_token"):
        token = config.get(name)
        text = token.get("content") if isinstance(token, dict) else token
        if name in template and isinstance(text, str):
            settings += f"{{%- set {name} = {json.dumps(text)} -%}}"
    return settings


def read_preprocessing(checkpoint: Checkpoint) -> Preprocessing:
    """The checkpoint's image preprocessing, from processor_config.json (transformers 5) or the file beside it."""
    config: dict[str, Any] = {}
    for name in ("processor_config.json", "preprocessor_config.json"):
        if not config.get("image_mean") and (checkpoint.path / name).exists():
            config = checkpoint.json(name)
            config = config.get("image_processor", config)
    where = "preprocessor_config.json"
    for step in ("do_resize", "do_center_crop", "do_rescale", "do_normalize"):
        setting({step: True, **config}, step, where, [True])
    size, crop = (_edge(setting(config, name, where)) for name in ("size", "crop_size"))
    if size is None or crop is None or size < crop:
        raise CheckpointError(
            f"{where}: this image preprocessing can't be exported",
            found=json.dumps({"size": config["size"], "crop_size": config["crop_size"]}),
            expected="size by its shortest edge, and a square crop_size that is not larger",
            remedy="save the processor with these two fields",
        )
    mean, std = (tuple(float(x) for x in setting(config, name, where)) for name in ("image_mean", "image_std"))
    return Preprocessing(
        shortest_edge=size,
        side=crop,
        resample=int(setting({"resample": 3, **config}, "resample", where, [2, 3])),
        scale=float(config.get("rescale_factor", 1 / 255)),
        mean=mean,  # type: ignore[arg-type]
        std=std,  # type: ignore[arg-type]
    )


def _edge(size: Any) -> int | None:
    """The shortest edge that a size means: a number, {"shortest_edge": n} or a square."""
    if isinstance(size, int):
        return size
    if "shortest_edge" in size:
        return int(size["shortest_edge"])
    return int(size["height"]) if size.get("height") == size.get("width") else None
