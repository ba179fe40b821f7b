"""Signing a bundle: an Ed25519 signature over a statement about its manifest, in `manifest.dsse.json` beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from engine_builder.keys import raw_public
from jetson_runtime.bundle import Bundle, open_bundle
from jetson_runtime.dsse import Envelope, statement
from jetson_runtime.files import storage_errors, write_json
from jetson_runtime.manifest import ENVELOPE, MANIFEST
from jetson_runtime.tree import remove_leftovers
from jetson_runtime.trust import key_id

__all__ = ["sign_bundle"]


def sign_bundle(path: Path, keys: Sequence[Ed25519PrivateKey]) -> Bundle:
    """Check every byte of a bundle and sign it, or add signatures to the ones it has; the envelope is replaced whole.

    Raises:
        BundleError, DigestError: see `open_bundle`. SignatureError: it has an envelope about something else.
    """
    bundle = open_bundle(path)
    if not bundle.signed:
        with storage_errors(path):
            remove_leftovers(path, bundle.manifest.files)
    before = Envelope.read(path / ENVELOPE)
    payload = statement(bundle.manifest, (path / MANIFEST).read_bytes())
    unsigned = Envelope(payload, {})
    made = {key_id(raw_public(key)): key.sign(unsigned.signed_bytes) for key in keys}
    signatures = {**(before.signatures if before is not None else {}), **made}
    write_json(path / ENVELOPE, Envelope(payload, signatures).to_dict())
    return open_bundle(path)
