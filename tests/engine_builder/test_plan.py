"""The plan's bytes are those of the bundle that the export then writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import KINDS, build_config

from engine_builder import plan as planning
from engine_builder.checkpoint import Checkpoint
from engine_builder.cli import main
from engine_builder.targets import load_target
from jetson_runtime.bundle import open_bundle

Llava = Callable[[str], Path]
Bundles = Callable[..., Path]


def make_plan(checkpoint: Path, target: str = "orin-nx-8", **changes: object) -> planning.BuildPlan:
    return planning.plan(checkpoint, build_config(**changes), load_target(target))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("kind", KINDS)
def test_planned_bytes_are_the_exported_bytes(
    kind: str, precision: str, tiny_llava: Llava, tiny_bundle: Bundles
) -> None:
    planned = make_plan(tiny_llava(kind), precision=precision)
    files = open_bundle(tiny_bundle(kind, precision)).manifest.files
    exported = {
        engine.name: sum(files[path].size_bytes for path in files if path.startswith(f"engines/{engine.name}."))
        for engine in planned.engines
    }
    assert {engine.name: engine.portable_bytes for engine in planned.engines} == exported
    shared = {
        name: files[f"engines/{name}.weights"].size_bytes
        for name in ("token_table",)
        if f"engines/{name}.weights" in files
    }
    assert dict(planned.shared) == shared
    assert bool(shared) == (kind == "dinov2-llama")


def test_caches_are_those_of_the_manifest(tiny_llava: Llava, tiny_bundle: Bundles) -> None:
    engines = open_bundle(tiny_bundle("clip-llama", "fp16")).manifest.engines
    caches = {
        engine.name: sum(
            int(np.prod(spec.shape)) * np.dtype(spec.dtype).itemsize
            for spec in engine.inputs
            if spec.name.startswith("past_")
        )
        for engine in engines
    }
    planned = make_plan(tiny_llava("clip-llama"))
    assert {engine.name: engine.kv_bytes for engine in planned.engines} == caches
    assert planned.depths[-1].kv_bytes == 2 * 4 * 1 * 64 * 32 * 2  # two, layers, heads, capacity, head dim, fp16


def test_no_weight_is_read(tiny_llava: Llava, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> np.ndarray:
        raise AssertionError("a tensor was read")

    monkeypatch.setattr(Checkpoint, "tensor", refuse)
    assert make_plan(tiny_llava("dinov2-llama")).engines


def test_depths_share_their_engines(tiny_llava: Llava) -> None:
    planned = make_plan(tiny_llava("clip-llama"))
    shallow, full = planned.depths
    assert full.weights_bytes == sum(engine.weights_bytes for engine in planned.engines)
    deeper = {"vision.03-03", "decoder.03-04"}
    missing = sum(engine.weights_bytes for engine in planned.engines if engine.name in deeper)
    assert full.weights_bytes - shallow.weights_bytes == missing > 0
    assert shallow.device_bytes < full.device_bytes
    assert planned.separate_bytes == shallow.disk_bytes + full.disk_bytes


def test_token_floor_counts_what_a_step_reads(tiny_llava: Llava) -> None:
    planned = make_plan(tiny_llava("dinov2-llama"), target="orin-agx")
    read = sum(e.weights_bytes + e.kv_bytes for e in planned.engines if e.name.startswith("decoder."))
    read += planned.shared["token_table"]
    lm_head = next(engine for engine in planned.engines if engine.name == "lm_head")
    expected = (read + lm_head.weights_bytes) / 204.8e9 * 1e3
    assert planned.depths[-1].token_floor_ms == pytest.approx(expected, abs=5e-4)


@given(memory_gib=st.floats(0.01, 64, allow_nan=False))
def test_fits_exactly_when_device_and_build_do(memory_gib: float, plan_of_tiny: planning.BuildPlan) -> None:
    device, build = plan_of_tiny.depths[-1].device_bytes, plan_of_tiny.build_bytes
    limit = int(memory_gib * 2**30)
    problems = planning._problems(load_target("orin-agx"), "fp16", device, build, limit)
    assert bool(problems) == (max(device, build) > limit)


@pytest.fixture(scope="module")
def plan_of_tiny(tiny_llava: Llava) -> planning.BuildPlan:
    return make_plan(tiny_llava("clip-llama"))


def test_reserve_is_taken_off_the_memory(tiny_llava: Llava) -> None:
    small = replace(load_target("orin-nano-4"), memory_gib=1.5, os_reserve_gib=1.0)
    planned = planning.plan(tiny_llava("clip-llama"), build_config(), small)
    assert planned.limit_bytes == 512 << 20
    assert len(planned.problems) == 1 and "running full depth" in planned.problems[0]


def test_command_says_what_fits(
    tiny_llava: Llava, build_yaml: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(build_yaml(checkpoint=str(tiny_llava("clip-llama")), target="orin-nx-8"))
    assert main(["plan", "--config", config]) == 0
    text = capsys.readouterr().out
    assert "Fits target 'orin-nx-8': 8 GiB less 1.5 GiB" in text
    assert "Needs JetPack 7.2" in text
    assert all(name in text for name in ("vision.01-02", "decoder.03-04", "projector", "d1 (vision 2, decoder 2)"))


def test_command_refuses_a_precision_that_the_target_lacks(
    tiny_llava: Llava, build_yaml: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["plan", str(tiny_llava("clip-llama")), "--config", str(build_yaml()), "--target", "cpu", "--json"]
    assert main(arguments) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["fits"] is False and answer["problems"] == ["it does not run fp16, only fp32"]
    assert answer["target"] == "cpu"


def test_command_needs_a_checkpoint(build_yaml: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--config", str(build_yaml())]) == 2
    assert "no checkpoint was given" in capsys.readouterr().err


def test_reference_checkpoint_plans_to_the_byte(reference_checkpoint: Path, tmp_path: Path) -> None:
    from engine_builder.export import export

    ladder = [{"name": "d1", "vision": 4, "decoder": 12}, {"name": "d2", "vision": 12, "decoder": 30}]
    config = build_config(ladder=ladder, kv_capacity=512)
    planned = planning.plan(reference_checkpoint, config, load_target("orin-nano-4"))
    manifest = export(reference_checkpoint, config, tmp_path / "bundle")
    exported = sum(record.size_bytes for path, record in manifest.files.items() if path.startswith("engines/"))
    assert sum(engine.portable_bytes for engine in planned.engines) + sum(planned.shared.values()) == exported
