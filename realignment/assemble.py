"""The reference checkpoint: a LlavaForConditionalGeneration directory out of pinned weights and our projector."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from jetson_runtime.console import require
from jetson_runtime.errors import CheckpointError
from jetson_runtime.files import canonical_json, read_json, sha256_file, staged_directory
from realignment.adapters import add, read_adapter
from realignment.decoder import DECODER_CONFIG, IMAGE_TOKEN, IMAGE_TOKEN_ID, smollm2_tokenizer, smollm2_weights
from realignment.packages import DINOV2, SMOLLM2, Package, fetch
from realignment.tensors import save_tensors
from realignment.vision import VISION_CONFIG, dinov2_weights

__all__ = [
    "CHAT_TEMPLATE",
    "IMAGE_PIXELS",
    "IMAGE_TOKENS",
    "PROJECTOR_FILE",
    "PROJECTOR_RECORD",
    "PROJECTOR_SHAPES",
    "STAGES",
    "assemble",
    "load_projector",
    "read_parts",
    "write_checkpoint",
]

DATA = Path(__file__).parent / "data"
PROJECTOR_FILE = DATA / "projector.safetensors"
PROJECTOR_RECORD = PROJECTOR_FILE.with_suffix(".json")

STAGES: Mapping[str, str | None] = {"projector": None, "aligned": "align", "exits": "exits", "realigned": "ppo"}
"""The reference's stages, each built on the one before, and the command whose adapter makes it."""

