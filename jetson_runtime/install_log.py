"""The install log: what happened to an install root, one line per event, only ever appended to.

Every line is one JSON object and carries the SHA-256 of the line before it, so an edit, an insertion or a removal in
the middle shows. It is evidence: whoever may write the file can write a new chain, or cut its end. A copy of `Log.head`
that is kept elsewhere pins all lines up to it.

A line that a power loss tore is recognised by its missing end; the next one to be written cuts it off and says so.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jetson_runtime.errors import StorageError
from jetson_runtime.files import storage_errors, sync_directory

__all__ = ["FIRST", "Log", "append", "read_log"]

FIRST = "0" * 64  # what the first line carries in place of a digest


@dataclass(frozen=True)
class Log:
    """A log as it lies there.

    `events` are all lines that can be read. `broken_line` is the first line (from 1) that can't be, or does not follow
    from the one before it; None if the chain holds. `head` is the digest of the last whole line, `whole_bytes` where it
    ends and `torn_bytes` what is behind it.
    """

    events: tuple[Mapping[str, Any], ...]
    broken_line: int | None
    head: str
    whole_bytes: int
    torn_bytes: int


def read_log(path: Path) -> Log:
    """Read a log and check its chain; a file that is not there is an empty log.

    Raises:
        StorageError: the file can't be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        data = b""
    except OSError as error:
        raise StorageError(f"{path} can't be read", found=error.strerror, remedy="check its permissions") from None
    *lines, torn = data.split(b"\n")
    events: list[Mapping[str, Any]] = []
    broken_line, head = None, FIRST
    for number, line in enumerate(lines, 1):
        event = _event(line)
        if event is not None:
            events.append(event)
        if event is None or event.get("previous") != head:
            broken_line = broken_line or number
        head = hashlib.sha256(line).hexdigest()
    return Log(tuple(events), broken_line, head, len(data) - len(torn), len(torn))


def _event(line: bytes) -> Mapping[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def append(path: Path, event: str, **fields: Any) -> None:
    """Append one event and flush it to the disk; a torn line is cut off first, and that is an event too.

    Raises:
        StorageError: the disk is full or not writable.
    """
    log = read_log(path)
    with storage_errors(path):
        new = not path.exists()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            head = log.head
            if log.torn_bytes:
                os.ftruncate(descriptor, log.whole_bytes)
                os.fsync(descriptor)
                head = _write(descriptor, head, "cut", {"torn_bytes": log.torn_bytes})
            _write(descriptor, head, event, fields)
        finally:
            os.close(descriptor)
        if new:
            sync_directory(path.parent)


def _write(descriptor: int, previous: str, event: str, fields: Mapping[str, Any]) -> str:
    """Write one line and flush it; returns its digest."""
    at = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    value = {**fields, "at": at, "event": event, "previous": previous}
    line = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    rest = line + b"\n"
    while rest:
        rest = rest[os.write(descriptor, rest) :]
    os.fsync(descriptor)
    return hashlib.sha256(line).hexdigest()
