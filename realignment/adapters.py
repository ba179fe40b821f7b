"""LoRA adapters on the language model: put in, written, and merged into a checkpoint, tensor by tensor.

What a stage trains is small (LoRA, Hu et al. 2021: W + alpha/r * B A); what it gives is a whole checkpoint again,
float16 as before, so that every later step is the same with and without realignment.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jetson_runtime.console import require
from jetson_runtime.errors import CheckpointError
from jetson_runtime.files import storage_errors
from realignment.tensors import save_tensors

__all__ = [
    "adapter_facts",
    "adapter_merged",
    "adapter_off",
    "add",
    "inject",
    "merge",
    "read_adapter",
    "rebased",
    "trained",
    "write_adapter",
]

_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
_NAME = "default"
_A, _B = ".lora_A.weight", ".lora_B.weight"
# Names of the language model in LLaVA checkpoints: LLaVA-1.5's own files, and what transformers 5 saves.
_PREFIXES = ("language_model.model.", "model.language_model.")


def inject(language_model: Any, rank: int, *, seed: int) -> dict[str, Any]:
    """Put LoRA of `rank` into every linear layer of the decoder's blocks (alpha = 2 rank); returns what is trained."""
    torch, peft = require("torch", "realign"), require("peft", "realign")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=_TARGETS)
        peft.inject_adapter_in_model(config, language_model, adapter_name=_NAME)
    return trained(language_model)


def trained(language_model: Any) -> dict[str, Any]:
    """The adapter's tensors by name, `layers.0.self_attn.q_proj.lora_A.weight` and so on."""
    return {
        name.replace(f".{_NAME}.", "."): tensor
        for name, tensor in language_model.named_parameters()
        if ".lora_" in name
    }


@contextlib.contextmanager
def adapter_off(language_model: Any) -> Iterator[None]:
    """The language model without its adapter: L-PPO's frozen reference, at no memory of its own."""
    layers = _layers(language_model)
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


@contextlib.contextmanager
def adapter_merged(language_model: Any, dtype: Any) -> Iterator[None]:
    """The language model with its adapter inside its weights, in `dtype`, and put back bit by bit afterwards.

    Answering token by token reads every weight for each token: this spares the adapter's own products and the casts to
    the type that products are computed in. It holds one more copy of the blocks' weights.
    """
    torch, layers = require("torch", "realign"), _layers(language_model)
    kept = [layer.base_layer.weight.data for layer in layers]
    try:
        with torch.no_grad():
            for layer in layers:
                weight = layer.base_layer.weight
                weight.data = (weight.data + layer.get_delta_weight(_NAME)).to(dtype)
        with adapter_off(language_model):
            yield
    finally:
        for layer, before in zip(layers, kept, strict=True):
            layer.base_layer.weight.data = before


def _layers(language_model: Any) -> list[Any]:
    return [module for module in language_model.modules() if hasattr(module, "lora_A")]


def write_adapter(tensors: Mapping[str, Any], file: Path, *, rank: int) -> None:
    """Write an adapter as float16, whole or not at all.

    Raises:
        StorageError: it can't be written.
    """
    torch = require("torch", "realign")
    halves = {name: value.detach().to(torch.float16).cpu() for name, value in tensors.items()}
    # One entry: safetensors does not fix the order of several, and equal adapters should be equal files.
    save_tensors(file, halves, {"lora": json.dumps({"alpha": 2 * rank, "rank": rank})})


def read_adapter(file: Path) -> tuple[dict[str, Any], float]:
    """An adapter's tensors, float32, and the scale of its product.

    Raises:
        CheckpointError: the file is missing or no adapter.
    """
    safetensors = require("safetensors", "realign")
    try:
        with safetensors.safe_open(str(file), "pt") as opened:
            facts = json.loads((opened.metadata() or {}).get("lora", "{}"))
            tensors = {name: opened.get_tensor(name).float() for name in opened.keys()}  # noqa: SIM118
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"{file} is not an adapter", found=str(error).splitlines()[0], expected="what `realign` writes"
        ) from None
    halves = [{name.removesuffix(end) for name in tensors if name.endswith(end)} for end in (_A, _B)]
    if not {"alpha", "rank"} <= facts.keys() or halves[0] != halves[1] or len(tensors) != 2 * len(halves[0]):
        raise CheckpointError(
            f"{file} is not an adapter",
            found=f"{len(tensors)} tensors, {len(halves[0] & halves[1])} pairs, header {sorted(facts)}",
            expected="pairs of lora_A and lora_B, with rank and alpha in the header, as `realign` writes them",
        )
    return tensors, facts["alpha"] / facts["rank"]


def rebased(name: str) -> str | None:
    """The name inside the language model of a checkpoint's tensor, or None if it belongs elsewhere."""
    return next((name.removeprefix(prefix) for prefix in _PREFIXES if name.startswith(prefix)), None)


def add(tensors: Mapping[str, Any], adapter: Mapping[str, Any], scale: float) -> dict[str, Any]:
    """A checkpoint's tensors with an adapter added: computed in float32, given back in the tensor's own type.

    Raises:
        CheckpointError: a weight has another shape than the adapter's product.
    """
    wanted = {name.removesuffix(_A) for name in adapter if name.endswith(_A)}
    merged = dict(tensors)
    for name, tensor in tensors.items():
        inner = rebased(name)
        key = None if inner is None else inner.removesuffix(".weight")
        if key not in wanted:
            continue
        a, b = adapter[f"{key}{_A}"], adapter[f"{key}{_B}"]
        if (b.shape[0], a.shape[1]) != tuple(tensor.shape):
            raise CheckpointError(
                f"the adapter does not fit {name}",
                found=(b.shape[0], a.shape[1]),
                expected=tuple(tensor.shape),
                remedy="use the checkpoint that it was trained on",
            )
        merged[name] = (tensor.float() + scale * (b @ a)).to(tensor.dtype).contiguous()
        wanted.discard(key)
    return merged


def merge(checkpoint: Path, adapter: Path, out: Path) -> None:
    """Write to the empty directory `out` the checkpoint with the adapter added, shard by shard, all else copied.

    Raises:
        CheckpointError: the adapter does not belong to this checkpoint. StorageError: `out` can't be written.
    """
    load_file = require("safetensors.torch", "realign").load_file
    tensors, scale = read_adapter(adapter)
    reached = 0
    with storage_errors(out):
        for file in sorted(checkpoint.iterdir()):
            if file.suffix != ".safetensors" and file.is_file() and file.name != "provenance.json":
                shutil.copyfile(file, out / file.name)
        for file in sorted(checkpoint.glob("*.safetensors")):
            before = load_file(str(file))
            after = add(before, tensors, scale)
            reached += sum(after[name] is not before[name] for name in before)
            save_tensors(out / file.name, after, {"format": "pt"})
    expected = sum(name.endswith(_A) for name in tensors)
    if reached != expected:
        raise CheckpointError(
            f"the adapter {adapter} does not belong to {checkpoint}",
            found=f"{reached} of its weights",
            expected=f"all {expected}",
            remedy="use the checkpoint that it was trained on",
        )


def adapter_facts(file: Path) -> dict[str, Any]:
    """Size in bytes and number of trained values of an adapter file."""
    with file.open("rb") as opened:
        header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
    ends = [entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"]
    return {"bytes": file.stat().st_size, "values": sum((stop - start) // 2 for start, stop in ends)}
