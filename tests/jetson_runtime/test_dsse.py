"""The envelope: DSSE's own example, the statement's fields, and everything that is not an envelope."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from signing import key, raw_public, signed

from jetson_runtime.bundle import ENVELOPE, MANIFEST, open_bundle
from jetson_runtime.dsse import Envelope, canonical_base64, pae, statement
from jetson_runtime.errors import SignatureError
from jetson_runtime.files import canonical_json, sha256_file
from jetson_runtime.trust import key_id


@pytest.fixture
def bundle(tiny_bundle: Callable[[str, str], Path], tmp_path: Path) -> Path:
    return signed(Path(shutil.copytree(tiny_bundle("dinov2-llama", "fp32"), tmp_path / "bundle")), 1)


def test_the_specifications_example_of_the_encoding() -> None:
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )
    assert pae("é", b"") == b"DSSEv1 2 \xc3\xa9 0 "


def test_the_statement_is_in_toto_and_has_the_fields_that_an_oem_carries_into_uptane(bundle: Path) -> None:
    envelope = Envelope.read(bundle / ENVELOPE)
    assert envelope is not None
    value, manifest = json.loads(envelope.payload), open_bundle(bundle).manifest
    digest, length = sha256_file(bundle / MANIFEST), (bundle / MANIFEST).stat().st_size
    assert value["_type"] == "https://in-toto.io/Statement/v1" and value["predicateType"].startswith("urn:")
    assert value["subject"] == [{"name": "manifest.json", "digest": {"sha256": digest}}]
    predicate = value["predicate"]
    assert predicate["uptane"] == {
        "hashes": {"sha256": digest}, "length": length, "hardware_id": "cpu", "release_counter": manifest.release
    }  # fmt: skip
    assert predicate["engines_digest"] == manifest.engines_digest and predicate["ladder"] == manifest.ladder.to_dicts()
    on_disk = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file() and path.name != ENVELOPE)
    assert predicate["size_bytes"] == on_disk


def test_another_implementation_of_dsse_could_verify_the_signature(bundle: Path) -> None:
    """The file alone, by the words of the specification: the payload's bytes, its type, Ed25519."""
    value = json.loads((bundle / ENVELOPE).read_text())
    payload = base64.standard_b64decode(value["payload"])
    [entry] = value["signatures"]
    assert entry["keyid"] == key_id(raw_public(key(1)))
    data = b"DSSEv1 %d %s %d %s" % (len(value["payloadType"]), value["payloadType"].encode(), len(payload), payload)
    Ed25519PublicKey.from_public_bytes(raw_public(key(1))).verify(base64.standard_b64decode(entry["sig"]), data)


@pytest.mark.parametrize("text", ["QQ", "QQ=", "QR==", "QQ==\n", " QQ==", "Q Q==", "-_8=", "é", None, 5])
def test_base64_has_one_spelling(text: object) -> None:
    assert canonical_base64("QQ==") == b"A" and canonical_base64("") == b""
    with pytest.raises(ValueError):
        canonical_base64(text)


def parts(changes: dict[str, object]) -> dict[str, object]:
    entry = {"keyid": "a" * 64, "sig": base64.b64encode(bytes(64)).decode()}
    whole = {"payload": "", "payloadType": "application/vnd.in-toto+json", "signatures": [entry]}
    return {name: value for name, value in {**whole, **changes}.items() if value is not ...}


ENTRY = {"keyid": "a" * 64, "sig": base64.b64encode(bytes(64)).decode()}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"payload": ...}, "instead of the fields"),
        ({"more": 1}, "instead of the fields"),
        ({"payload": 5}, "a int instead of base64"),
        ({"payload": "QR=="}, "another spelling"),
        ({"payloadType": "text/plain"}, "payloadType 'text/plain'"),
        ({"signatures": {}}, "a dict instead of a list"),
        ({"signatures": []}, "0 signatures"),
        ({"signatures": [{**ENTRY, "keyid": f"{n:03}"} for n in range(65)]}, "65 signatures"),
        ({"signatures": [ENTRY, ENTRY]}, "twice or out of order"),
        ({"signatures": [{**ENTRY, "keyid": "b"}, ENTRY]}, "twice or out of order"),
        ({"signatures": [{**ENTRY, "sig": "QQ=="}]}, "a signature of 1 bytes"),
        ({"signatures": [{**ENTRY, "keyid": 1}]}, "by key 1"),
        ({"signatures": [{**ENTRY, "extra": ""}]}, "instead of the fields"),
        ({"signatures": ["x"]}, "str instead of the fields"),
    ],
)
def test_what_is_no_envelope(changes: dict[str, object], words: str) -> None:
    Envelope.from_bytes(canonical_json(parts({})).encode(), "there")
    with pytest.raises(SignatureError, match=f"there is not a signature envelope\n  found: .*{words}"):
        Envelope.from_bytes(canonical_json(parts(changes)).encode(), "there")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda value: value.pop("subject"), "not about a bundle"),
        (lambda value: value.update(_type="other"), "type 'other'"),
        (lambda value: value.update(predicateType="other"), "predicate type 'other'"),
        (lambda value: value.update(subject={}), "a dict instead of a list"),
        (lambda value: value.update(subject=value["subject"] * 2), "not about a bundle"),
        (lambda value: value.update(subject=["x"]), "str instead of the fields"),
        (lambda value: value["subject"][0].update(name="other.json"), "signs another manifest"),
        (lambda value: value["subject"][0]["digest"].update(sha256="0" * 64), "signs another manifest"),
        (lambda value: value["subject"][0]["digest"].update(md5="0"), "instead of the fields"),
        (lambda value: value["predicate"].update(release=99), "says other things"),
        (lambda value: value["predicate"].pop("uptane"), "says other things"),
    ],
)
def test_a_statement_about_something_else(bundle: Path, change: Callable[[dict], object], words: str) -> None:
    opened = open_bundle(bundle)
    value = json.loads(statement(opened.manifest, (bundle / MANIFEST).read_bytes()))
    change(value)
    payload = canonical_json(value).encode()
    envelope = Envelope(payload, {"a": bytes(64)})
    (bundle / ENVELOPE).write_text(canonical_json(envelope.to_dict()))
    with pytest.raises(SignatureError, match=words):
        open_bundle(bundle)
