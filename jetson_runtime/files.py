"""Files that are either whole or not there: digests, deterministic JSON, staged directories."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jetson_runtime.errors import InputError, StorageError

__all__ = ["canonical_json", "read_json", "sha256_file", "staged_directory", "storage_errors", "write_json"]


def sha256_file(path: Path) -> str:
    """The hexadecimal SHA-256 of a file's bytes, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            digest.update(piece)
    return digest.hexdigest()


def canonical_json(value: Any) -> str:
    """One value, one text: sorted keys, fixed indentation, a newline at the end; NaN is refused."""
    return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        InputError: the file is not there, not readable or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} can't be read", found=error.strerror, remedy="check the path") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON", found=error, remedy="run the command that wrote it again") from None


def write_json(path: Path, value: Any) -> None:
    """Write deterministic JSON beside `path` and rename it into place: readers see the old file or the new one."""
    text = canonical_json(value)
    partial = path.with_name(f".{path.name}.partial")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write into a StorageError that names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            remedy = f"free some space on the disk of {path.parent}, then run the command again; nothing was kept"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR):
            remedy = "choose a place that you may write to"
        else:
            raise
        raise StorageError(f"{path} can't be written", found=error.strerror, remedy=remedy) from error


@contextmanager
def staged_directory(final: Path, *, replace: bool = False) -> Iterator[Path]:
    """Build a directory beside its place and rename it into it, so that `final` is whole or absent.

    A run that is killed leaves only `.NAME.partial`, which the next run removes.

    Raises:
        StorageError: `final` exists and `replace` is False, or the disk is full or not writable.
    """
    final = final.absolute()
    if final.exists() and not replace:
        raise StorageError(
            f"{final} already exists", expected="a path where nothing lies yet", remedy="choose another, or add --force"
        )
    partial, old = (final.with_name(f".{final.name}.{suffix}") for suffix in ("partial", "old"))
    with storage_errors(final):
        for leftover in (partial, old):
            shutil.rmtree(leftover, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            yield partial
            if final.exists():
                final.rename(old)
            partial.rename(final)
        finally:
            for leftover in (partial, old):
                shutil.rmtree(leftover, ignore_errors=True)
