"""A bundle on disk: sealing one, and opening one only if every byte is what its manifest says."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jetson_runtime.errors import BundleError, DigestError
from jetson_runtime.files import canonical_json, sha256_file, write_json
from jetson_runtime.image import Preprocessing
from jetson_runtime.manifest import FileRecord, Manifest
from jetson_runtime.profile import LatencyProfile
from jetson_runtime.prompt import Prompter

__all__ = [
    "CHAT_TEMPLATE",
    "MANIFEST",
    "PORTABLE_TARGET",
    "PREPROCESSING",
    "PROFILES",
    "TOKENIZER",
    "Bundle",
    "open_bundle",
    "seal",
]

MANIFEST = "manifest.json"
TOKENIZER = "tokenizer/tokenizer.json"
CHAT_TEMPLATE = "tokenizer/chat_template.jinja"
PREPROCESSING = "preprocessing.json"
PROFILES = "profiles"
PORTABLE_TARGET = {"name": "cpu", "compiler": "onnxruntime"}

_ROLES = {".onnx": "engine", ".engine": "engine", ".weights": "weights"}
_MAX_MANIFEST_BYTES = 16 << 20


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files were checked when it was opened."""

    path: Path
    manifest: Manifest
    digest: str  # SHA-256 of manifest.json, which names the digest of every other file

    def file(self, relative: str) -> Path:
        """Where a file of the bundle lies."""
        return self.path / relative

    def prompter(self) -> Prompter:
        """The bundle's tokenizer and chat template."""
        model = self.manifest.model
        return Prompter(
            self.file(TOKENIZER),
            self.file(CHAT_TEMPLATE),
            image_token_id=model.image_token_id,
            image_tokens=model.image_tokens,
        )

    def preprocessing(self) -> Preprocessing:
        """The bundle's image preprocessing."""
        return Preprocessing.from_dict(json.loads(self.file(PREPROCESSING).read_text(encoding="utf-8")))

    def profiles(self) -> dict[str, LatencyProfile]:
        """The latency profiles in the bundle, by name."""
        return {_profile_name(path): LatencyProfile.read(self.file(path)) for path in self._profile_paths()}

    def _profile_paths(self) -> list[str]:
        return sorted(path for path, record in self.manifest.files.items() if record.role == "profile")

    def with_profile(self, profile: LatencyProfile, name: str) -> Bundle:
        """The bundle with one more profile, or a newer one of that name.

        The profile's digest is part of its file name, so the manifest, replaced in one step, always names a file that
        is whole: the old profile's before, the new one's after.
        """
        value = profile.to_dict()
        digest = hashlib.sha256(canonical_json(value).encode()).hexdigest()
        place = f"{PROFILES}/{name}.{digest[:12]}.json"
        write_json(self.file(place), value)
        replaced = [path for path in self._profile_paths() if _profile_name(path) == name and path != place]
        files = {path: record for path, record in self.manifest.files.items() if path not in replaced}
        files[place] = _record(self.path, self.file(place))
        manifest = {**self.manifest.to_dict(), "files": {path: vars(record) for path, record in files.items()}}
        write_json(self.path / MANIFEST, manifest)
        for path in replaced:
            self.file(path).unlink()
        return open_bundle(self.path)


def _profile_name(path: str) -> str:
    """`profiles/cpu.0123456789ab.json` is the profile "cpu"."""
    return Path(path).name.rsplit(".", 2)[0]


def seal(folder: Path, **fields: Any) -> Manifest:
    """Record every file below `folder` and write its manifest; `fields` are `Manifest`'s without `files`."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    files = {path.relative_to(folder).as_posix(): _record(folder, path) for path in paths}
    manifest = Manifest.from_dict(
        json.loads(canonical_json(Manifest(files=files, **fields).to_dict())), str(folder / MANIFEST)
    )
    write_json(folder / MANIFEST, manifest.to_dict())
    return manifest


def _record(folder: Path, path: Path) -> FileRecord:
    top = path.relative_to(folder).parts[0]
    role = {"tokenizer": "tokenizer", PROFILES: "profile"}.get(top) or _ROLES.get(path.suffix, "preprocessing")
    return FileRecord(role, path.stat().st_size, sha256_file(path))


def open_bundle(path: Path) -> Bundle:
    """Read the manifest and check the length and digest of every file it lists, before any of them is used.

    Raises:
        BundleError: no bundle, or a manifest that does not hold together.
        DigestError: a file is missing, or is not the one that was built.
    """
    source = path / MANIFEST
    try:
        if source.stat().st_size > _MAX_MANIFEST_BYTES:
            raise BundleError(f"{source} is too large for a manifest", found=f"{source.stat().st_size} bytes")
        text = source.read_bytes()
        value = json.loads(text)
    except OSError as error:
        raise BundleError(
            f"{path} is not a bundle",
            found=f"{MANIFEST}: {error.strerror}",
            expected="a directory that 'engine-build export' or 'compile' wrote",
            remedy="check the path",
        ) from None
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{source} is not JSON", found=error, remedy="export the bundle again") from None
    manifest = Manifest.from_dict(value, str(source))
    for relative, record in manifest.files.items():
        _check_file(path / relative, record)
    return Bundle(path, manifest, hashlib.sha256(text).hexdigest())


def _check_file(path: Path, record: FileRecord) -> None:
    remedy = "copy or build the bundle again; do not use this one"
    if path.is_symlink() or not path.is_file():
        found = "a symbolic link" if path.is_symlink() else "nothing"
        raise DigestError(
            f"{path} is not there", found=found, expected=f"a file of {record.size_bytes} bytes", remedy=remedy
        )
    size = path.stat().st_size
    if size != record.size_bytes:
        raise DigestError(
            f"{path} does not have the length in the manifest",
            found=f"{size} bytes",
            expected=f"{record.size_bytes} bytes",
            remedy=remedy,
        )
    digest = sha256_file(path)
    if digest != record.sha256:
        raise DigestError(
            f"{path} is not the file that was built",
            found=f"sha256 {digest}",
            expected=f"sha256 {record.sha256}",
            remedy=remedy,
        )
