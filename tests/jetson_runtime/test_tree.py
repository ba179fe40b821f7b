"""What lies in a bundle's directory is exactly what its manifest lists, byte for byte."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from signing import signed, trust

from jetson_runtime.bundle import MANIFEST, open_bundle
from jetson_runtime.errors import BundleError, DigestError, HoldfastError


@pytest.fixture(params=["unsigned", "signed"])
def bundle(request: pytest.FixtureRequest, tiny_bundle: Callable[[str, str], Path], tmp_path: Path) -> Path:
    path = Path(shutil.copytree(tiny_bundle("dinov2-llama", "fp32"), tmp_path / "bundle"))
    return signed(path, 1) if request.param == "signed" else path


def refusal(bundle: Path) -> HoldfastError:
    with pytest.raises(BundleError) as refused:
        open_bundle(bundle)
    return refused.value


@pytest.mark.parametrize(
    "path",
    ["extra", ".hidden", "engines/extra.onnx", "engines/manifest.json", "tokenizer/manifest.dsse.json", "\udcff"],
)
def test_a_file_that_is_not_listed(bundle: Path, path: str) -> None:
    (bundle / path).write_bytes(b"")
    error = refusal(bundle)
    assert "its manifest does not list" in error.what and error.found == repr(path)
    assert not isinstance(error, DigestError)


def test_a_directory_that_holds_nothing_of_the_bundle(bundle: Path) -> None:
    (bundle / "more" / "deeper").mkdir(parents=True)
    assert refusal(bundle).found == "'more'"


@pytest.mark.parametrize("path", ["engines/lm_head.onnx", "tokenizer/tokenizer.json"])
def test_a_file_that_is_missing(bundle: Path, path: str) -> None:
    (bundle / path).unlink()
    error = refusal(bundle)
    assert isinstance(error, DigestError) and error.what == f"{bundle / path} is not there" and error.found == "nothing"


def test_a_directory_that_is_missing(bundle: Path) -> None:
    shutil.rmtree(bundle / "tokenizer")
    assert refusal(bundle).found == "nothing"


@pytest.mark.parametrize("size", [0, 1, -1, 1 << 20])
def test_a_file_of_another_length(bundle: Path, size: int) -> None:
    path = bundle / "engines/lm_head.onnx"
    data = path.read_bytes()
    path.write_bytes(data[:size] if size < len(data) else data + bytes(size))
    error = refusal(bundle)
    assert "does not have the length" in error.what and error.expected == f"{len(data)} bytes"


def test_links_to_files_and_to_directories(bundle: Path, tmp_path: Path) -> None:
    for path in ("engines/lm_head.onnx", "tokenizer"):
        shutil.move(bundle / path, tmp_path / "elsewhere")
        (bundle / path).symlink_to(tmp_path / "elsewhere")
        error = refusal(bundle)
        assert isinstance(error, DigestError) and error.found == "a symbolic link"
        (bundle / path).unlink()
        shutil.move(tmp_path / "elsewhere", bundle / path)
    (bundle / "extra").symlink_to("tokenizer/tokenizer.json")
    assert refusal(bundle).found == "a symbolic link"


def test_the_manifest_and_the_envelope_may_be_no_links(bundle: Path, tmp_path: Path) -> None:
    for path in sorted(bundle.glob("manifest*")):
        shutil.move(path, tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
        assert refusal(bundle).found == "a symbolic link"
        path.unlink()
        shutil.move(tmp_path / "elsewhere", path)


def test_pipes_sockets_and_directories_instead_of_files(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = bundle / "engines/lm_head.onnx"
    data = path.read_bytes()
    path.unlink()
    os.mkfifo(path)
    assert refusal(bundle).found == "no regular file"
    path.unlink()
    path.mkdir()
    assert refusal(bundle).found == "no regular file"
    path.rmdir()
    path.write_bytes(data)
    monkeypatch.chdir(bundle)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        assert refusal(bundle).found == "no regular file"
    (bundle / "socket").unlink()
    open_bundle(bundle)


def test_the_bundle_itself_may_be_reached_through_a_link(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(bundle)
    assert open_bundle(tmp_path / "current").manifest == open_bundle(bundle).manifest


LEFT = [f".{MANIFEST}.partial", "profiles/.cpu.0123456789ab.json.partial", "profiles/cpu.0123456789ab.json",
        "reports/refusals.0123456789ab.json", "bom.cdx.json", ".manifest.dsse.json.partial"]  # fmt: skip


def leave(bundle: Path, path: str) -> None:
    (bundle / path).parent.mkdir(exist_ok=True)
    (bundle / path).write_text("half")


@pytest.mark.parametrize("path", LEFT)
def test_what_an_interrupted_write_left_stands_in_no_ones_way_and_is_removed_by_signing(
    tiny_bundle: Callable[[str, str], Path], tmp_path: Path, path: str
) -> None:
    bundle = Path(shutil.copytree(tiny_bundle("dinov2-llama", "fp32"), tmp_path / "bundle"))
    before = sorted(bundle.rglob("*"))
    leave(bundle, path)
    open_bundle(bundle)
    signed(bundle, 1)
    assert sorted(bundle.rglob("*")) == sorted([*before, bundle / "manifest.dsse.json"])
    open_bundle(bundle, trust(1))


@pytest.mark.parametrize("path", LEFT)
def test_a_signed_bundle_holds_nothing_but_what_an_interrupted_signing_left(
    tiny_bundle: Callable[[str, str], Path], tmp_path: Path, path: str
) -> None:
    bundle = signed(Path(shutil.copytree(tiny_bundle("dinov2-llama", "fp32"), tmp_path / "bundle")), 1)
    leave(bundle, path)
    if path == ".manifest.dsse.json.partial":
        assert open_bundle(signed(bundle, 2), trust(1, 2)).signers
        assert not (bundle / path).exists()
    else:
        assert "does not list" in refusal(bundle).what


def test_leftovers_are_files(tiny_bundle: Callable[[str, str], Path], tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(tiny_bundle("dinov2-llama", "fp32"), tmp_path / "bundle"))
    (bundle / "profiles" / "cpu.0123456789ab.json").mkdir(parents=True)
    assert "does not list" in refusal(bundle).what
