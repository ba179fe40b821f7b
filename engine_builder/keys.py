"""Ed25519 keys: made, kept as PEM files, read from a file or an environment variable; never from the command line."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from jetson_runtime.errors import ConfigError, StorageError
from jetson_runtime.files import storage_errors
from jetson_runtime.trust import key_id

__all__ = ["private_key", "private_key_from", "public_key_from", "raw_public", "variable", "write_pair"]

_REMEDY = "make one with 'engine-build keygen'"


def raw_public(key: Ed25519PrivateKey | Ed25519PublicKey) -> bytes:
    """The 32 bytes of a key's public half."""
    public = key.public_key() if isinstance(key, Ed25519PrivateKey) else key
    return public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def write_pair(stem: Path, passphrase: bytes | None) -> str:
    """Make a key pair: `STEM.key` (PKCS 8, readable by its owner alone) and `STEM.pub`; returns the key's id.

    Raises:
        ConfigError: no name. StorageError: one of the two is already there, or the place is not writable.
    """
    if not stem.name:
        raise ConfigError("the key pair has no name", found=stem, expected="DIR/NAME")
    key = Ed25519PrivateKey.generate()
    cipher: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        cipher = serialization.BestAvailableEncryption(passphrase)
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, cipher)
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    places = {stem.with_name(f"{stem.name}.key"): (secret, 0o600), stem.with_name(f"{stem.name}.pub"): (public, 0o644)}
    for place in places:
        if place.exists() or place.is_symlink():
            raise StorageError(
                f"{place} already exists", expected="a name that no key has yet", remedy="choose another"
            )
    for place, (text, mode) in places.items():
        _write_new(place, text, mode)
    return key_id(raw_public(key))


def _write_new(place: Path, text: bytes, mode: int) -> None:
    """Write a file of that mode beside its place and link it there, so that it is whole and replaces nothing."""
    partial = place.with_name(f".{place.name}.partial")
    with storage_errors(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)
        try:
            with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            place.hardlink_to(partial)
        except FileExistsError:
            raise _exists(place) from None
        finally:
            partial.unlink(missing_ok=True)


def _exists(place: Path) -> StorageError:
    return StorageError(f"{place} already exists", expected="a name that no key has yet", remedy="choose another")


def variable(name: str, what: str, environment: Mapping[str, str] | None = None) -> bytes:
    """The value of an environment variable that holds a secret.

    Raises:
        ConfigError: it is not set or empty.
    """
    value = (os.environ if environment is None else environment).get(name, "")
    if not value:
        raise ConfigError(
            f"the environment variable {name} holds no {what}",
            found="nothing",
            expected=f"the {what} itself",
            remedy=f"set {name}; the option takes the variable's name, never the {what}",
        )
    return value.encode()


def private_key_from(path: Path, passphrase: bytes | None) -> Ed25519PrivateKey:
    """The private key in a PEM file.

    Raises:
        ConfigError: not there, or not an Ed25519 key that this passphrase opens.
    """
    return private_key(_bytes(path), str(path), passphrase)


def private_key(pem: bytes, where: str, passphrase: bytes | None) -> Ed25519PrivateKey:
    """The private key in a PEM text; messages name `where` and never show the text.

    Raises:
        ConfigError: not an Ed25519 key that this passphrase opens.
    """
    try:
        key = serialization.load_pem_private_key(pem, passphrase)
    except TypeError:  # a passphrase is missing, or there is one too many
        found, expected = "a passphrase", "none: the key is not encrypted"
        if passphrase is None:
            found, expected = "no passphrase", "the passphrase that the key is encrypted with"
        raise ConfigError(
            f"the key in {where} can't be opened", found=found, expected=expected, remedy="see --passphrase-env"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(
            f"{where} holds no private key that can be used",
            found="no key, another kind of key, or one that the passphrase does not open",
            expected="an Ed25519 key in PEM (PKCS 8)",
            remedy=_REMEDY,
        )
    return key


def public_key_from(path: Path) -> bytes:
    """The raw public key in a PEM file.

    Raises:
        ConfigError: not there, or no public Ed25519 key.
    """
    try:
        key = serialization.load_pem_public_key(_bytes(path))
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(
            f"{path} holds no public key that can be used",
            expected="an Ed25519 public key in PEM, the NAME.pub of a pair",
            remedy=_REMEDY,
        )
    return raw_public(key)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} can't be read", found=error.strerror, remedy="check the path") from None
