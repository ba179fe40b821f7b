"""A bundle on disk: sealing one, adding to one, and opening one only if every byte is what its manifest says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from jetson_runtime.admission import Admissions
from jetson_runtime.dsse import Envelope, statement
from jetson_runtime.errors import BundleError, ReleaseError, SignatureError
from jetson_runtime.files import canonical_json, sha256_file, storage_errors, write_json
from jetson_runtime.image import Preprocessing
from jetson_runtime.manifest import ENVELOPE, MANIFEST, FileRecord, Manifest
from jetson_runtime.profile import LatencyProfile
from jetson_runtime.prompt import Prompter
from jetson_runtime.strict_json import Document
from jetson_runtime.tree import BOM, PROFILES, REPORTS, check_tree, remove_leftovers
from jetson_runtime.trust import Trust

__all__ = [
    "BOM",
    "CHAT_TEMPLATE",
    "ENVELOPE",
    "MANIFEST",
    "PORTABLE_TARGET",
    "PREPROCESSING",
    "PROFILES",
    "REPORTS",
    "TOKENIZER",
    "Bundle",
    "check_manifest",
    "open_bundle",
    "seal",
]

TOKENIZER = "tokenizer/tokenizer.json"
CHAT_TEMPLATE = "tokenizer/chat_template.jinja"
PREPROCESSING = "preprocessing.json"
PORTABLE_TARGET = {"name": "cpu", "compiler": "onnxruntime"}

_ROLES = {".onnx": "engine", ".engine": "engine", ".weights": "weights"}
_DIRECTORY_ROLES = {"tokenizer": "tokenizer", PROFILES: "profile", REPORTS: "report", BOM: "bom"}
_MANIFEST = Document("manifest", 4 << 20, BundleError, "export the bundle again; a manifest is never edited by hand")


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files were checked when it was opened.

    `signed`: it has an envelope about this manifest. `signers`: the ids of the trusted keys whose signatures in it were
    verified; empty if the bundle was opened without a trust file.
    """

    path: Path
    manifest: Manifest
    digest: str  # SHA-256 of manifest.json, which names the digest of every other file
    signed: bool = False
    signers: tuple[str, ...] = ()

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
        place = _place(PROFILES, name, value)
        replaced = [path for path in self._profile_paths() if _profile_name(path) == name and path != place]
        return self._with_file(place, value, replaced)

    def with_admissions(self, report: Mapping[str, Any], admissions: Mapping[str, Any]) -> Bundle:
        """The bundle with the gate's verdicts and the report with every count they rest on, in place of older ones.

        `admissions` is what `Admissions.to_dict` gives; its `report` becomes the report's path in the bundle. Written
        as in `with_profile`.

        Raises:
            AdmissionError: not of that form, or measured on other engines. SignatureError: the bundle is signed.
        """
        place = _place(REPORTS, "refusals", report)
        made = Admissions.from_dict({**admissions, "report": place}, self.manifest.engines_digest)
        replaced = [path for path, record in self.manifest.files.items() if record.role == "report" and path != place]
        return self._with_file(place, report, replaced, admissions=made.to_dict())

    def with_bom(self, bom: Mapping[str, Any]) -> Bundle:
        """The bundle with its bill of materials, in place of an older one.

        An older one is first taken out of the manifest: a file can't be replaced in one step with its digest.

        Raises:
            SignatureError: the bundle is signed.
        """
        self.check_changeable()
        if BOM in self.manifest.files:
            self._replace_manifest({path: record for path, record in self.manifest.files.items() if path != BOM})
        return self._with_file(BOM, bom)

    def check_changeable(self) -> None:
        """Whether something may be added: not to a signed bundle, because its signatures would be void.

        Raises:
            SignatureError: the bundle is signed.
        """
        if self.file(ENVELOPE).exists():
            raise SignatureError(
                f"{self.path} is signed and can't be changed",
                found=ENVELOPE,
                expected="a bundle that is signed when everything is in it",
                remedy=f"take {ENVELOPE} out of it, run the command again, then 'engine-build sign'",
            )

    def _with_file(self, place: str, value: Any, replaced: Collection[str] = (), **fields: Any) -> Bundle:
        self.check_changeable()
        write_json(self.file(place), value)
        files = {path: record for path, record in self.manifest.files.items() if path not in replaced}
        files[place] = _record(self.path, self.file(place))
        self._replace_manifest(files, **fields)
        with storage_errors(self.path):
            remove_leftovers(self.path, files)
        return open_bundle(self.path)

    def _replace_manifest(self, files: Mapping[str, FileRecord], **fields: Any) -> None:
        records = {path: vars(record) for path, record in files.items()}
        _write_manifest(self.path, {**self.manifest.to_dict(), **fields, "files": records})


