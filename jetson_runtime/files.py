"""Files that are either whole or not there: digests, deterministic JSON, staged directories."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

from jetson_runtime.errors import InputError, StorageError

__all__ = [
    "canonical_json",
    "open_regular",
    "read_json",
    "sha256_file",
    "sha256_of",
    "staged_directory",
    "storage_errors",
    "write_json",
]

_PIECE_BYTES = 1 << 18  # as large as a core's second cache still holds beside the rest


def open_regular(path: Path) -> FileIO:
    """A regular file, to be read: never waits for a pipe or a device, never follows a link at `path` itself.

    Raises:
        OSError: it can't be opened. ValueError: it is something else than a regular file; the text says what.
    """
    if path.is_symlink():
        raise ValueError("a symbolic link")
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError("no regular file")
    return FileIO(descriptor)


def sha256_file(path: Path) -> str:
    """The hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb", buffering=0) as file:
        return sha256_of(file)


def sha256_of(file: FileIO) -> str:
    """The hexadecimal SHA-256 of what an unbuffered file still holds, read in pieces into one buffer."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_PIECE_BYTES))
    while count := file.readinto(buffer):
        digest.update(buffer[:count])
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
