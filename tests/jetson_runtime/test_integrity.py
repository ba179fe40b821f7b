"""A signed bundle that was tampered with is refused before an engine is loaded, each way of it by its own error."""

from __future__ import annotations

import base64
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from admitting import verdicts
from profiles import made_up_profile
from signing import NOW, key, raw_public, signed, trust, trusted

from benchmarks.integrity import Flip, flips, undetected
from engine_builder.bom import bill_of_materials
from jetson_runtime import load
from jetson_runtime.bundle import ENVELOPE, MANIFEST, open_bundle
from jetson_runtime.dsse import PREDICATE_TYPE, STATEMENT_TYPE, Envelope
from jetson_runtime.errors import BundleError, DigestError, ReleaseError, SignatureError
from jetson_runtime.files import canonical_json, sha256_file
from jetson_runtime.trust import Trust, key_id, time_text

ENGINE = "engines/lm_head.onnx"
ID = key_id(raw_public(key(1)))
TRUST = trust(1)


@pytest.fixture(scope="module")
def pristine(tiny_bundle: Callable[[str, str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Signed by key 1, with everything in it that a bundle may hold."""
    path = Path(shutil.copytree(tiny_bundle("dinov2-llama", "fp32"), tmp_path_factory.mktemp("integrity") / "bundle"))
    bundle = open_bundle(path).with_profile(made_up_profile(open_bundle(path)), "cpu")
    admitted = verdicts(bundle.manifest.ladder, ("d1", "d2"), bundle.manifest.engines_digest)
    bundle = bundle.with_admissions({"depths": []}, admitted.to_dict())
    bundle.with_bom(bill_of_materials(bundle))
    return signed(path, 1)


@pytest.fixture
def bundle(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "bundle"))


@pytest.fixture(autouse=True)
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever gets as far as a backend fails the test: its error is no BundleError."""

    def opened(*_: object) -> None:
        raise AssertionError("an engine would be loaded")

    monkeypatch.setattr("jetson_runtime.runtime.open_backend", opened)


def test_the_bundle_as_it_was_signed_is_loaded(pristine: Path) -> None:
    with pytest.raises(AssertionError, match="an engine would be loaded"):
        load(pristine, trust=trust(1))


def test_every_flipped_byte_is_detected(bundle: Path) -> None:
    files = sum(path.is_file() for path in bundle.rglob("*"))
    assert undetected(bundle, trust(1), flips(bundle, 8 * files)) == []
    assert open_bundle(bundle, trust(1)).signers == (ID,)


def test_a_flip_that_is_not_detected_would_be_reported(bundle: Path) -> None:
    change = Flip(bundle / ENGINE, 5, 0)
    assert undetected(bundle, trust(1), [change]) == [change]


def test_every_truncated_file_is_detected(bundle: Path) -> None:
    draw = random.Random(0)
    for path in sorted(path for path in bundle.rglob("*") if path.is_file()):
        data = path.read_bytes()
        for size in {0, len(data) // 2, len(data) - 1, draw.randrange(len(data))}:
            path.write_bytes(data[:size])
            with pytest.raises(BundleError):
                load(bundle, trust=trust(1))
        path.write_bytes(data)
    open_bundle(bundle, trust(1))


@dataclass(frozen=True)
class Attack:
    """What is done to the bundle, by whom it is then trusted, and what is said."""

    change: Callable[[Path], object]
    error: type[BundleError]
    words: str
    trust: Trust = TRUST


def forged(change: Callable[[dict], object]) -> Callable[[Path], None]:
    """Another manifest, with a right signature of key 1: what only the signer's own mistake could make."""

    def write(bundle: Path) -> None:
        value = json.loads((bundle / MANIFEST).read_text())
        change(value)
        sign_text(bundle, canonical_json(value))

    return write


def text(content: Callable[[str], str | bytes]) -> Callable[[Path], None]:
    """The same for a manifest that is no canonical JSON."""
    return lambda bundle: sign_text(bundle, content((bundle / MANIFEST).read_text()))


def sign_text(bundle: Path, content: str | bytes) -> None:
    (bundle / MANIFEST).write_bytes(content if isinstance(content, bytes) else content.encode())
    subject = {"name": MANIFEST, "digest": {"sha256": sha256_file(bundle / MANIFEST)}}
    value = {"_type": STATEMENT_TYPE, "subject": [subject], "predicateType": PREDICATE_TYPE, "predicate": {}}
    unsigned = Envelope(canonical_json(value).encode(), {})
    envelope = Envelope(unsigned.payload, {ID: key(1).sign(unsigned.signed_bytes)})
    (bundle / ENVELOPE).write_text(canonical_json(envelope.to_dict()))


def envelope(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def write(bundle: Path) -> None:
        value = json.loads((bundle / ENVELOPE).read_text())
        change(value)
        (bundle / ENVELOPE).write_text(canonical_json(value))

    return write


def relink(path: str) -> Callable[[Path], None]:
    def write(bundle: Path) -> None:
        shutil.move(bundle / path, bundle.parent / "elsewhere")
        (bundle / path).symlink_to(bundle.parent / "elsewhere")

    return write


def other_path(path: str) -> Callable[[dict], None]:
    return lambda value: value["files"].update({path: value["files"].pop(ENGINE)})


ATTACKS = {
    "no manifest": Attack(lambda bundle: (bundle / MANIFEST).unlink(), BundleError, "is not a bundle"),
    "no envelope": Attack(lambda bundle: (bundle / ENVELOPE).unlink(), SignatureError, "is not signed"),
    "missing file": Attack(lambda bundle: (bundle / ENGINE).unlink(), DigestError, "is not there\n  found: nothing"),
    "extra file": Attack(lambda bundle: (bundle / "x").touch(), BundleError, "does not list\n  found: 'x'"),
    "extra directory": Attack(lambda bundle: (bundle / "x").mkdir(), BundleError, "does not list\n  found: 'x'"),
    "linked file": Attack(relink(ENGINE), DigestError, "is not there\n  found: a symbolic link"),
    "linked directory": Attack(relink("tokenizer"), DigestError, "no file: 'tokenizer'\n  found: a symbolic link"),
    "linked manifest": Attack(relink(MANIFEST), BundleError, "manifest.json can't be read\n  found: a symbolic link"),
    "linked envelope": Attack(relink(ENVELOPE), SignatureError, "dsse.json can't be read\n  found: a symbolic link"),
    "longer file": Attack(lambda bundle: (bundle / ENGINE).write_bytes(b"x" * 99), DigestError, "have the length"),
    "another manifest": Attack(
        lambda bundle: (bundle / MANIFEST).write_text("{}\n"), SignatureError, "signs another manifest"
    ),
    "absolute path": Attack(forged(other_path("/etc/x")), BundleError, "'/etc/x' does not stay inside"),
    "parent path": Attack(forged(other_path("a/../../x")), BundleError, "'a/../../x' does not stay inside"),
    "key twice": Attack(
        text(lambda old: old.replace('{\n "admissions"', '{\n "kind": "portable",\n "admissions"', 1)),
        BundleError, "has a key twice\n  found: 'kind'",
    ),
    "deep": Attack(text(lambda _: "[" * 500 + "]" * 500), BundleError, "manifest.json is nested too deeply"),
    "huge": Attack(text(lambda old: old + " " * (4 << 20)), BundleError, "too large for a manifest"),
    "no UTF-8": Attack(text(lambda _: b'"\xff"\n'), BundleError, "manifest.json is not UTF-8"),
    "no JSON": Attack(text(lambda _: "{"), BundleError, "manifest.json is not JSON"),
    "other spaces": Attack(text(lambda old: old + " "), BundleError, "not in the canonical form"),
    "wrong type": Attack(forged(lambda m: m.update(files=7)), BundleError, "'files' is not of type dict"),
    "unknown field": Attack(forged(lambda m: m.update(more=7)), BundleError, "unknown field 'more'"),
    "another schema": Attack(forged(lambda m: m.update(schema="x/2")), BundleError, "not a manifest that this version"),
    "statement about another release": Attack(
        forged(lambda m: m.update(release=9)), SignatureError, "says other things about the bundle"
    ),
    "envelope with a key twice": Attack(
        lambda bundle: (bundle / ENVELOPE).write_text('{\n "payload": "",\n "payload": ""\n}\n'),
        SignatureError, "dsse.json has a key twice",
    ),
    "huge envelope": Attack(
        lambda bundle: (bundle / ENVELOPE).write_bytes(b" " * (2 << 20)), SignatureError, "too large for a signature"
    ),
    "envelope of a wrong type": Attack(envelope(lambda e: e.update(signatures=7)), SignatureError, "a int instead of"),
    "odd base64": Attack(envelope(lambda e: e.update(payload=e["payload"] + "\n")), SignatureError, "not base64"),
    "another payload": Attack(
        envelope(lambda e: e.update(payload=base64.b64encode(b"{}").decode())), SignatureError, "did not make the"
    ),
    "another payload type": Attack(envelope(lambda e: e.update(payloadType="x")), SignatureError, "payloadType 'x'"),
    "revoked key": Attack(
        lambda _: None, SignatureError, "is revoked: stolen", Trust((trusted(1, revoked=True, reason="stolen"),))
    ),
    "expired key": Attack(
        lambda _: None, SignatureError, "expired at 2025-", Trust((trusted(1, not_after=NOW - timedelta(days=365)),))
    ),
    "unknown key": Attack(lambda _: None, SignatureError, "is not in the trust file", trust(2)),
    "too few keys": Attack(lambda _: None, SignatureError, "1 accepted\n  expected: .*2 of", trust(1, 2, threshold=2)),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_each_attack_has_its_own_error(bundle: Path, attack: Attack) -> None:
    attack.change(bundle)
    with pytest.raises(BundleError, match=attack.words) as refused:
        load(bundle, trust=attack.trust)
    assert type(refused.value) is attack.error
    assert refused.value.remedy


def test_an_older_release_is_its_own_error(bundle: Path) -> None:
    with pytest.raises(ReleaseError, match="older release"):
        open_bundle(bundle, trust(1), minimum_release=2)


def test_the_time_that_decides_is_the_caller_s(bundle: Path) -> None:
    until = Trust((trusted(1, not_after=NOW),))
    assert open_bundle(bundle, until, now=NOW).signers == (ID,)
    with pytest.raises(SignatureError, match=f"expired at {time_text(NOW)}"):
        open_bundle(bundle, until, now=NOW + timedelta(seconds=1))
