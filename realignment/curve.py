"""A training curve as CSV, written row by row, so that it can be watched while the training runs."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from jetson_runtime.files import storage_errors

__all__ = ["Curve"]


class Curve:
    """Rows by step; the first column is the step. A new curve replaces the file."""

    def __init__(self, file: Path, columns: Sequence[str]) -> None:
        self.file, self._columns = file, list(columns)

    def add(self, row: Mapping[str, str]) -> None:
        """Append a row; columns that it lacks stay empty."""
        fresh = row[self._columns[0]] == "1" or not self.file.is_file()
        self._write([row], "w" if fresh else "a")

    def cut(self, step: int) -> None:
        """Drop the rows after `step`: a training that goes on from there writes them again."""
        if self.file.is_file():
            with self.file.open(newline="", encoding="utf-8") as file:
                rows = [row for row in csv.DictReader(file) if int(row[self._columns[0]]) <= step]
            self._write(rows, "w")

    def _write(self, rows: Sequence[Mapping[str, str]], mode: str) -> None:
        with storage_errors(self.file), self.file.open(mode, newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns, restval="")
            if mode == "w":
                writer.writeheader()
            writer.writerows(rows)
