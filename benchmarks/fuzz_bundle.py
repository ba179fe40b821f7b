"""Coverage-guided fuzzing of everything that reads what an attacker may have written: manifest, envelope, trust file.

`python -m benchmarks.fuzz_bundle TARGET [libFuzzer's options] [CORPUS]` runs one target until it is told to stop or
something fails: an exception that is not the reader's own, a hang, or an input that is accepted and should not be.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["jetson_runtime", "json", "base64"]):
    from jetson_runtime.bundle import check_manifest
    from jetson_runtime.dsse import Envelope, statement
    from jetson_runtime.errors import BundleError, ConfigError, HoldfastError
    from jetson_runtime.files import canonical_json
    from jetson_runtime.manifest import Manifest
    from jetson_runtime.trust import Trust, TrustedKey, read_time

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from engine_builder.keys import raw_public

_PLACE = Path("bundle")
_NOW = read_time("2026-06-01T00:00:00Z")
_KEY, _OTHER_KEY = (Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (1, 2))


def _manifest() -> bytes:
    """The smallest manifest that holds together."""
    digest = "0" * 64
    engines = [("vision.01-02", "segment", "vision", 1, 2), ("projector", "head", "vision", 0, 0),
               ("embedding", "embedding", "decoder", 0, 0), ("decoder.01-02", "segment", "decoder", 1, 2),
               ("lm_head", "head", "decoder", 0, 0)]  # fmt: skip
    spec = {"name": "hidden", "dtype": "float32", "shape": [1, "S", 8]}
    sizes = dict.fromkeys(
        ("vision_layers", "decoder_layers", "image_size", "image_tokens", "vision_tokens", "vision_width",
         "decoder_width", "vocabulary", "kv_heads", "head_dim", "kv_capacity", "image_token_id"), 2
    )  # fmt: skip
    value = {
        "schema": "holdfast/bundle/1",
        "kind": "portable",
        "release": 3,
        "precision": "fp32",
        "model": {**sizes, "id": "m", "version": "", "vision_family": "", "decoder_family": "", "stop_token_ids": [2]},
        "target": {"name": "cpu"},
        "ladder": [{"name": "d1", "vision": 2, "decoder": 2}],
        "engines": [
            {"name": name, "role": role, "tower": tower, "first": first, "last": last, "path": "e.onnx",
             "inputs": [spec], "outputs": [], "shared": ["table"] if role == "embedding" else []}
            for name, role, tower, first, last in engines
        ],
        "shared": [{"name": "table", "path": "e.weights", "dtype": "float32", "shape": [2, 2]}],
        "files": {
            "e.onnx": {"role": "engine", "size_bytes": 1, "sha256": digest},
            "e.weights": {"role": "weights", "size_bytes": 1, "sha256": digest},
        },
        "provenance": {},
        "admissions": {},
    }  # fmt: skip
    return canonical_json(value).encode()


@dataclass(frozen=True)
class Genuine:
    """The only manifest and envelope that may be accepted, and the trust that accepts them."""

    manifest: bytes
    payload: bytes
    envelope: Envelope
    trust: Trust

    @classmethod
    def make(cls) -> Genuine:
        """Signed by the trusted key."""
        manifest = _manifest()
        payload = statement(Manifest.from_dict(json.loads(manifest), "seed"), manifest)
        trust = Trust((TrustedKey(raw_public(_KEY), "one"),))
        return cls(manifest, payload, signed(payload, _KEY), trust)

    def accepts(self, text: bytes, envelope: Envelope | None) -> bool:
        """Whether a manifest with that envelope would be opened."""
        try:
            check_manifest(_PLACE, text, envelope, self.trust, _NOW)
        except BundleError:
            return False
        return True


def signed(payload: bytes, key: Ed25519PrivateKey) -> Envelope:
    """An envelope that names the trusted key, whichever key made the signature."""
    [trusted] = Trust((TrustedKey(raw_public(_KEY)),)).keys
    return Envelope(payload, {trusted.id: key.sign(Envelope(payload, {}).signed_bytes)})


def spellings(data: bytes) -> Iterator[bytes]:
    """The input as it is, and, if it is JSON at all, in the canonical form, so that the reader gets beyond that."""
    yield data
    try:
        text = canonical_json(json.loads(data)).encode()
    except (ValueError, RecursionError):
        return
    if text != data:
        yield text


def fuzz_manifest(genuine: Genuine, data: bytes) -> None:
    """Any bytes as a manifest: alone, under the genuine envelope, and signed by the trusted key."""
    for text in spellings(data):
        try:
            manifest, _ = check_manifest(_PLACE, text, None, None, _NOW)
        except BundleError:
            continue
        if canonical_json(manifest.to_dict()).encode() != text:
            raise RuntimeError("a manifest with a second meaning was accepted")
        if genuine.accepts(text, None) or (genuine.accepts(text, genuine.envelope) and text != genuine.manifest):
            raise RuntimeError("a manifest without its signature was accepted")
        if genuine.accepts(text, signed(statement(manifest, text), _OTHER_KEY)):
            raise RuntimeError("a manifest signed by a foreign key was accepted")


def fuzz_envelope(genuine: Genuine, data: bytes) -> None:
    """Any bytes as an envelope, and as a payload: under the genuine signature, and signed by the trusted key."""
    for text in spellings(data):
        try:
            read = Envelope.from_bytes(text, "envelope")
        except BundleError:
            read = None
        if read is not None:
            if canonical_json(read.to_dict()).encode() != text:
                raise RuntimeError("an envelope with a second meaning was accepted")
            if genuine.accepts(genuine.manifest, read) and read.payload != genuine.payload:
                raise RuntimeError("a foreign payload was accepted")
        try:
            Envelope(text, {}).check_subject(hashlib.sha256(genuine.manifest).hexdigest(), "envelope")
        except BundleError:
            continue
        for envelope in (Envelope(text, genuine.envelope.signatures), signed(text, _KEY)):
            if genuine.accepts(genuine.manifest, envelope) and text != genuine.payload:
                raise RuntimeError("a foreign payload was accepted")


def fuzz_trust(genuine: Genuine, data: bytes) -> None:
    """Any bytes as a trust file: it accepts the genuine envelope only if it names the key that signed it."""
    for text in spellings(data):
        try:
            trust = Trust.from_bytes(text, "trust file")
        except ConfigError:
            continue
        if canonical_json(trust.to_dict()).encode() != text:
            raise RuntimeError("a trust file with a second meaning was accepted")
        try:
            signers = trust.accept(genuine.envelope, "envelope", _NOW)
        except BundleError:
            continue
        usable = {key.id for key in trust.keys if not key.revoked and (key.not_after is None or key.not_after >= _NOW)}
        if not set(signers) <= usable & {genuine.trust.keys[0].id} or len(signers) < trust.threshold:
            raise RuntimeError("a trust file accepted a signature that none of its keys made")


def edited(seed: bytes, data: bytes) -> bytes:
    """The JSON of a seed with a few nodes replaced, removed or added, as the input says; always canonical."""
    choose = atheris.FuzzedDataProvider(data)
    value = json.loads(seed)
    for _ in range(choose.ConsumeIntInRange(1, 4)):
        place = value
        while isinstance(place, (dict, list)) and place:
            keys = sorted(place) if isinstance(place, dict) else range(len(place))
            key = keys[choose.ConsumeIntInRange(0, len(keys) - 1)]
            if isinstance(place[key], (dict, list)) and place[key] and choose.ConsumeBool():
                place = place[key]
                continue
            odd = [None, True, 0, 1, -1, 2**70, 0.5, "", "a", "0" * 64, "../x", "/x", "a\0", [], {}, [1], {"a": 1}]
            new = odd[choose.ConsumeIntInRange(0, len(odd) - 1)]
            change = choose.ConsumeIntInRange(0, 4)
            if change == 0:
                del place[key]
            elif change == 1:
                place[key] = choose.ConsumeUnicodeNoSurrogates(12)
            elif change == 2 and isinstance(place, dict):
                place[choose.ConsumeUnicodeNoSurrogates(12)] = new
            elif change == 3 and isinstance(place, list):
                place.append(place[choose.ConsumeIntInRange(0, len(place) - 1)])
            else:
                place[key] = new
            break
    return canonical_json(value).encode()


def edits(
    target: Callable[[Genuine, bytes], None], seed: Callable[[Genuine], bytes]
) -> Callable[[Genuine, bytes], None]:
    """A target whose input says how its seed is edited, instead of being the text itself."""
    return lambda genuine, data: target(genuine, edited(seed(genuine), data))


TARGETS: dict[str, Callable[[Genuine, bytes], None]] = {
    "manifest": fuzz_manifest,
    "envelope": fuzz_envelope,
    "trust": fuzz_trust,
    "manifest-edits": edits(fuzz_manifest, lambda genuine: genuine.manifest),
    "envelope-edits": edits(fuzz_envelope, lambda genuine: canonical_json(genuine.envelope.to_dict()).encode()),
    "statement-edits": edits(fuzz_envelope, lambda genuine: genuine.payload),
    "trust-edits": edits(fuzz_trust, lambda genuine: canonical_json(genuine.trust.to_dict()).encode()),
}


def seeds(target: str) -> list[bytes]:
    """What a target's corpus begins with."""
    if target.endswith("-edits"):
        return [bytes(32), bytes(range(32))]
    genuine = Genuine.make()
    keys = (TrustedKey(raw_public(_KEY), "one", _NOW), TrustedKey(raw_public(_OTHER_KEY), "two", None, True, "lost"))
    files = {
        "manifest": [genuine.manifest],
        "envelope": [canonical_json(genuine.envelope.to_dict()).encode(), genuine.payload],
        "trust": [canonical_json(trust.to_dict()).encode() for trust in (genuine.trust, Trust(keys, 1))],
    }
    return files[target]


def words(target: str) -> list[str]:
    """The keys and texts of the seeds: a dictionary for the fuzzer."""

    def walk(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            for key, inner in value.items():
                yield f'"{key}": '
                yield from walk(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from walk(inner)
        elif isinstance(value, str) and len(value) <= 64:
            yield f'"{value}"'

    if target.endswith("-edits"):
        return []
    found = {word for seed in seeds(target) for word in walk(json.loads(seed))}
    return sorted(
        found | {"true", "false", "null", "[]", "{}", "\n", "1e999", "NaN", "-1", '"../x"', '"/x"', "\\ud800"}
    )


def main() -> None:
    """Hand over to libFuzzer, which ends the process."""
    target = TARGETS[sys.argv[1]]
    genuine = Genuine.make()
    if not genuine.accepts(genuine.manifest, genuine.envelope):
        raise HoldfastError("the genuine bundle is not accepted, so nothing would be tested")
    atheris.Setup([sys.argv[0], *sys.argv[2:]], lambda data: target(genuine, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
