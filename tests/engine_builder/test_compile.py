"""Every graph is really compiled, by TensorRT-RTX, which needs no GPU for it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import KINDS, build_config

import engine_builder.compile as compiling
from engine_builder.cli import main
from engine_builder.export import export
from engine_builder.graph import Graph
from engine_builder.plan import plan
from engine_builder.rtx import RtxCompiler
from engine_builder.targets import load_target, target_names
from jetson_runtime.bundle import open_bundle
from jetson_runtime.errors import CompileError, MissingExtraError
from jetson_runtime.files import write_json
from jetson_runtime.manifest import Engine, TensorSpec

pytest.importorskip("tensorrt_rtx", reason="the extra 'rtx' is not installed")

Bundles = Callable[..., Path]
RANGES = compiling.size_ranges(16)


@pytest.fixture(scope="module")
def compiled(tiny_bundle: Bundles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The engine bundle of the tied checkpoint, for SM86."""
    out = tmp_path_factory.mktemp("compiled") / "engines"
    compiling.compile_bundle(tiny_bundle("dinov2-llama", "fp16"), "rtx-sm86", out)
    return out


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "dinov2-llama"])
def test_every_family_compiles(kind: str, tiny_bundle: Bundles, tmp_path: Path) -> None:
    manifest = compiling.compile_bundle(tiny_bundle(kind, "fp16"), "rtx-sm86", tmp_path / "engines")
    names = {path for path, record in manifest.files.items() if record.role == "engine"}
    assert names == {f"engines/{engine.name}.engine" for engine in manifest.engines} and len(names) == 7
    assert not manifest.shared  # the LM head has a table of its own


def test_fp32_compiles_without_fused_attention(tiny_bundle: Bundles, tmp_path: Path) -> None:
    manifest = compiling.compile_bundle(tiny_bundle("dinov2-llama", "fp32"), "rtx-sm86", tmp_path / "engines")
    assert manifest.precision == "fp32"


@pytest.mark.parametrize("name", [name for name in target_names() if load_target(name).compiler == "tensorrt-rtx"])
def test_every_rtx_target_compiles_a_segment_with_caches(name: str, tiny_bundle: Bundles, tmp_path: Path) -> None:
    bundle = open_bundle(tiny_bundle("clip-llama", "fp16"))
    segment = bundle.manifest.segments("decoder")[0]
    compiler = RtxCompiler(load_target(name))
    compiler.build(segment, bundle.file(segment.path), tmp_path / "one.engine", compiling.size_ranges(64))
    assert (tmp_path / "one.engine").stat().st_size > 10_000


def test_engine_bundle_says_what_it_was_made_from_and_for(compiled: Path, tiny_bundle: Bundles) -> None:
    portable, engines = open_bundle(tiny_bundle("dinov2-llama", "fp16")), open_bundle(compiled)
    manifest = engines.manifest
    assert manifest.kind == "engine" and manifest.precision == "fp16"
    target = dict(manifest.target)
    assert target.pop("compiler_version").startswith("1.")
    assert target == {
        "name": "rtx-sm86",
        "compiler": "tensorrt-rtx",
        "compute_capability": "8.6",
        "jetpacks": [],
        "ranges": {"S": [1, 1, 64], "N": [1, 1, compiling.HEAD_ROWS]},
    }
    assert manifest.provenance["portable_bundle"] == {"sha256": portable.digest}
    assert manifest.provenance["checkpoint"] == portable.manifest.provenance["checkpoint"]
    assert manifest.model == portable.manifest.model and manifest.ladder == portable.manifest.ladder
    for engine, source in zip(manifest.engines, portable.manifest.engines, strict=True):
        assert replace(engine, path=source.path) == source


def test_shared_table_is_stored_once_and_is_an_input(compiled: Path, tiny_bundle: Bundles) -> None:
    portable, engines = open_bundle(tiny_bundle("dinov2-llama", "fp16")), open_bundle(compiled)
    (table,) = engines.manifest.shared
    assert engines.file(table.path).read_bytes() == portable.file(table.path).read_bytes()
    users = {engine.name for engine in engines.manifest.engines if table.name in engine.shared}
    assert users == {"embedding", "lm_head"}
    weights = [path for path in engines.manifest.files if path.endswith(".weights")]
    assert weights == [table.path]  # the segments' weights are in their engines