def _place(folder: str, name: str, value: Any) -> str:
    """Where a value that may be replaced lies in a bundle: its digest is part of its file name."""
    digest = hashlib.sha256(canonical_json(value).encode()).hexdigest()
    return f"{folder}/{name}.{digest[:12]}.json"


def _profile_name(path: str) -> str:
    """`profiles/cpu.0123456789ab.json` is the profile "cpu"."""
    return Path(path).name.rsplit(".", 2)[0]


def seal(folder: Path, **fields: Any) -> Manifest:
    """Record every file below `folder` and write its manifest; `fields` are `Manifest`'s without `files`."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    files = {path.relative_to(folder).as_posix(): _record(folder, path) for path in paths}
    return _write_manifest(folder, Manifest(files=files, **fields).to_dict())


def _write_manifest(folder: Path, value: Mapping[str, Any]) -> Manifest:
    """Write a manifest, but only one that can be read again."""
    where = str(folder / MANIFEST)
    manifest = Manifest.from_dict(_MANIFEST.parse(canonical_json(value).encode(), where), where)
    write_json(folder / MANIFEST, value)
    return manifest


def _record(folder: Path, path: Path) -> FileRecord:
    top = path.relative_to(folder).parts[0]
    role = _DIRECTORY_ROLES.get(top) or _ROLES.get(path.suffix, "preprocessing")
    return FileRecord(role, path.stat().st_size, sha256_file(path))


def open_bundle(
    path: Path, trust: Trust | None = None, *, minimum_release: int | None = None, now: datetime | None = None
) -> Bundle:
    """Read the manifest and check every file it lists, before any of them is used.

    In this order: the envelope and, with `trust`, its signatures; the manifest; the release; what lies in the
    directory; lengths; digests. `now` (the clock's time by default) decides which keys have expired.

    Raises:
        BundleError: no bundle, a manifest that does not hold together, or something that it does not list.
        DigestError: a file is missing, or is not the one that was built.
        SignatureError: an envelope of another manifest; with `trust`, too few accepted signatures.
        ReleaseError: an older release than `minimum_release`.
    """
    text = _MANIFEST.read(path / MANIFEST)
    if text is None:
        raise BundleError(
            f"{path} is not a bundle",
            found=f"no {MANIFEST}",
            expected="a directory that 'engine-build export' or 'compile' wrote",
            remedy="check the path",
        )
    envelope = Envelope.read(path / ENVELOPE)
    manifest, signers = check_manifest(path, text, envelope, trust, now or datetime.now(timezone.utc))
    if minimum_release is not None and manifest.release < minimum_release:
        raise ReleaseError(
            f"{path} is an older release than is allowed",
            found=f"release {manifest.release}",
            expected=f"release {minimum_release} or newer",
            remedy="get a newer bundle; an old one is never put back by its release counter",
        )
    check_tree(path, manifest.files, signed=envelope is not None)
    return Bundle(path, manifest, hashlib.sha256(text).hexdigest(), envelope is not None, signers)


def check_manifest(
    path: Path, text: bytes, envelope: Envelope | None, trust: Trust | None, now: datetime
) -> tuple[Manifest, tuple[str, ...]]:
    """The manifest whose file at `path` holds `text`, and the ids of the trusted keys that signed it.

    Raises:
        BundleError, SignatureError: as `open_bundle`.
    """
    signers = () if trust is None else _signers(path, envelope, trust, now)
    if envelope is not None:
        envelope.check_subject(hashlib.sha256(text).hexdigest(), str(path / ENVELOPE))
    manifest = Manifest.from_dict(_MANIFEST.parse(text, str(path / MANIFEST)), str(path / MANIFEST))
    if envelope is not None and envelope.payload != statement(manifest, text):
        raise SignatureError(
            f"the statement in {path / ENVELOPE} says other things about the bundle than {MANIFEST} does",
            remedy="sign the bundle with this version of engine-build",
        )
    return manifest, signers


def _signers(path: Path, envelope: Envelope | None, trust: Trust, now: datetime) -> tuple[str, ...]:
    if envelope is None:
        raise SignatureError(
            f"{path} is not signed",
            found=f"no {ENVELOPE}",
            expected=f"signatures by {trust.threshold} of the trust file's {len(trust.keys)} keys",
            remedy="run 'engine-build sign', or open it without a trust file if you built it yourself",
        )
    return trust.accept(envelope, str(path / ENVELOPE), now)
