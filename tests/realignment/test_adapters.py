"""Adapters: what is merged into a checkpoint is what was trained beside it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file  # noqa: E402

from jetson_runtime.errors import CheckpointError, StorageError  # noqa: E402
from realignment.adapters import (  # noqa: E402
    adapter_facts,
    adapter_merged,
    adapter_off,
    inject,
    merge,
    read_adapter,
    trained,
    write_adapter,
)
from realignment.towers import Towers  # noqa: E402

IDS = torch.arange(40).reshape(2, 20) * 5
RANK = 3


def logits(model: Any) -> Any:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def adapted(folder: Path) -> tuple[Any, dict[str, Any]]:
    """The model of a checkpoint with an adapter that changes it; its values are float16's: a file holds them."""
    model = Towers(folder).model
    leaves = inject(model.model.language_model, RANK, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for leaf in leaves.values():
            leaf.copy_((0.1 * torch.randn(leaf.shape, generator=generator)).half().float())
    return model, leaves


@pytest.fixture
def adapter(tiny_llava: Callable[[str], Path], tmp_path: Path) -> Path:
    file = tmp_path / "adapter.safetensors"
    write_adapter(adapted(tiny_llava("clip-llama"))[1], file, rank=RANK)
    return file


def sharded(folder: Path, out: Path) -> Path:
    shutil.copytree(folder, out)
    (out / "model.safetensors").unlink()
    transformers.LlavaForConditionalGeneration.from_pretrained(folder).save_pretrained(out, max_shard_size="200KB")
    assert len(list(out.glob("*.safetensors"))) > 2
    return out


@pytest.mark.parametrize(
    ("kind", "shards", "most"),
    [("dinov2-mistral", False, 1e-5), ("dinov2-mistral", True, 1e-5), ("clip-llama", False, 3e-3)],
    ids=["float32", "float32, sharded", "float16"],
)
def test_merging_changes_nothing(
    kind: str, shards: bool, most: float, tiny_llava: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = sharded(tiny_llava(kind), tmp_path / "base") if shards else tiny_llava(kind)
    model, leaves = adapted(folder)
    expected = logits(model)
    with adapter_off(model.model.language_model):
        assert float((logits(model) - expected).abs().max()) > 30 * most
    write_adapter(leaves, tmp_path / "adapter.safetensors", rank=RANK)
    out = tmp_path / "merged"
    out.mkdir()
    merge(folder, tmp_path / "adapter.safetensors", out)
    assert {path.name for path in out.iterdir()} == {path.name for path in folder.iterdir()}
    assert float((logits(Towers(out).model) - expected).abs().max()) < most
    for file in out.glob("*.safetensors"):
        before, after = load_file(folder / file.name), load_file(file)
        assert {name: value.dtype for name, value in after.items()} == {n: v.dtype for n, v in before.items()}
        assert all(
            torch.equal(after[name], before[name]) for name in before if "proj.weight" not in name or "vision" in name
        )


def test_an_adapter_starts_without_effect_and_is_all_that_is_trained(tiny_llava: Callable[[str], Path]) -> None:
    model = Towers(tiny_llava("clip-llama")).model
    before = logits(model)
    leaves = inject(model.model.language_model, RANK, seed=1)
    assert torch.equal(logits(model), before)
    assert {id(leaf) for leaf in leaves.values()} == {id(leaf) for leaf in model.parameters() if leaf.requires_grad}
    assert len(leaves) == 2 * 7 * 4 and "layers.0.self_attn.q_proj.lora_A.weight" in leaves
    again = inject(Towers(tiny_llava("clip-llama")).model.model.language_model, RANK, seed=1)
    assert all(torch.equal(again[name], leaf) for name, leaf in leaves.items())


def test_turning_the_adapter_off_gives_the_base_and_puts_it_back(tiny_llava: Callable[[str], Path]) -> None:
    base, (model, leaves) = Towers(tiny_llava("clip-llama")).model, adapted(tiny_llava("clip-llama"))
    on = logits(model)
    with pytest.raises(KeyError), adapter_off(model.model.language_model):
        assert torch.equal(logits(model), logits(base))
        raise KeyError
    assert torch.equal(logits(model), on)
    assert all(leaf.requires_grad for leaf in trained(model.model.language_model).values())
    assert trained(model.model.language_model).keys() == leaves.keys()


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-5), (torch.bfloat16, 0.1)])
def test_a_merged_adapter_says_the_same_and_comes_out_bit_by_bit(
    dtype: Any, most: float, tiny_llava: Callable[[str], Path]
) -> None:
    model, _ = adapted(tiny_llava("clip-llama"))
    on = logits(model)
    language = model.model.language_model
    before = {name: tensor.clone() for name, tensor in language.state_dict().items()}
    with pytest.raises(KeyError), adapter_merged(language, dtype):
        assert language.layers[0].mlp.up_proj.base_layer.weight.dtype == dtype
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            inside = logits(model).float()
        assert float((inside - on).abs().max()) < most * float(on.abs().max())
        raise KeyError
    assert torch.equal(logits(model), on)
    after = language.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_file_gives_back_its_tensors(tiny_llava: Callable[[str], Path], adapter: Path) -> None:
    tensors, scale = read_adapter(adapter)
    leaves = adapted(tiny_llava("clip-llama"))[1]
    assert scale == 2
    assert tensors.keys() == leaves.keys()
    assert all(torch.equal(tensors[name], leaf) for name, leaf in leaves.items())
    assert adapter_facts(adapter) == {
        "bytes": adapter.stat().st_size,
        "values": sum(leaf.numel() for leaf in leaves.values()),
    }


