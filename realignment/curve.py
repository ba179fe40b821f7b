"""A training curve as CSV, written row by row, so that it can be watched while the training runs."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from jetson_runtime.files import storage_errors

__all__ = ["Curve"]


class Curve:
    """Rows with a `stage` and a `step` among their columns."""

    def __init__(self, file: Path, columns: Sequence[str]) -> None:
        self.file, self._columns = file, list(columns)

    def add(self, row: Mapping[str, str]) -> None:
        """Append a row; columns that it lacks stay empty."""
        self._write([row], "a" if self.file.is_file() else "w")

    def rows(self) -> list[dict[str, str]]:
        """What has been written so far."""
        if not self.file.is_file():
            return []
        with self.file.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def cut(self, stage: str, step: int) -> None:
        """Drop the rows of `stage` after `step`: a training that goes on from there writes them again."""
        rows = self.rows()
        if rows:
            self._write([row for row in rows if row["stage"] != stage or int(row["step"]) <= step], "w")

    def _write(self, rows: Sequence[Mapping[str, str]], mode: str) -> None:
        with storage_errors(self.file), self.file.open(mode, newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns, restval="")
            if mode == "w":
                writer.writeheader()
            writer.writerows(rows)
