"""The trust file: whose signatures a bundle is accepted by, how many of them, until when.

Keys are Ed25519 (RFC 8032). A key's id is the SHA-256 of its 32 raw bytes, so that a file can't call one key another.
Several keys in the file are how keys are rotated; a key that got out is marked as revoked and stays in it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from jetson_runtime.dsse import Envelope
from jetson_runtime.errors import ConfigError, SignatureError
from jetson_runtime.strict_json import Document

__all__ = ["SCHEMA", "Trust", "TrustedKey", "key_id", "read_time", "time_text"]

SCHEMA = "holdfast/trust/1"
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_REMEDY = "write it with 'engine-build trust'; a trust file is never edited by hand"
_DOCUMENT = Document("trust file", 1 << 20, ConfigError, _REMEDY)
_FIELDS: Mapping[str, Any] = {
    "id": str,
    "name": str,
    "public": str,
    "not_after": (str, type(None)),
    "revoked": bool,
    "reason": str,
}


def key_id(public: bytes) -> str:
    """The id of a raw public key."""
    return hashlib.sha256(public).hexdigest()


def time_text(moment: datetime) -> str:
    """`2027-01-31T00:00:00Z`."""
    return moment.astimezone(timezone.utc).strftime(_TIME)


def read_time(text: str) -> datetime:
    """What `time_text` wrote.

    Raises:
        ValueError: any other form.
    """
    moment = datetime.strptime(text, _TIME).replace(tzinfo=timezone.utc)
    if time_text(moment) != text:
        raise ValueError(f"time {text!r} is not of the form 2027-01-31T00:00:00Z")
    return moment


@dataclass(frozen=True)
class TrustedKey:
    """A public key: its 32 raw bytes. `not_after` is the last moment at which its signatures count; None is always."""

    public: bytes
    name: str = ""
    not_after: datetime | None = None
    revoked: bool = False
    reason: str = ""

    @property
    def id(self) -> str:
        """The SHA-256 of the raw key."""
        return key_id(self.public)

    def verifies(self, signature: bytes, data: bytes) -> bool:
        """Whether this key made the signature over `data`."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, data)
        except InvalidSignature:
            return False
        return True

    def problem(self, now: datetime) -> str | None:
        """Why this key's signatures do not count at that moment, None if they do."""
        if self.revoked:
            return f"is revoked: {self.reason}"
        if self.not_after is not None and now > self.not_after:
            return f"expired at {time_text(self.not_after)}; it is {time_text(now)}"
        return None

    def to_dict(self) -> dict[str, Any]:
        """The form in which a trust file carries a key."""
        return {
            "id": self.id,
            "name": self.name,
            "public": self.public.hex(),
            "not_after": None if self.not_after is None else time_text(self.not_after),
            "revoked": self.revoked,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Trust:
    """Which keys are trusted, and how many different ones must have signed a bundle.

    Raises:
        ConfigError: no key, one twice, or a threshold that the keys can't reach.
    """

    keys: tuple[TrustedKey, ...]
    threshold: int = 1

    def __post_init__(self) -> None:
        if len({key.id for key in self.keys}) != len(self.keys):
            raise ConfigError("a key stands twice in the trust file", remedy=_REMEDY)
        if not 1 <= self.threshold <= len(self.keys):
            raise ConfigError(
                "the trust file's threshold can't be used",
                found=f"threshold {self.threshold}, {len(self.keys)} keys",
                expected="at least 1, at most the number of keys",
                remedy="add keys, or lower the threshold",
            )

    def to_dict(self) -> dict[str, Any]:
        """The value that a trust file holds."""
        keys = sorted(self.keys, key=lambda key: key.id)
        return {"schema": SCHEMA, "threshold": self.threshold, "keys": [key.to_dict() for key in keys]}

    @classmethod
    def read(cls, path: Path) -> Trust:
        """Read a trust file; `path` is the operator's own and may be a link.

        Raises:
            ConfigError: not there, or not what `to_dict` wrote.
        """
        data = _DOCUMENT.read(Path(os.path.realpath(path)))
        if data is None:
            raise ConfigError(
                f"there is no trust file {path}", remedy="check the path; 'engine-build trust add' makes one"
            )
        return cls.from_bytes(data, str(path))

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Trust:
        """Read a trust file's bytes.

        Raises:
            ConfigError: not canonical JSON, other fields or types, an id that is not the key's.
        """
        value = _DOCUMENT.parse(data, where)
        try:
            if not isinstance(value, dict) or set(value) != {"schema", "threshold", "keys"}:
                raise ValueError("other fields than schema, threshold and keys")
            if value["schema"] != SCHEMA or type(value["threshold"]) is not int or not isinstance(value["keys"], list):
                raise ValueError("another schema, or a field of the wrong type")
            keys = tuple(_key(entry) for entry in value["keys"])
            if [key.id for key in keys] != sorted(key.id for key in keys):
                raise ValueError("keys that are not in the order of their ids")
        except ValueError as error:
            raise ConfigError(f"{where} is not a trust file", found=error, expected=SCHEMA, remedy=_REMEDY) from None
        return cls(keys, value["threshold"])

    def accept(self, envelope: Envelope, where: str, now: datetime) -> tuple[str, ...]:
        """The ids of the trusted keys that signed the envelope, sorted.

        A signature by a key that is not in the file does not count; neither does one by an expired or revoked key. A
        signature that a trusted key did not make is refused however many others there are: the envelope is damaged.

        Raises:
            SignatureError: fewer keys than the threshold; each signature that did not count is explained.
        """
        trusted = {key.id: key for key in self.keys}
        counted, refused, damaged = [], [], False
        for name, signature in sorted(envelope.signatures.items()):
            key = trusted.get(name)
            if key is None:
                refused.append(f"key {name[:16]!r} is not in the trust file")
            elif not key.verifies(signature, envelope.signed_bytes):
                refused.append(f"key {name[:16]!r} did not make the signature that bears its id")
                damaged = True
            elif (problem := key.problem(now)) is not None:
                refused.append(f"key {name[:16]!r} {problem}")
            else:
                counted.append(name)
        if damaged or len(counted) < self.threshold:
            raise SignatureError(
                f"the signatures in {where} are not accepted",
                found="; ".join([f"{len(counted)} accepted", *refused]),
                expected=f"signatures by {self.threshold} of the trust file's {len(self.keys)} keys",
                remedy="do not use this bundle; if its keys are the right ones, get the trust file that names them",
            )
        return tuple(counted)


def _key(value: Any) -> TrustedKey:
    if not isinstance(value, dict) or set(value) != set(_FIELDS):
        raise ValueError(f"a key without exactly the fields {', '.join(_FIELDS)}")
    wrong = [name for name, kind in _FIELDS.items() if not isinstance(value[name], kind)]
    if wrong:
        raise ValueError(f"field '{wrong[0]}' of the wrong type")
    if not re.fullmatch(r"[0-9a-f]{64}", value["public"], re.ASCII):
        raise ValueError("a public key that is not 64 hexadecimal digits")
    not_after = None if value["not_after"] is None else read_time(value["not_after"])
    key = TrustedKey(bytes.fromhex(value["public"]), value["name"], not_after, value["revoked"], value["reason"])
    Ed25519PublicKey.from_public_bytes(key.public)
    if key.id != value["id"]:
        raise ValueError(f"id {value['id'][:16]!r} of a key whose id is {key.id[:16]!r}")
    return key
