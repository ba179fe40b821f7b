"""What is signed, and the envelope around it: DSSE 1.0 (secure-systems-lab/dsse) over an in-toto Statement v1.

The statement names the manifest by its SHA-256, and the manifest names every other file by its own. The rest of the
statement repeats what the manifest says for those who read the envelope alone: an OEM's Uptane repository, a dashboard.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jetson_runtime.errors import SignatureError
from jetson_runtime.files import canonical_json
from jetson_runtime.manifest import MANIFEST, Manifest
from jetson_runtime.strict_json import Document

__all__ = [
    "PAYLOAD_TYPE",
    "PREDICATE_TYPE",
    "STATEMENT_TYPE",
    "Envelope",
    "canonical_base64",
    "pae",
    "statement",
    "uptane_fields",
]

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"  # the identifier that in-toto's specification prescribes
PREDICATE_TYPE = "urn:holdfast:bundle-release:1"
_REMEDY = "get the bundle again from whoever signed it; do not use this one"
_ENVELOPE = Document("signature envelope", 1 << 20, SignatureError, _REMEDY)
_PAYLOAD = Document("signed statement", 1 << 19, SignatureError, _REMEDY)
_MOST_SIGNATURES = 64
_SIGNATURE_BYTES = 64


def pae(payload_type: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: the bytes that are signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def canonical_base64(text: Any) -> bytes:
    """The bytes that `text` encodes in standard base64 with padding, in the one spelling that encoding gives.

    Raises:
        ValueError: no text, or not that spelling.
    """
    if not isinstance(text, str):
        raise ValueError(f"a {type(text).__name__} instead of base64 text")
    try:
        data = base64.b64decode(text.encode(), validate=True)
    except ValueError:
        raise ValueError("text that is not base64") from None
    if base64.b64encode(data).decode() != text:
        raise ValueError("base64 in another spelling than the canonical one")
    return data


def uptane_fields(manifest: Manifest, text: bytes) -> dict[str, Any]:
    """What Uptane's Targets metadata says of an image, for a manifest whose file holds `text` (Uptane Standard 2.1)."""
    return {
        "hashes": {"sha256": hashlib.sha256(text).hexdigest()},
        "length": len(text),
        "hardware_id": manifest.target["name"],
        "release_counter": manifest.release,
    }


def statement(manifest: Manifest, text: bytes) -> bytes:
    """The in-toto statement about a manifest whose file holds `text`: one manifest, one statement, byte for byte."""
    predicate = {
        "model": {"id": manifest.model.id, "version": manifest.model.version},
        "release": manifest.release,
        "kind": manifest.kind,
        "precision": manifest.precision,
        "target": manifest.target["name"],
        "engines_digest": manifest.engines_digest,
        "ladder": manifest.ladder.to_dicts(),
        "size_bytes": len(text) + sum(record.size_bytes for record in manifest.files.values()),
        "uptane": uptane_fields(manifest, text),
    }
    value = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": MANIFEST, "digest": {"sha256": hashlib.sha256(text).hexdigest()}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": predicate,
    }
    return canonical_json(value).encode()


@dataclass(frozen=True)
class Envelope:
    """A payload and its signatures, by the id of the key that is said to have made each."""

    payload: bytes
    signatures: Mapping[str, bytes]

    @property
    def signed_bytes(self) -> bytes:
        """What each signature is over."""
        return pae(PAYLOAD_TYPE, self.payload)

    def to_dict(self) -> dict[str, Any]:
        """The value that `manifest.dsse.json` holds."""
        encoded = {key: base64.b64encode(signature).decode() for key, signature in self.signatures.items()}
        return {
            "payload": base64.b64encode(self.payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"keyid": key, "sig": encoded[key]} for key in sorted(encoded)],
        }

    @classmethod
    def read(cls, path: Path) -> Envelope | None:
        """The envelope at `path`, None if nothing lies there.

        Raises:
            SignatureError: what lies there is no envelope of ours.
        """
        data = _ENVELOPE.read(path)
        return None if data is None else cls.from_bytes(data, str(path))

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Envelope:
        """Read what `to_dict` wrote; says nothing about whether the signatures are right.

        Raises:
            SignatureError: not canonical JSON, other fields or types, base64 in another spelling.
        """
        value = _ENVELOPE.parse(data, where)
        try:
            _exactly(value, {"payload", "payloadType", "signatures"})
            if value["payloadType"] != PAYLOAD_TYPE:
                raise ValueError(f"payloadType {value['payloadType']!r}")
            return cls(canonical_base64(value["payload"]), _signatures(value["signatures"]))
        except ValueError as error:
            raise SignatureError(
                f"{where} is not a signature envelope",
                found=error,
                expected=f"a DSSE envelope of type {PAYLOAD_TYPE}",
                remedy=_REMEDY,
            ) from None

    def check_subject(self, digest: str, where: str) -> None:
        """Whether the statement in it is about the manifest of that SHA-256.

        Raises:
            SignatureError: it is about another one, or no statement of ours.
        """
        value = _PAYLOAD.parse(self.payload, f"the statement in {where}")
        try:
            _exactly(value, {"_type", "predicate", "predicateType", "subject"})
            if (value["_type"], value["predicateType"]) != (STATEMENT_TYPE, PREDICATE_TYPE):
                raise ValueError(f"type {value['_type']!r}, predicate type {value['predicateType']!r}")
            [subject] = _list(value["subject"])
            _exactly(subject, {"name", "digest"})
            _exactly(subject["digest"], {"sha256"})
        except ValueError as error:
            raise SignatureError(
                f"the statement in {where} is not about a bundle",
                found=error,
                expected=f"an in-toto Statement v1 with predicate type {PREDICATE_TYPE} and one subject",
                remedy=_REMEDY,
            ) from None
        if subject != {"name": MANIFEST, "digest": {"sha256": digest}}:
            raise SignatureError(
                f"{where} signs another manifest than the one beside it",
                found=f"{MANIFEST} with sha256 {digest}",
                expected=f"{subject['name']!r} with sha256 {subject['digest']['sha256']}",
                remedy=_REMEDY,
            )


def _signatures(value: Any) -> dict[str, bytes]:
    entries = _list(value)
    if not 1 <= len(entries) <= _MOST_SIGNATURES:
        raise ValueError(f"{len(entries)} signatures")
    made: dict[str, bytes] = {}
    for entry in entries:
        _exactly(entry, {"keyid", "sig"})
        key, signature = entry["keyid"], canonical_base64(entry["sig"])
        if not isinstance(key, str) or len(signature) != _SIGNATURE_BYTES:
            raise ValueError(f"a signature of {len(signature)} bytes by key {key!r}")
        if made and key <= max(made):
            raise ValueError(f"key {key!r} twice or out of order")
        made[key] = signature
    return made


def _exactly(value: Any, fields: set[str]) -> None:
    if not isinstance(value, dict) or set(value) != fields:
        found = sorted(value) if isinstance(value, dict) else type(value).__name__
        raise ValueError(f"{found} instead of the fields {sorted(fields)}")


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"a {type(value).__name__} instead of a list")
    return value
