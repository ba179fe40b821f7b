"""The bundle against PyTorch: every segment, every depth, and the text of whole answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import jetson_runtime
from engine_builder.check import BOUNDS, check
from engine_builder.cli import main
from engine_builder.reference import Reference, drawn_picture
from jetson_runtime import Request
from jetson_runtime.bundle import open_bundle


@pytest.mark.parametrize("kind", ["clip-llama", "dinov2-llama", "clip-qwen2", "dinov2-mistral"])
def test_every_family_agrees_with_pytorch(
    kind: str, tiny_llava: Callable[[str], Path], tiny_bundle: Callable[[str, str], Path]
) -> None:
    bundle = open_bundle(tiny_bundle(kind, "fp32"))
    results = list(check(bundle, tiny_llava(kind), image=drawn_picture(), questions=("Go.", "No."), tokens=16))
    assert [result for result in results if not result.holds] == []
    assert len(results) == 4 + 2 * len(bundle.manifest.ladder)


def test_the_reference_agrees_at_every_depth_over_64_tokens(reference_checkpoint: Path, reference_bundle: Path) -> None:
    results = list(check(open_bundle(reference_bundle), reference_checkpoint, image=drawn_picture(), tokens=64))
    assert [result for result in results if not result.holds] == []
    assert BOUNDS["fp32"] == 1e-4
    assert {result.tokens for result in results if result.tokens is not None} == {64}


def test_transformers_fed_the_same_exit_gives_the_same_answer(
    reference_checkpoint: Path, reference_bundle: Path
) -> None:
    reference = Reference(reference_checkpoint)
    with jetson_runtime.load(reference_bundle, allow_unadmitted=True) as runtime:
        for depth in runtime.bundle.manifest.ladder:
            request = Request("What colour is the sign?", image=drawn_picture(), max_tokens=24, depth=depth.name)
            assert runtime.invoke(request).text == reference.text(depth, request.prompt, drawn_picture(), 24)


def test_a_segment_of_another_checkpoint_is_found(
    tiny_llava: Callable[[str], Path], tiny_bundle: Callable[[str, str], Path], tmp_path: Path
) -> None:
    import shutil

    import numpy as np
    from safetensors.numpy import load_file, save_file

    other = Path(shutil.copytree(tiny_llava("clip-llama"), tmp_path / "other"))
    tensors = load_file(other / "model.safetensors")
    name = next(name for name in tensors if name.endswith("layers.2.mlp.up_proj.weight"))
    tensors[name] = np.asarray(tensors[name] * 1.01, tensors[name].dtype)
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    bundle = open_bundle(tiny_bundle("clip-llama", "fp32"))
    results = check(bundle, other, image=drawn_picture(), questions=("Go.", "No."), tokens=4)
    failed = {result.name for result in results if not result.holds}
    assert "decoder.03-04" in failed
    assert not failed & {"decoder.01-02", "vision.01-02", "vision.03-03"}


def test_check_says_what_was_compared_and_ends_with_1_where_something_differs(
    tiny_llava: Callable[[str], Path], tiny_bundle: Callable[[str, str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, checkpoint = str(tiny_bundle("dinov2-llama", "fp32")), str(tiny_llava("dinov2-llama"))
    assert main(["check", bundle, checkpoint, "--tokens", "2"]) in (0, 1)
    printed = capsys.readouterr().out
    assert "decoder.03-04" in printed
    assert "d2 (vision 3, decoder 4), text" in printed
    assert main(["check", bundle, str(tiny_llava("clip-qwen2")), "--tokens", "2"]) != 0