def test_prompting_is_copied(compiled: Path, tiny_bundle: Bundles) -> None:
    portable, engines = open_bundle(tiny_bundle("dinov2-llama", "fp16")), open_bundle(compiled)
    for path in ("tokenizer/tokenizer.json", "tokenizer/chat_template.jinja", "preprocessing.json"):
        assert engines.file(path).read_bytes() == portable.file(path).read_bytes()


def test_admissions_and_profiles_stay_behind(tiny_bundle: Bundles, tmp_path: Path, monkeypatch: Any) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle("clip-llama", "fp16"), bundle)
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    manifest["admissions"] = {"d1": {"verdict": "admitted"}}
    write_json(bundle / "manifest.json", manifest)
    monkeypatch.setitem(compiling.COMPILERS, "tensorrt-rtx", _Stub)  # type: ignore[arg-type]
    assert not compiling.compile_bundle(bundle, "rtx-sm86", tmp_path / "engines").admissions


# What TensorRT-RTX refuses, or would get wrong without an error.


def make_graph(folder: Path, fill: Callable[[Graph], None]) -> tuple[Engine, Path]:
    graph = Graph("broken", folder / "broken.onnx", np.dtype(np.float16))
    fill(graph)
    graph.save()
    engine = Engine("broken", "segment", "decoder", "x", tuple(graph.inputs), tuple(graph.outputs))
    return engine, graph.path


def refusal(folder: Path, fill: Callable[[Graph], None], change: Callable[[Engine], Engine] = lambda same: same) -> str:
    engine, source = make_graph(folder, fill)
    with pytest.raises(CompileError) as caught:
        RtxCompiler(load_target("rtx-sm86")).build(change(engine), source, folder / "broken.engine", RANGES)
    assert not (folder / "broken.engine").exists()
    text = str(caught.value)
    assert "engine 'broken'" in text and "TensorRT-RTX 1." in text and "remedy" in text
    return text


def unknown_operator(graph: Graph) -> None:
    graph.output(graph.op("NoSuchOperator", graph.input("x", np.float16, (1, 8))), "y", np.float16, (1, 8))


def mixed_types(graph: Graph) -> None:
    x, y = graph.input("x", np.float16, (1, 8)), graph.input("y", np.float32, (1, 8))
    graph.output(graph.op("Add", x, y), "z", np.float16, (1, 8))


def attention(graph: Graph, *extra: str) -> None:
    q, k, v = (graph.input(name, np.float16, (1, 2, 8, 64)) for name in "qkv")
    graph.output(graph.op("Attention", q, k, v, *extra), "y", np.float16, (1, 2, 8, 64))


def dropped_lengths(graph: Graph) -> None:
    attention(graph, "", "", "", graph.input("lengths", np.int64, (1,)))


def unused_input(graph: Graph) -> None:
    graph.input("forgotten", np.float16, (1, 8))
    graph.output(graph.op("Relu", graph.input("x", np.float16, (1, 8))), "y", np.float16, (1, 8))


def cache_that_is_no_input(graph: Graph) -> None:
    past, new = graph.input("past_k.1", np.float16, (1, 1, 16, 64)), graph.input("new", np.float16, (1, 1, 1, 64))
    index = graph.input("write_index", np.int64, (1,))
    moved = graph.op("Relu", past)
    graph.op("TensorScatter", moved, new, index, outputs=["present_k.1"], axis=2)
    graph.declare_output("present_k.1", np.float16, (1, 1, 16, 64))


def blind_attention(graph: Graph) -> None:
    past, new = graph.input("past_k.1", np.float16, (1, 1, 16, 64)), graph.input("new", np.float16, (1, 1, 1, 64))
    present = graph.op(
        "TensorScatter", past, new, graph.input("write_index", np.int64, (1,)), outputs=["present_k.1"], axis=2
    )
    graph.output(graph.op("Attention", new, present, present), "y", np.float16, (1, 1, 1, 64))
    graph.declare_output("present_k.1", np.float16, (1, 1, 16, 64))


