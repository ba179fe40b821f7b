"""Keys that are the same in every run, trust files of them, signed bundles, and releases of one bundle."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from engine_builder.keys import raw_public
from engine_builder.signing import sign_bundle
from jetson_runtime.bundle import open_bundle, seal
from jetson_runtime.files import write_json
from jetson_runtime.trust import Trust, TrustedKey
from tests.admitting import verdicts

NOW = datetime(2026, 6, 1, 12, tzinfo=timezone.utc)


def key(number: int) -> Ed25519PrivateKey:
    """The key of that number."""
    return Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)


def trusted(number: int, **facts: Any) -> TrustedKey:
    """The public half of the key of that number."""
    return TrustedKey(raw_public(key(number)), f"key {number}", **facts)


def trust(*numbers: int, threshold: int = 1) -> Trust:
    """Trust in the keys of those numbers."""
    return Trust(tuple(trusted(number) for number in numbers), threshold)


def signed(bundle: Path, *numbers: int) -> Path:
    """The bundle, signed by the keys of those numbers."""
    sign_bundle(bundle, [key(number) for number in numbers])
    return bundle


def trust_file(path: Path, *numbers: int) -> Path:
    """A trust file with the keys of those numbers."""
    write_json(path, trust(*numbers).to_dict())
    return path


def release(
    bundle: Path, out: Path, number: int, *keys: int, change: Callable[[Path], None] | None = None, **fields: Any
) -> Path:
    """Copy `bundle` to `out` as release `number`, changed and with other manifest fields, signed by the keys given.

    All its depths are admitted, unless `fields` say otherwise.
    """
    shutil.copytree(bundle, out)
    if change is not None:
        change(out)
    manifest = open_bundle(bundle).manifest
    kept = {name: value for name, value in vars(manifest).items() if name != "files"}
    seal(out, **{**kept, "release": number, **fields})
    if "admissions" not in fields:
        opened = open_bundle(out)
        ladder = opened.manifest.ladder
        made = verdicts(ladder, [depth.name for depth in ladder], opened.manifest.engines_digest)
        opened.with_admissions({"depths": []}, made.to_dict())
    return signed(out, *keys) if keys else out
