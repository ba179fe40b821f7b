"""Which signatures count, and what is a trust file."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from signing import NOW, key, raw_public, signed, trust, trusted

from jetson_runtime.bundle import ENVELOPE, open_bundle
from jetson_runtime.dsse import Envelope
from jetson_runtime.errors import ConfigError, SignatureError
from jetson_runtime.files import canonical_json, write_json
from jetson_runtime.trust import Trust, TrustedKey, key_id, read_time, time_text

ID1, ID2 = (key_id(raw_public(key(number))) for number in (1, 2))


@pytest.fixture(scope="module")
def pristine(tiny_bundle: Callable[[str, str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle signed by keys 1 and 2."""
    place = tmp_path_factory.mktemp("trust") / "bundle"
    return signed(Path(shutil.copytree(tiny_bundle("dinov2-llama", "fp32"), place)), 1, 2)


@pytest.fixture
def envelope(pristine: Path) -> Envelope:
    read = Envelope.read(pristine / ENVELOPE)
    assert read is not None
    return read


def test_the_keys_that_signed_are_named(pristine: Path) -> None:
    assert open_bundle(pristine, trust(1)).signers == (ID1,)
    assert open_bundle(pristine, trust(1, 2, 3), now=NOW).signers == tuple(sorted((ID1, ID2)))
    plain = open_bundle(pristine)
    assert plain.signed and plain.signers == ()


def test_the_threshold_counts_different_keys(envelope: Envelope) -> None:
    assert set(trust(1, 2, threshold=2).accept(envelope, "there", NOW)) == {ID1, ID2}
    alone = Envelope(envelope.payload, {ID1: envelope.signatures[ID1]})
    with pytest.raises(
        SignatureError, match="found: 1 accepted\n  expected: signatures by 2 of the trust file's 2 keys"
    ):
        trust(1, 2, threshold=2).accept(alone, "there", NOW)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"revoked": True, "reason": "the build machine was stolen"}, "is revoked: the build machine was stolen"),
        ({"not_after": NOW - timedelta(seconds=1)}, "expired at 2026-06-01T11:59:59Z; it is 2026-06-01T12:00:00Z"),
    ],
)
def test_a_key_that_no_longer_counts_is_told_and_another_may_stand_in(
    envelope: Envelope, facts: dict[str, object], words: str
) -> None:
    gone = trusted(1, **facts)
    with pytest.raises(SignatureError, match=f"0 accepted; key '{ID1[:16]}' {words}; key '{ID2[:16]}' is not in"):
        Trust((gone,)).accept(envelope, "there", NOW)
    assert Trust((gone, trusted(2))).accept(envelope, "there", NOW) == (ID2,)


def test_a_key_counts_up_to_its_last_moment(envelope: Envelope) -> None:
    assert Trust((trusted(1, not_after=NOW),)).accept(envelope, "there", NOW) == (ID1,)


def test_a_key_that_is_not_in_the_file_does_not_count(envelope: Envelope) -> None:
    with pytest.raises(SignatureError, match=f"0 accepted; key '{ID1[:16]}' is not in the trust file"):
        trust(3).accept(envelope, "there", NOW)


def test_a_wrong_signature_is_refused_however_many_right_ones_there_are(envelope: Envelope) -> None:
    swapped = {**envelope.signatures, ID2: envelope.signatures[ID1]}
    with pytest.raises(SignatureError, match=f"1 accepted; key '{ID2[:16]}' did not make the signature"):
        trust(1, 2).accept(Envelope(envelope.payload, swapped), "there", NOW)
    with pytest.raises(SignatureError, match=r"0 accepted.*did not make"):
        trust(1, 2).accept(Envelope(envelope.payload + b" ", envelope.signatures), "there", NOW)


def test_a_revocations_reason_can_t_pass_for_a_wrong_signature(envelope: Envelope) -> None:
    odd = trusted(1, revoked=True, reason="did not make the signature that bears its id")
    assert Trust((odd, trusted(2))).accept(envelope, "there", NOW) == (ID2,)


def test_a_bundle_without_an_envelope_is_refused_with_trust_only(
    tiny_bundle: Callable[[str, str], Path],
) -> None:
    bundle = tiny_bundle("dinov2-llama", "fp32")
    assert not open_bundle(bundle).signed
    with pytest.raises(SignatureError, match="is not signed"):
        open_bundle(bundle, trust(1))


def test_a_trust_file_survives_the_round_trip(tmp_path: Path) -> None:
    whole = Trust(
        tuple(sorted((trusted(1, not_after=NOW), trusted(2, revoked=True, reason="lost")), key=lambda one: one.id)), 2
    )
    write_json(tmp_path / "trust.json", whole.to_dict())
    assert Trust.read(tmp_path / "trust.json") == whole
    (tmp_path / "link.json").symlink_to("trust.json")
    assert Trust.read(tmp_path / "link.json") == whole
    (tmp_path / "loop.json").symlink_to("loop.json")
    with pytest.raises(ConfigError, match=r"can't be read|no trust file"):
        Trust.read(tmp_path / "loop.json")


def damaged(change: Callable[[dict], object]) -> bytes:
    value = trust(1, 2).to_dict()
    change(value)
    return canonical_json(value).encode()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda value: value.update(schema="holdfast/trust/2"), "another schema"),
        (lambda value: value.update(threshold=True), "wrong type"),
        (lambda value: value.update(threshold=0), "threshold 0, 2 keys"),
        (lambda value: value.update(threshold=3), "threshold 3, 2 keys"),
        (lambda value: value.update(keys=[]), "threshold 1, 0 keys"),
        (lambda value: value.update(keys={}), "wrong type"),
        (lambda value: value.update(more=1), "other fields"),
        (lambda value: value["keys"].reverse(), "order of their ids"),
        (lambda value: value.update(keys=value["keys"][:1] * 2), "a key stands twice"),
        (lambda value: value["keys"].append(None), "without exactly the fields"),
        (lambda value: value["keys"][0].pop("reason"), "without exactly the fields"),
        (lambda value: value["keys"][0].update(revoked=0), "'revoked' of the wrong type"),
        (lambda value: value["keys"][0].update(public="0" * 63), "64 hexadecimal digits"),
        (lambda value: value["keys"][0].update(public=value["keys"][0]["public"].upper()), "64 hexadecimal digits"),
        (lambda value: value["keys"][0].update(id=value["keys"][1]["id"]), "of a key whose id is"),
        (lambda value: value["keys"][0].update(not_after="2027-01-01"), "does not match format"),
        (lambda value: value["keys"][0].update(not_after="2027-1-1T00:00:00Z"), "not of the form"),
    ],
)
def test_what_is_no_trust_file(change: Callable[[dict], object], words: str) -> None:
    Trust.from_bytes(damaged(lambda value: None), "there")
    with pytest.raises(ConfigError, match=words):
        Trust.from_bytes(damaged(change), "there")


def test_a_trust_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no trust file"):
        Trust.read(tmp_path / "trust.json")


def test_times_are_written_in_one_way() -> None:
    assert time_text(read_time("2027-01-31T00:00:00Z")) == "2027-01-31T00:00:00Z"


def test_a_key_s_id_is_the_digest_of_the_key() -> None:
    one = TrustedKey(bytes(32))
    assert one.id == key_id(bytes(32)) != replace(one, public=bytes(31) + b"\1").id
