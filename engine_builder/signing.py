"""`engine-build keygen | sign | verify`: Ed25519 signatures over a statement about a bundle's manifest."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from engine_builder.bom import check_bom
from engine_builder.keys import private_key, private_key_from, raw_public, variable, write_pair
from jetson_runtime.bundle import Bundle, open_bundle
from jetson_runtime.console import Commands, subcommand
from jetson_runtime.dsse import Envelope, statement, uptane_fields
from jetson_runtime.errors import ConfigError
from jetson_runtime.files import canonical_json, storage_errors, write_json
from jetson_runtime.manifest import ENVELOPE, MANIFEST
from jetson_runtime.tree import remove_leftovers
from jetson_runtime.trust import Trust, key_id

__all__ = ["VERIFY_SCHEMA", "add_signing", "sign_bundle"]

VERIFY_SCHEMA = "holdfast/verify/1"


def sign_bundle(path: Path, keys: Sequence[Ed25519PrivateKey]) -> Bundle:
    """Check every byte of a bundle and sign it, or add signatures to the ones it has; the envelope is replaced whole.

    Raises:
        BundleError, DigestError: see `open_bundle`; or its bill of materials is of another state of the bundle.
        SignatureError: it has an envelope about something else.
    """
    bundle = open_bundle(path)
    check_bom(bundle)
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


def add_signing(commands: Commands) -> None:
    """Add `engine-build keygen`, `sign` and `verify`."""
    parser = subcommand(
        commands,
        "keygen",
        "make an Ed25519 key pair: NAME.key, readable by its owner alone, and NAME.pub",
        _keygen,
        examples="  engine-build keygen --out keys/release-2026\n"
        "  engine-build keygen --out keys/release-2026 --passphrase-env RELEASE_PASSPHRASE --json",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR/NAME", help="where the two files go")
    _add_passphrase(parser)
    parser.add_argument("--json", action="store_true", help="print the key's id and its files as JSON")
    parser = subcommand(
        commands,
        "sign",
        "check every byte of a bundle and sign it, or add a signature to the ones it has",
        _sign,
        examples="  engine-build sign build/bundle --key keys/release-2026.key\n"
        "  engine-build sign build/bundle --key-env RELEASE_KEY --passphrase-env RELEASE_PASSPHRASE --json",
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="a bundle that everything is in")
    parser.add_argument("--key", type=Path, action="append", default=[], metavar="FILE", help="a NAME.key; repeatable")
    parser.add_argument(
        "--key-env", action="append", default=[], metavar="VAR", help="a variable that holds such a key's PEM text"
    )
    _add_passphrase(parser)
    parser.add_argument("--json", action="store_true", help="print what was signed, and by which keys, as JSON")
    parser = subcommand(
        commands,
        "verify",
        "check a bundle's signatures by a trust file, and every byte of it",
        _verify,
        examples="  engine-build verify build/bundle --trust trust.json\n"
        "  engine-build verify build/bundle --trust trust.json --minimum-release 7 --json",
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="a signed bundle")
    parser.add_argument("--trust", type=Path, required=True, metavar="FILE", help="the trust file")
    parser.add_argument("--minimum-release", type=int, metavar="N", help="refuse a smaller release counter")
    parser.add_argument("--json", action="store_true", help="print digests, signers and Uptane's fields as JSON")


def _add_passphrase(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--passphrase-env", metavar="VAR", help="a variable that holds the private key's passphrase")


def _passphrase(arguments: argparse.Namespace) -> bytes | None:
    return None if arguments.passphrase_env is None else variable(arguments.passphrase_env, "passphrase")


def _keygen(arguments: argparse.Namespace) -> int:
    made = write_pair(arguments.out, _passphrase(arguments))
    private, public = (arguments.out.with_name(f"{arguments.out.name}.{suffix}") for suffix in ("key", "pub"))
    if arguments.json:
        print(canonical_json({"id": made, "private": str(private), "public": str(public)}), end="")
    else:
        print(f"{private} and {public}: key {made}")
    return 0


def _sign(arguments: argparse.Namespace) -> int:
    passphrase = _passphrase(arguments)
    keys = [private_key_from(path, passphrase) for path in arguments.key]
    for name in arguments.key_env:
        keys.append(private_key(variable(name, "private key"), f"the variable {name}", passphrase))
    if not keys:
        raise ConfigError(
            "no key was given", expected="--key FILE or --key-env VAR", remedy="see 'engine-build keygen'"
        )
    bundle = sign_bundle(arguments.bundle, keys)
    signed = {**_facts(bundle), "keys": sorted(key_id(raw_public(key)) for key in keys)}
    if arguments.json:
        print(canonical_json(signed), end="")
    else:
        print(f"{bundle.path}: release {bundle.manifest.release} signed by\n  " + "\n  ".join(signed["keys"]))
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    trust = Trust.read(arguments.trust)
    bundle = open_bundle(arguments.bundle, trust, minimum_release=arguments.minimum_release)
    if arguments.json:
        facts = {**_facts(bundle), "schema": VERIFY_SCHEMA, "signers": list(bundle.signers)}
        print(canonical_json(facts), end="")
        return 0
    names = {key.id: key.name for key in trust.keys}
    model = bundle.manifest.model
    print(
        f"{bundle.path}: {model.id} {model.version}, release {bundle.manifest.release}; every byte is what was signed"
    )
    for signer in bundle.signers:
        print(f"  signed by {signer} {names[signer]}".rstrip())
    return 0


def _facts(bundle: Bundle) -> dict[str, Any]:
    return {
        "bundle": str(bundle.path),
        "bundle_digest": bundle.digest,
        "engines_digest": bundle.manifest.engines_digest,
        "release": bundle.manifest.release,
        "uptane": uptane_fields(bundle.manifest, bundle.file(MANIFEST).read_bytes()),
    }
