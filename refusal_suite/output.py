"""Where the commands write: places are checked before a long run."""

from __future__ import annotations

import os
from pathlib import Path

from jetson_runtime.errors import StorageError

__all__ = ["check_place"]


def check_place(path: Path | None, *, directory: bool = False) -> None:
    """Raise StorageError when nothing can be written to `path`; None is no place and always right."""
    if path is None:
        return
    if path.exists() and path.is_dir() != directory:
        raise StorageError(
            f"{path} can't be written",
            found="a directory" if path.is_dir() else "a file",
            expected="a directory" if directory else "a file",
            remedy="choose another path",
        )
    nearest = next(place for place in (path if directory else path.parent, *path.absolute().parents) if place.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise StorageError(
            f"{path} can't be written",
            found=f"no permission in {nearest}" if nearest.is_dir() else f"{nearest} is no directory",
            remedy="choose a place that you may write to",
        )