IMAGE_PIXELS = 224
IMAGE_TOKENS = (IMAGE_PIXELS // VISION_CONFIG["patch_size"]) ** 2
VISION_EXIT = VISION_CONFIG["num_hidden_layers"]

PROJECTOR_SHAPES = {
    "linear_1.weight": (DECODER_CONFIG["hidden_size"], VISION_CONFIG["hidden_size"]),
    "linear_1.bias": (DECODER_CONFIG["hidden_size"],),
    "linear_2.weight": (DECODER_CONFIG["hidden_size"], DECODER_CONFIG["hidden_size"]),
    "linear_2.bias": (DECODER_CONFIG["hidden_size"],),
}

# SmolLM2's own turns. Its default system prompt is left out, in training as in use: it names another assistant, and it
# costs tokens of every answer's budget. A caller's own system message is rendered.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{%- if message['content'] is string -%}{{ message['content'] }}{%- else -%}"
    "{%- for part in message['content'] if part['type'] == 'image' -%}{{ '<image>\\n' }}{%- endfor -%}"
    "{%- for part in message['content'] if part['type'] == 'text' -%}{{ part['text'] }}{%- endfor -%}"
    "{%- endif -%}{{ '<|im_end|>\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)


def read_parts(cache: Path) -> dict[str, Any]:
    """Image encoder and decoder as float16 tensors, under the names that LLaVA-1.5's own checkpoint uses.

    Raises:
        CheckpointError: a package or its payload is not the pinned one.
    """
    torch = require("torch", "realign")
    vision = dinov2_weights(fetch(DINOV2, cache))
    decoder = smollm2_weights(fetch(SMOLLM2, cache))
    named = {f"vision_tower.{name}": tensor for name, tensor in vision.items()}
    named |= {f"language_model.model.{name}": tensor for name, tensor in decoder.items()}
    return {name: tensor.to(torch.float16).contiguous() for name, tensor in named.items()}


def load_projector(file: Path) -> dict[str, Any]:
    """The trained projector's tensors.

    Raises:
        CheckpointError: it is not there, its record is not, or the two do not belong together.
    """
    record_file = file.with_suffix(".json")
    remedy = "train it with `realign projector`, or restore realignment/data from the repository"
    if not file.is_file() or not record_file.is_file():
        raise CheckpointError("the trained projector is missing", found="no file", expected=file, remedy=remedy)
    digest, recorded = sha256_file(file), read_json(record_file).get("sha256")
    if digest != recorded:
        raise CheckpointError(
            "the trained projector is not the recorded one", found=digest, expected=recorded, remedy=remedy
        )
    tensors: dict[str, Any] = require("safetensors.torch", "realign").load_file(str(file))
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if shapes != PROJECTOR_SHAPES:
        raise CheckpointError("the projector has other shapes", found=shapes, expected=PROJECTOR_SHAPES, remedy=remedy)
    return tensors


def assemble(out: Path, cache: Path, *, stage: str = "realigned", replace: bool = False) -> dict[str, Any]:
    """Write the reference checkpoint, as it is after `stage` (one of STAGES), to `out` and return its provenance.

    Raises:
        CheckpointError: a weight is not the pinned one, or the projector or an adapter is not the trained one.
        StorageError: `out` exists and `replace` is False, or can't be written.
    """
    projector = load_projector(PROJECTOR_FILE)
    record = read_json(PROJECTOR_FILE.with_suffix(".json"))
    order = list(STAGES)
    adapters = [name for name in (STAGES[part] for part in order[: order.index(stage) + 1]) if name]
    return write_checkpoint(out, cache, projector, record, adapters=adapters, replace=replace)


def load_adapter(name: str) -> tuple[dict[str, Any], float, dict[str, Any]]:
    """The tensors, scale and record of a shipped adapter: "align", "exits" or "ppo".

    Raises:
        CheckpointError: it is not there, its record is not, or the two do not belong together.
    """
    file = DATA / f"{name}.safetensors"
    remedy = f"train it with `realign {name}`, or restore realignment/data from the repository"
    if not file.is_file() or not file.with_suffix(".json").is_file():
        raise CheckpointError(f"the adapter '{name}' is missing", found="no file", expected=file.name, remedy=remedy)
    record, digest = read_json(file.with_suffix(".json")), sha256_file(file)
    if digest != record["adapter"]["sha256"]:
        raise CheckpointError(
            f"the adapter '{name}' is not the recorded one",
            found=digest,
            expected=record["adapter"]["sha256"],
            remedy=remedy,
        )
    tensors, scale = read_adapter(file)
    return tensors, scale, record


def write_checkpoint(
    out: Path,
    cache: Path,
    projector: dict[str, Any],
    record: dict[str, Any],
    *,
    adapters: Sequence[str] = (),
    replace: bool = False,
) -> dict[str, Any]:
    """Write a checkpoint with `projector` (tensors of PROJECTOR_SHAPES) and the shipped `adapters`, in this order.

    `record` says where the projector comes from.
    """
    torch = require("torch", "realign")
    loaded = {name: load_adapter(name) for name in adapters}
    with staged_directory(out, replace=replace) as folder:
        tensors = read_parts(cache)
        tensors |= {f"multi_modal_projector.{k}": v.to(torch.float16).contiguous() for k, v in projector.items()}
        for adapter, scale, _ in loaded.values():
            # Rounded to float16 after each, as the stages did when they were trained on one another.
            tensors = add(tensors, adapter, scale)
        save_tensors(folder / "model.safetensors", tensors, {"format": "pt"})
        tokenizer = smollm2_tokenizer(fetch(SMOLLM2, cache))
        (folder / "tokenizer.json").write_text(
            json.dumps(tokenizer, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
        )
        (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
        for name, value in _configs().items():
            (folder / name).write_text(canonical_json(value), encoding="utf-8")
        provenance = _provenance(folder, record, {name: facts for name, (_, _, facts) in loaded.items()})
        (folder / "provenance.json").write_text(canonical_json(provenance), encoding="utf-8")
    return provenance


def _configs() -> dict[str, dict[str, Any]]:
    config = {
        "architectures": ["LlavaForConditionalGeneration"],
        "dtype": "float16",
        "ignore_index": -100,
        "image_seq_length": IMAGE_TOKENS,
        "image_token_index": IMAGE_TOKEN_ID,
        "model_type": "llava",
        "multimodal_projector_bias": True,
        "pad_token_id": 2,
        "projector_hidden_act": "gelu",
        "text_config": DECODER_CONFIG,
        "tie_word_embeddings": True,
        "vision_config": VISION_CONFIG,
        "vision_feature_layer": VISION_EXIT,
        "vision_feature_select_strategy": "default",
    }
    preprocessor = {
        "crop_size": {"height": IMAGE_PIXELS, "width": IMAGE_PIXELS},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_processor_type": "CLIPImageProcessor",
        "image_std": [0.229, 0.224, 0.225],
        "processor_class": "LlavaProcessor",
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"shortest_edge": IMAGE_PIXELS},
    }
    processor = {
        "image_token": IMAGE_TOKEN,
        "num_additional_image_tokens": 1,
        "patch_size": VISION_CONFIG["patch_size"],
        "processor_class": "LlavaProcessor",
        "vision_feature_select_strategy": "default",
    }
    tokenizer = {
        "add_prefix_space": False,
        "bos_token": "<|im_start|>",
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "extra_special_tokens": {"image_token": IMAGE_TOKEN},
        "model_max_length": DECODER_CONFIG["max_position_embeddings"],
        "pad_token": "<|im_end|>",
        "padding_side": "left",
        "processor_class": "LlavaProcessor",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<|endoftext|>",
    }
    generation = {"bos_token_id": 1, "do_sample": False, "eos_token_id": [2, 0], "pad_token_id": 2}
    return {
        "config.json": config,
        "generation_config.json": generation,
        "preprocessor_config.json": preprocessor,
        "processor_config.json": processor,
        "tokenizer_config.json": tokenizer,
    }


_SAID = ("adapter", "command", "steps", "tools")


def _provenance(folder: Path, record: dict[str, Any], adapters: dict[str, Any]) -> dict[str, Any]:
    def part(package: Package) -> dict[str, str]:
        return {
            "licence": package.licence,
            "package": f"{package.name}=={package.version}",
            "payload": package.payload,
            "payload_sha256": package.payload_sha256,
            "wheel_sha256": package.wheel_sha256,
        }

    return {
        "files": {path.name: sha256_file(path) for path in sorted(folder.iterdir())},
        "adapters": {
            name: {key: facts[key] for key in ("adapter", "command", "steps", "tools")}
            for name, facts in adapters.items()
        },
        "parts": {"decoder": part(SMOLLM2), "projector": record, "vision": part(DINOV2)},
        "written_by": f"realign assemble, holdfast {_version()}",
    }


def _version() -> str:
    try:
        return metadata.version("holdfast")
    except metadata.PackageNotFoundError:
        return "from the source tree"
