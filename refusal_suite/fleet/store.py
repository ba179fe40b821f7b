"""Where units are kept: `units/KEY.json`, each whole or not there, each checked against its own key when it is read."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from jetson_runtime.errors import InputError, StorageError
from jetson_runtime.files import canonical_json, storage_errors, write_json
from refusal_suite.fleet.unit import Part, Unit, digest

__all__ = ["Entry", "UnitStore", "locked"]

SCHEMA = "holdfast/sweep-unit/1"

Entry: TypeAlias = Mapping[str, Any]


class UnitStore:
    """The units of a directory, found by what they answer; `damaged` names the files that are not what they say."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.damaged: list[str] = []
        self._entries: dict[str, dict[Part, Entry]] = {}
        for path in sorted(folder.glob("*.json")):
            read = _read(path)
            if read is None:
                self.damaged.append(path.name)
            else:
                self._add(*read, path.name)

    def known(self, unit: Unit) -> dict[Part, Entry]:
        """The answers, by prompt, that are kept on the unit's basis for its prompt set; other prompts' too."""
        return self._entries.get(unit.group, {})

    def keep(self, unit: Unit, entries: Sequence[Entry]) -> None:
        """Write a unit's answers, one per prompt in the unit's order.

        Raises:
            StorageError: the disk is full or not writable.
        """
        write_json(self.folder / f"{unit.key}.json", _document(unit, entries))
        self._add(unit, entries, f"{unit.key}.json")

    def _add(self, unit: Unit, entries: Sequence[Entry], name: str) -> None:
        group = self._entries.setdefault(unit.group, {})
        for part, entry in zip(unit.parts, entries, strict=True):
            if group.setdefault(part, entry) != entry:
                raise InputError(
                    f"two units in {self.folder} give different answers to prompt '{part.id}'",
                    found=f"{name}, and another unit on the same engines",
                    expected="the same answer: nothing that decides it differs",
                    remedy="find out which machine answers otherwise, and remove its units",
                )


def _document(unit: Unit, entries: Sequence[Entry]) -> dict[str, Any]:
    return {"schema": SCHEMA, "unit": unit.to_dict(), "items": list(entries), "items_sha256": digest(list(entries))}


def _read(path: Path) -> tuple[Unit, list[Entry]] | None:
    """The unit in a file; None if the file is not, byte for byte, what `UnitStore.keep` wrote under this name."""
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text)
        unit, entries = Unit.from_dict(value["unit"]), value["items"]
        whole = (
            f"{unit.key}.json" == path.name
            and canonical_json(_document(unit, entries)) == text
            and [entry["id"] for entry in entries] == [part.id for part in unit.parts]
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return (unit, entries) if whole else None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep `folder` to this process; the lock ends with it, however it ends.

    Raises:
        StorageError: another process holds it, or the place can't be written.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StorageError(
                f"{folder} is in use",
                found="another sweep that writes there",
                remedy="wait for it, or choose another --out",
            ) from None
        yield
