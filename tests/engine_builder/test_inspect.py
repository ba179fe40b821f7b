"""`engine-build inspect` shows what is in the bundle, and refuses one that is damaged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from admitting import with_verdicts
from signing import signed

from engine_builder.cli import main
from engine_builder.tables import table
from jetson_runtime.bundle import open_bundle
from jetson_runtime.files import canonical_json
from jetson_runtime.manifest import Manifest

Bundles = Callable[[str, str], Path]


def inspect(bundle: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert main(["inspect", str(bundle), *options]) == 0
    return capsys.readouterr().out


def line(text: str, start: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(start))


def test_every_engine_file_and_depth_is_listed(tiny_bundle: Bundles, capsys: pytest.CaptureFixture[str]) -> None:
    path = tiny_bundle("dinov2-llama", "fp32")
    text, manifest = inspect(path, capsys), open_bundle(path).manifest
    for name in [*manifest.files, *(engine.name for engine in manifest.engines)]:
        assert line(text, name)
    assert line(text, "d2").split() == ["d2", "3", "4", "none"]
    assert "portable bundle, fp32" in text.splitlines()[0]
    assert "compiler: onnxruntime" in line(text, "target")
    assert manifest.engines_digest in text


def test_engine_shows_inputs_outputs_caches_and_its_weights(
    tiny_bundle: Bundles, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tiny_bundle("dinov2-llama", "fp32")
    text, files = inspect(path, capsys), open_bundle(path).manifest.files
    segment = line(text, "decoder.01-02 ")
    assert "hidden float32[1,S,64]" in segment and "features float32[1,S,64]" in segment
    assert "4 caches in place" in segment and "past_" not in segment
    size = sum(files[f"engines/decoder.01-02.{suffix}"].size_bytes for suffix in ("onnx", "weights"))
    assert f"{size / 1e6:,.1f} MB" in segment
    assert "token_table float32[272,64]" in line(text, "lm_head ")


def test_admission_of_a_depth_is_shown(
    tiny_bundle: Bundles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = with_verdicts(tiny_bundle("clip-llama", "fp32"), tmp_path / "bundle", "d2")
    text = inspect(bundle, capsys)
    assert line(text, "d1").split()[-1] == "rejected" and line(text, "d2").split()[-1] == "admitted"
    assert line(inspect(tiny_bundle("clip-llama", "fp32"), capsys), "d1").split()[-1] == "none"
    value = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    value["admissions"]["engines_digest"] = "e" * 64
    (bundle / "manifest.json").write_text(canonical_json(value), encoding="utf-8")
    assert line(inspect(bundle, capsys), "d2").split()[-1] == "void"


def test_a_signed_bundle_says_so(tiny_bundle: Bundles, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = Path(shutil.copytree(tiny_bundle("clip-llama", "fp32"), tmp_path / "bundle"))
    assert line(inspect(bundle, capsys), "signatures").split()[1:] == ["none"]
    assert "engine-build verify" in line(inspect(signed(bundle, 1), capsys), "signatures")


def test_json_is_the_manifest(tiny_bundle: Bundles, capsys: pytest.CaptureFixture[str]) -> None:
    path = tiny_bundle("clip-llama", "fp32")
    value, bundle = json.loads(inspect(path, capsys, "--json")), open_bundle(path)
    assert Manifest.from_dict(value["manifest"], "json") == bundle.manifest
    assert value["manifest_sha256"] == bundle.digest and value["engines_sha256"] == bundle.manifest.engines_digest


def test_damaged_bundle_is_refused(tiny_bundle: Bundles, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle("clip-llama", "fp32"), bundle)
    (bundle / "engines" / "lm_head.onnx").unlink()
    assert main(["inspect", str(bundle)]) == 3
    assert "lm_head.onnx is not there" in capsys.readouterr().err


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert table(("name", "size"), [["a", "1"], ["longer", "100"]]) == "name    size\na          1\nlonger   100"
    assert table(("a", "b"), [["x", "yy"]], words=(0, 1)) == "a  b\nx  yy"
