"""Files that are either whole or not there: digests, deterministic JSON, staged directories.

Whatever is renamed into its place was flushed to the disk before, and its directory is flushed after: the order on the
disk is the order in the program, so a power loss leaves the old or the new and never a mixture (Pillai et al., "All
File Systems Are Not Created Equal", OSDI 2014, lists what goes wrong without).
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any

from jetson_runtime.errors import InputError, StorageError

__all__ = [
    "canonical_json",
    "copy_file",
    "discard_directory",
    "make_directory",
    "open_regular",
    "read_json",
    "sha256_file",
    "sha256_of",
    "staged_directory",
    "storage_errors",
    "sync_directory",
    "write_json",
    "write_text",
]

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
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
    """Write deterministic JSON as `write_text` writes."""
    write_text(path, canonical_json(value))


def write_text(path: Path, text: str, *, errors: str = "strict") -> None:
    """Write UTF-8 beside `path` and rename it into place: readers see the old file or the new one.

    `errors` is that of `str.encode`; line ends stay as they are.

    Raises:
        StorageError: the disk is full or the place not writable.
    """
    partial = path.with_name(f".{path.name}.partial")
    with storage_errors(path):
        make_directory(path.parent)
        try:
            with partial.open("w", encoding="utf-8", errors=errors, newline="") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
            sync_directory(path.parent)
        finally:
            partial.unlink(missing_ok=True)


def copy_file(source: Path, destination: Path) -> None:
    """Copy a file's bytes onto the disk, and out of the page cache: whoever reads the copy reads what the disk holds.

    Raises:
        OSError: one of them can't be opened, read or written.
    """
    with open_regular(source) as file, destination.open("xb") as copy:
        while piece := file.read(_PIECE_BYTES):
            copy.write(piece)
        copy.flush()
        os.fsync(copy.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(copy.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def sync_directory(path: Path) -> None:
    """Flush a directory: the names in it, and what was renamed into it, outlast a power loss."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Make a directory and its parents, each flushed into the one above; one that is there already is no error."""
    if not path.is_dir():
        make_directory(path.parent)
        path.mkdir(exist_ok=True)
        sync_directory(path.parent)


def discard_directory(path: Path) -> None:
    """Remove a directory that may be missing; its name goes first and at once, so no half of it is found there."""
    partial = path.with_name(f".{path.name}.partial")
    _remove(partial)
    if os.path.lexists(path):
        path.rename(partial)
        sync_directory(path.parent)
        _remove(partial)


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
    """Build a directory beside its place and move it into it in one step, so that `final` is old, new or absent.

    A run that is killed leaves only `.NAME.partial`, which the next run removes. Where the file system can't exchange
    two directories (NFS), what is replaced is `.NAME.old` for a moment; a run that is killed in it leaves nothing at
    `final`, and the next run puts the old directory back before it does anything else.

    Raises:
        StorageError: `final` exists and `replace` is False, or the disk is full or not writable.
    """
    final = final.absolute()
    partial, old = (final.with_name(f".{final.name}.{suffix}") for suffix in ("partial", "old"))
    with storage_errors(final):
        _settle(final, partial, old)
        if os.path.lexists(final) and not replace:
            raise StorageError(
                f"{final} already exists",
                expected="a path where nothing lies yet",
                remedy="choose another, or add --force",
            )
        make_directory(partial)
        try:
            yield partial
            _sync_tree(partial)
            _move_into_place(partial, final, old)
        finally:
            with suppress(OSError):  # what can't be removed now is removed by the next run
                _settle(final, partial, old)


def _settle(final: Path, partial: Path, old: Path) -> None:
    """After a run, finished or not: `old` goes back if nothing came in its place, and leftovers go.

    `partial` is never worth anything and `old` is always whole: that is why `old` is not deleted under its own name.
    """
    _remove(partial)
    if os.path.lexists(old):
        old.rename(partial if os.path.lexists(final) else final)
        sync_directory(final.parent)
        _remove(partial)


def _move_into_place(partial: Path, final: Path, old: Path) -> None:
    if not os.path.lexists(final):
        partial.rename(final)
    elif not _exchange(partial, final):
        final.rename(old)
        sync_directory(final.parent)
        partial.rename(final)
    sync_directory(final.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Let two paths change places in one step (Linux, renameat2(2)); False where the file system can't."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    done: int = renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), ctypes.c_uint(_RENAME_EXCHANGE))
    return done == 0


def _sync_tree(folder: Path) -> None:
    """Flush every file below `folder`, and every directory after what is in it."""
    for parent, _, names in os.walk(folder, topdown=False):
        for path in (Path(parent, name) for name in names):
            if not path.is_symlink():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        sync_directory(Path(parent))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
