"""What export refuses, and what it leaves as it was."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny import build_config

from engine_builder.decoder import read_decoder
from engine_builder.export import export
from engine_builder.vision import fit_positions, image_tokens, own_exit, read_vision
from jetson_runtime.bundle import open_bundle
from jetson_runtime.errors import CheckpointError, ConfigError


@pytest.fixture
def checkpoint(tiny_llava: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llava("clip-llama"), tmp_path / "checkpoint"))


def change_tensor(checkpoint: Path, ending: str, value: float) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    name = next(name for name in tensors if name.endswith(ending))
    changed = tensors[name].astype(np.float32)
    changed.flat[0] = value
    tensors[name] = changed
    save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})


def test_the_same_input_gives_the_same_bytes(checkpoint: Path, tmp_path: Path) -> None:
    export(checkpoint, build_config(), tmp_path / "one")
    export(checkpoint, build_config(), tmp_path / "two")
    assert open_bundle(tmp_path / "one").digest == open_bundle(tmp_path / "two").digest


@pytest.mark.parametrize(
    ("value", "words"), [(float("nan"), "not finite"), (1e6, "does not fit the precision float16")]
)
def test_a_value_that_can_not_be_exported_is_named(checkpoint: Path, tmp_path: Path, value: float, words: str) -> None:
    change_tensor(checkpoint, "layers.1.mlp.up_proj.weight", value)
    with pytest.raises(CheckpointError, match=words):
        export(checkpoint, build_config(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_cache_beyond_the_models_positions_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at most 64"):
        export(checkpoint, build_config(kv_capacity=65), tmp_path / "out")


def test_layers_behind_full_depth_are_not_built(checkpoint: Path, tmp_path: Path) -> None:
    ladder = [{"name": "d1", "vision": 2, "decoder": 3}]
    export(checkpoint, build_config(ladder=ladder), tmp_path / "out")
    manifest = open_bundle(tmp_path / "out").manifest
    assert [(engine.first, engine.last) for engine in manifest.segments("vision")] == [(1, 2)]
    assert [(engine.first, engine.last) for engine in manifest.segments("decoder")] == [(1, 3)]


def test_exits_may_be_more_than_the_ladders_but_never_deeper(checkpoint: Path, tmp_path: Path) -> None:
    export(checkpoint, build_config(exits={"decoder": [1, 2, 3, 4]}), tmp_path / "out")
    assert len(open_bundle(tmp_path / "out").manifest.segments("decoder")) == 4
    ladder = [{"name": "d1", "vision": 2, "decoder": 2}]
    for exits, words in (({"decoder": [2, 3]}, "deeper than full depth"), ({"decoder": [1]}, "uses exit 2")):
        with pytest.raises(ConfigError, match=words):
            build_config(ladder=ladder, exits=exits)


def test_an_exit_behind_the_checkpoints_own_feature_layer_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="layers 1 to 3, full depth"):
        export(checkpoint, build_config(ladder=[{"name": "d1", "vision": 4, "decoder": 4}]), tmp_path / "out")


@pytest.mark.parametrize(("side", "grid"), [(37, 16), (16, 37), (8, 8), (3, 5)])
def test_position_tables_are_resampled_as_torch_does(side: int, grid: int) -> None:
    import torch

    table = np.random.default_rng(0).standard_normal((1 + side * side, 6)).astype(np.float32)
    squares = torch.tensor(table[1:].astype(np.float64).reshape(1, side, side, 6)).permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(squares, size=(grid, grid), mode="bicubic", align_corners=False)
    expected = np.concatenate([table[:1], resized.permute(0, 2, 3, 1).reshape(-1, 6).numpy()])
    np.testing.assert_allclose(fit_positions(table, grid), expected, atol=1e-6)


def test_the_published_configuration_of_llava_1_5_is_read_though_it_leaves_most_fields_out() -> None:
    config = {
        "model_type": "llava",
        "image_token_index": 32000,
        "projector_hidden_act": "gelu",
        "text_config": {
            "model_type": "llama",
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-05,
            "vocab_size": 32064,
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": 1024,
            "image_size": 336,
            "intermediate_size": 4096,
            "num_attention_heads": 16,
            "num_hidden_layers": 24,
            "patch_size": 14,
        },
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
    }
    vision, decoder = read_vision(config, None), read_decoder(config)
    assert (vision.layers, vision.width, vision.tokens, vision.activation) == (24, 1024, 577, "quick_gelu")
    assert own_exit(config, vision) == 23
    assert image_tokens(vision, config) == 576
    assert (decoder.layers, decoder.width, decoder.heads, decoder.kv_heads, decoder.head_dim) == (32, 4096, 32, 32, 128)
    assert (decoder.vocabulary, decoder.positions, decoder.rope_theta, decoder.tied) == (32064, 4096, 10000.0, False)
