"""A training curve as CSV, written row by row, so that it can be watched while the training runs."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from jetson_runtime.files import storage_errors, write_text

__all__ = ["Curve"]


class Curve:
    """Rows with a `stage` and a `step` among their columns."""

    def __init__(self, file: Path, columns: Sequence[str]) -> None:
        self.file, self._columns = file, list(columns)

    def add(self, row: Mapping[str, str]) -> None:
        """Append a row; columns that it lacks stay empty."""
        if self.file.is_file():
            with storage_errors(self.file), self.file.open("a", newline="", encoding="utf-8") as file:
                file.write(self._text([row], header=False))
        else:
            self._replace([row])

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
            self._replace([row for row in rows if row["stage"] != stage or int(row["step"]) <= step])

    def _replace(self, rows: Sequence[Mapping[str, str]]) -> None:
        # Whole or not at all: a file that was killed before its header would swallow the next run's first row.
        write_text(self.file, self._text(rows, header=True))

    def _text(self, rows: Sequence[Mapping[str, str]], *, header: bool) -> str:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self._columns, restval="")
        if header:
            writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()
