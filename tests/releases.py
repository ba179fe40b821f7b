"""Releases of one bundle: the same engines under another release number, signed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from signing import signed

from jetson_runtime.bundle import open_bundle, seal

__all__ = ["release"]


def release(
    bundle: Path, out: Path, number: int, *keys: int, change: Callable[[Path], None] | None = None, **fields: Any
) -> Path:
    """Copy `bundle` to `out` as release `number`, changed and with other manifest fields, signed by the keys given."""
    shutil.copytree(bundle, out)
    if change is not None:
        change(out)
    manifest = open_bundle(bundle).manifest
    kept = {name: value for name, value in vars(manifest).items() if name != "files"}
    seal(out, **{**kept, "release": number, **fields})
    return signed(out, *keys) if keys else out
