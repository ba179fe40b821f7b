"""`engine-build keygen | sign | verify | trust` as they are run: two people, two keys, one bundle."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from signing import key, raw_public, signed, trust, trust_file

from engine_builder.cli import main
from engine_builder.keys import private_key_from, public_key_from
from jetson_runtime.bundle import ENVELOPE, MANIFEST, open_bundle
from jetson_runtime.dsse import Envelope
from jetson_runtime.files import canonical_json, sha256_file
from jetson_runtime.trust import Trust, key_id


@pytest.fixture
def bundle(tiny_bundle: Callable[[str, str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle("dinov2-llama", "fp32"), tmp_path / "bundle"))


def run(*words: object) -> int:
    return main([str(word) for word in words])


def keygen(tmp_path: Path, name: str, *options: str) -> tuple[Path, Path]:
    assert run("keygen", "--out", tmp_path / "keys" / name, *options) == 0
    return tmp_path / "keys" / f"{name}.key", tmp_path / "keys" / f"{name}.pub"


def test_from_keys_to_a_verified_bundle(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "trust.json"
    (one, one_pub), (two, two_pub) = keygen(tmp_path, "one"), keygen(tmp_path, "two")
    assert run("trust", "add", file, "--key", one_pub, "--name", "Ada") == 0
    assert run("trust", "add", file, "--key", two_pub, "--threshold", 2, "--not-after", "2999-01-31T00:00:00Z") == 0
    assert run("sign", bundle, "--key", one) == 0
    assert run("verify", bundle, "--trust", file) == 3
    assert "1 accepted" in capsys.readouterr().err
    assert run("sign", bundle, "--key", two) == 0
    capsys.readouterr()
    assert run("verify", bundle, "--trust", file) == 0
    text = capsys.readouterr().out
    assert "release 1" in text and "Ada" in text and text.count("signed by") == 2
    assert run("verify", bundle, "--trust", file, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["signers"] == sorted(key_id(public_key_from(path)) for path in (one_pub, two_pub))
    digest = sha256_file(bundle / MANIFEST)
    assert facts["bundle_digest"] == digest
    assert facts["uptane"] == {
        "hashes": {"sha256": digest}, "length": (bundle / MANIFEST).stat().st_size, "hardware_id": "cpu",
        "release_counter": 1,
    }  # fmt: skip


def test_signing_is_deterministic_and_signing_again_changes_nothing(bundle: Path) -> None:
    before = (signed(bundle, 1) / ENVELOPE).read_bytes()
    assert (signed(bundle, 1) / ENVELOPE).read_bytes() == before
    both = (signed(bundle, 2) / ENVELOPE).read_bytes()
    (bundle / ENVELOPE).unlink()
    assert (signed(bundle, 2, 1) / ENVELOPE).read_bytes() == both


def test_a_private_key_is_its_owner_s_and_is_never_written_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    private, public = keygen(tmp_path, "one", "--json")
    assert json.loads(capsys.readouterr().out) == {
        "id": key_id(public_key_from(public)), "private": str(private), "public": str(public)
    }  # fmt: skip
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert raw_public(private_key_from(private, None)) == public_key_from(public)
    before = private.read_bytes()
    for missing in (private, public):
        kept = missing.read_bytes()
        missing.unlink()
        assert run("keygen", "--out", tmp_path / "keys" / "one") == 6
        assert "already exists" in capsys.readouterr().err
        missing.write_bytes(kept)
    assert private.read_bytes() == before
    assert sorted(path.name for path in private.parent.iterdir()) == ["one.key", "one.pub"]


def test_a_key_with_a_passphrase(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SECRET", "long and hard to guess")
    private, _ = keygen(tmp_path, "one", "--passphrase-env", "SECRET")
    plain, _ = keygen(tmp_path, "two")
    assert b"ENCRYPTED" in private.read_bytes()
    capsys.readouterr()
    for words, told in (
        (["--key", private], "no passphrase"),
        (["--key", private, "--passphrase-env", "OTHER"], "holds no private key that can be used"),
        (["--key", plain, "--passphrase-env", "SECRET"], "found: a passphrase"),
        (["--key", private, "--passphrase-env", "UNSET"], "variable UNSET holds no passphrase"),
    ):
        monkeypatch.setenv("OTHER", "wrong")
        assert run("sign", bundle, *words) == 2
        error = capsys.readouterr().err
        assert told in error and "hard to guess" not in error
    assert not (bundle / ENVELOPE).exists()
    assert run("sign", bundle, "--key", private, "--passphrase-env", "SECRET") == 0


def test_a_key_from_an_environment_variable(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    private, public = keygen(tmp_path, "one")
    monkeypatch.setenv("RELEASE_KEY", private.read_text())
    capsys.readouterr()
    assert run("sign", bundle, "--key-env", "RELEASE_KEY", "--json") == 0
    assert json.loads(capsys.readouterr().out)["keys"] == [key_id(public_key_from(public))]
    monkeypatch.setenv("RELEASE_KEY", "secret words that are no key")
    assert run("sign", bundle, "--key-env", "RELEASE_KEY") == 2
    error = capsys.readouterr().err
    assert "the variable RELEASE_KEY holds no private key" in error and "secret words" not in error


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["sign", "BUNDLE"], "no key was given"),
        (["sign", "BUNDLE", "--key", "nothing.key"], "nothing.key can't be read"),
        (["sign", "BUNDLE", "--key", "PUB"], "holds no private key"),
        (["sign", "BUNDLE", "--key", "RSA"], "holds no private key"),
        (["keygen", "--out", "/"], "no name"),
        (["verify", "BUNDLE", "--trust", "nothing.json"], "there is no trust file"),
        (["trust", "add", "trust.json", "--key", "BUNDLE/manifest.json"], "holds no public key"),
        (["trust", "add", "trust.json", "--key", "PUB", "--threshold", "2"], "threshold 2, 1 keys"),
        (["trust", "show", "trust.json"], "there is no trust file"),
    ],
)
def test_what_can_t_be_done_is_said(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    from cryptography.hazmat.primitives import serialization as forms
    from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

    _, public = keygen(tmp_path, "one")
    rsa = generate_private_key(65537, 1024)
    (tmp_path / "rsa.key").write_bytes(
        rsa.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption())
    )
    places = {"BUNDLE": str(bundle), "PUB": str(public), "RSA": str(tmp_path / "rsa.key")}
    capsys.readouterr()
    assert run(*(word.replace("BUNDLE", str(bundle)) if "/" in word else places.get(word, word) for word in words)) == 2
    error = capsys.readouterr().err
    assert told in error and "Traceback" not in error
    assert not Path("trust.json").exists()


def test_a_bundle_that_changed_is_not_signed(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    signed(bundle, 1)
    value = json.loads((bundle / MANIFEST).read_text())
    value["release"] = 2
    (bundle / MANIFEST).write_text(canonical_json(value))
    envelope = (bundle / ENVELOPE).read_bytes()
    with pytest.raises(Exception, match="signs another manifest"):
        signed(bundle, 1)
    assert (bundle / ENVELOPE).read_bytes() == envelope


def test_a_smaller_release_is_refused(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("verify", signed(bundle, 1), "--trust", trust_file(tmp_path / "trust.json", 1), "--minimum-release")
    assert run(*words, 1) == 0
    assert run(*words, 2) == 3
    assert "older release" in capsys.readouterr().err


def test_revoking_a_key(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, gone = trust_file(tmp_path / "trust.json", 1, 2), key_id(raw_public(key(1)))
    signed(bundle, 1)
    for wrong in (gone[:7], "0" * 64, ""):
        assert run("trust", "revoke", file, wrong, "--reason", "lost") == 2
        assert "names no key" in capsys.readouterr().err
    assert run("trust", "revoke", file, gone[:8], "--reason", "lost on a train") == 0
    assert run("verify", bundle, "--trust", file) == 3
    assert "is revoked: lost on a train" in capsys.readouterr().err
    assert run("trust", "show", file) == 0
    assert "is revoked: lost on a train" in capsys.readouterr().out
    signed(bundle, 2)
    assert run("verify", bundle, "--trust", file) == 0
    (tmp_path / "one.pub").write_bytes(pem(1))
    assert run("trust", "add", file, "--key", tmp_path / "one.pub") == 2
    assert "does not come back" in capsys.readouterr().err


def pem(number: int) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key(number).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def test_the_trust_file_is_shown_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = trust_file(tmp_path / "trust.json", 1, 2)
    assert run("trust", "show", file, "--json") == 0
    assert capsys.readouterr().out == file.read_text()
    assert Trust.read(file).threshold == 1


def test_a_killed_signing_leaves_the_envelope_as_it_was(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signed(bundle, 1)
    before = (bundle / ENVELOPE).read_bytes()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        signed(bundle, 2)
    assert (bundle / ENVELOPE).read_bytes() == before
    assert open_bundle(bundle, trust(1)).signed
    envelope = Envelope.read(bundle / ENVELOPE)
    assert envelope is not None and len(envelope.signatures) == 1