@pytest.mark.parametrize(
    ("fill", "words"),
    [
        (unknown_operator, "Plugin not found"),
        (mixed_types, "must have same input types"),
        (dropped_lengths, "Unused Input: lengths"),
        (unused_input, "Unused Input: forgotten"),
        (cache_that_is_no_input, "cache 'past_k.1' would not be updated in place"),
        (blind_attention, "1 attention layers lost their mask"),
    ],
)
def test_refused_graph_carries_the_reason(fill: Callable[[Graph], None], words: str, tmp_path: Path) -> None:
    assert words in refusal(tmp_path, fill)


def test_build_error_carries_tensorrt_words(tmp_path: Path) -> None:
    def wide_head(graph: Graph) -> None:  # parses, but no kernel and no profile fits
        x = graph.input("x", np.float16, ("S", 8))
        graph.output(graph.op("Reshape", x, graph.constant(np.array([3, 5]))), "y", np.float16, (3, 5))

    assert "can't be built" in refusal(tmp_path, wide_head)


def test_network_is_compared_with_the_manifest(tmp_path: Path) -> None:
    def relu(graph: Graph) -> None:
        graph.output(graph.op("Relu", graph.input("x", np.float16, (1, 8))), "y", np.float16, (1, 8))

    def promise(engine: Engine) -> Engine:
        return replace(engine, outputs=(TensorSpec("y", "float32", (1, 8)), TensorSpec("z", "float32", (1,))))

    text = refusal(tmp_path, relu, promise)
    assert "output 'y' is float16 (1, 8), not float32 (1, 8)" in text and "output 'z' is missing" in text


def test_one_refused_graph_does_not_spoil_the_next(tmp_path: Path, tiny_bundle: Bundles) -> None:
    refusal(tmp_path, unknown_operator)
    bundle = open_bundle(tiny_bundle("clip-llama", "fp16"))
    head = bundle.manifest.head("vision")
    RtxCompiler(load_target("rtx-sm86")).build(head, bundle.file(head.path), tmp_path / "head.engine", RANGES)
    assert (tmp_path / "head.engine").exists()