def rewritten(adapter: Path, change: Callable[[str, Any], tuple[str, Any]]) -> Path:
    tensors = dict(change(name, value) for name, value in load_file(adapter).items())
    save_file(tensors, adapter, metadata={"lora": json.dumps({"alpha": 2 * RANK, "rank": RANK})})
    return adapter


def test_an_adapter_of_another_checkpoint_is_refused(
    tiny_llava: Callable[[str], Path], adapter: Path, tmp_path: Path
) -> None:
    deeper = rewritten(adapter, lambda name, value: (name.replace("layers.3.", "layers.7."), value))
    with pytest.raises(CheckpointError, match=r"does not belong to (.|\n)*found: 21 of its weights\n.*all 28"):
        merge(tiny_llava("clip-llama"), deeper, tmp_path)


def test_an_adapter_of_another_width_is_refused(
    tiny_llava: Callable[[str], Path], adapter: Path, tmp_path: Path
) -> None:
    wider = rewritten(adapter, lambda n, v: (n, torch.cat([v, v], 1) if n.endswith("q_proj.lora_A.weight") else v))
    with pytest.raises(CheckpointError, match=r"does not fit .*q_proj.weight\n.*\(64, 128\)\n.*\(64, 64\)"):
        merge(tiny_llava("clip-llama"), wider, tmp_path)


def test_what_is_no_adapter_is_refused(tiny_llava: Callable[[str], Path], adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "damaged.safetensors").write_bytes(adapter.read_bytes()[:-8])
    save_file(load_file(adapter), tmp_path / "bare.safetensors")
    rewritten(adapter, lambda name, value: (name.replace("q_proj.lora_B", "q_proj.lora_C"), value))
    model = tiny_llava("clip-llama") / "model.safetensors"
    for file in (tmp_path / "none.safetensors", tmp_path / "damaged.safetensors", tmp_path / "bare.safetensors"):
        with pytest.raises(CheckpointError, match="is not an adapter"):
            read_adapter(file)
    for file in (adapter, model):
        with pytest.raises(CheckpointError, match=r"is not an adapter(.|\n)*pairs of lora_A and lora_B"):
            read_adapter(file)


def test_a_full_disk_is_told(tiny_llava: Callable[[str], Path], adapter: Path, tmp_path: Path, full_disk: Any) -> None:
    before, out = adapter.read_bytes(), tmp_path / "out"
    out.mkdir()
    with full_disk():
        with pytest.raises(StorageError, match=r"adapter\.safetensors can't be written"):
            write_adapter({"a.lora_A.weight": torch.ones(4000)}, adapter, rank=RANK)
        with pytest.raises(StorageError, match="can't be written"):
            merge(tiny_llava("clip-llama"), adapter, out)
    assert adapter.read_bytes() == before
    assert [path.name for path in tmp_path.glob(".*")] == []