# The command.


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_command_compiles(tiny_bundle: Bundles, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "engines"
    arguments = ("compile", tiny_bundle("clip-llama", "fp16"), "--target", "rtx-sm89", "--out", out, "--json")
    assert run(*arguments) == 0
    summary = json.loads(capsys.readouterr().out)
    manifest = open_bundle(out).manifest
    assert summary["engines"] == len(manifest.engines) == 7 and summary["target"] == "rtx-sm89"
    assert summary["size_bytes"] == sum(record.size_bytes for record in manifest.files.values())
    assert run(*arguments) == 6
    assert "already exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("cpu", "use the portable bundle itself"),
        ("orin-agx", "plans for target 'orin-agx' and does not compile for it"),
        ("toaster", "there is no target 'toaster'"),
    ],
)
def test_command_says_why_a_target_is_not_compiled_for(
    target: str, words: str, tiny_bundle: Bundles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("compile", tiny_bundle("clip-llama", "fp16"), "--target", target, "--out", tmp_path / "engines") == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_compiled_bundle_is_not_compiled_again(
    compiled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("compile", compiled, "--target", "rtx-sm86", "--out", tmp_path / "again") == 3
    assert "is compiled already" in capsys.readouterr().err


def test_damaged_weights_are_not_compiled(
    tiny_bundle: Bundles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle("clip-llama", "fp16"), bundle)
    weights = bundle / "engines" / "projector.weights"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    assert run("compile", bundle, "--target", "rtx-sm86", "--out", tmp_path / "engines") == 3
    assert "projector.weights is not the file that was built" in capsys.readouterr().err
    assert not (tmp_path / "engines").exists()


def test_precision_that_the_target_lacks(
    tiny_bundle: Bundles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    narrow = replace(load_target("rtx-sm86"), precisions=("fp32",))
    monkeypatch.setattr(compiling, "load_target", lambda name: narrow)
    assert run("compile", tiny_bundle("clip-llama", "fp16"), "--target", "rtx-sm86", "--out", tmp_path / "e") == 2
    assert "does not run this bundle's precision" in capsys.readouterr().err


def test_missing_tensorrt_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'holdfast\[rtx\]'"):
        RtxCompiler(load_target("rtx-sm86"))


def test_tensorrt_without_its_libraries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tensorrt_rtx.py").write_text("raise ImportError('libtensorrt_rtx.so.1: cannot open shared object')")
    monkeypatch.delitem(sys.modules, "tensorrt_rtx")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(CompileError, match="cannot open shared object"):
        RtxCompiler(load_target("rtx-sm86"))


class _Stub:
    """A compiler that writes the engine's name."""

    version = "0"

    def __init__(self, target: object) -> None:
        self.target = target

    def build(self, engine: Engine, source: Path, destination: Path, ranges: object) -> None:
        assert source.is_file()
        destination.write_text(engine.name)


class _Interrupted(_Stub):
    def build(self, engine: Engine, source: Path, destination: Path, ranges: object) -> None:
        super().build(engine, source, destination, ranges)
        raise KeyboardInterrupt


def test_interrupted_compile_leaves_nothing(
    tiny_bundle: Bundles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(compiling.COMPILERS, "tensorrt-rtx", _Interrupted)  # type: ignore[arg-type]
    arguments = ("compile", tiny_bundle("clip-llama", "fp16"), "--target", "rtx-sm86", "--out", tmp_path / "engines")
    assert run(*arguments) == 130
    assert not list(tmp_path.iterdir())


SLOW = """
import sys, time
from pathlib import Path
import engine_builder.compile as compiling

class Slow:
    version = "0"
    def __init__(self, target): pass
    def build(self, engine, source, destination, ranges):
        destination.write_text("half")
        print("building", flush=True)
        time.sleep(60)

compiling.COMPILERS["tensorrt-rtx"] = Slow
compiling.compile_bundle(Path(sys.argv[1]), "rtx-sm86", Path(sys.argv[2]))
"""


@pytest.fixture
def killed(tiny_bundle: Bundles, tmp_path: Path) -> Iterator[Path]:
    """Where a compile that was killed in the middle of its first engine would have written."""
    out = tmp_path / "engines"
    command = [sys.executable, "-c", SLOW, str(tiny_bundle("clip-llama", "fp16")), str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "building\n"
        process.send_signal(signal.SIGKILL)
    yield out


def test_killed_compile_leaves_no_bundle_and_the_next_run_works(
    killed: Path, tiny_bundle: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not killed.exists()
    monkeypatch.setitem(compiling.COMPILERS, "tensorrt-rtx", _Stub)  # type: ignore[arg-type]
    assert run("compile", tiny_bundle("clip-llama", "fp16"), "--target", "rtx-sm86", "--out", killed) == 0
    assert [path.name for path in killed.parent.iterdir()] == ["engines"]


def test_whole_reference_ladder_compiles(reference_checkpoint: Path, tmp_path: Path) -> None:
    ladder = [
        {"name": "d1", "vision": 4, "decoder": 12},
        {"name": "d2", "vision": 8, "decoder": 20},
        {"name": "d3", "vision": 12, "decoder": 30},
    ]
    config = build_config(ladder=ladder, kv_capacity=512)
    export(reference_checkpoint, config, tmp_path / "bundle")
    manifest = compiling.compile_bundle(tmp_path / "bundle", "rtx-sm86", tmp_path / "engines")
    assert len(manifest.engines) == 9
    built = sum(record.size_bytes for path, record in manifest.files.items() if path.startswith("engines/"))
    planned = plan(reference_checkpoint, config, load_target("rtx-sm86")).depths[-1].disk_bytes
    assert built == pytest.approx(planned, rel=0.03)  # the weights exactly, the kernels by the plan's estimate
