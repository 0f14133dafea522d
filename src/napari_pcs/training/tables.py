"""Tables that grow by a row at a time, with columns that may come later."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from napari_pcs.files import append_text, write_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["GrowingTable"]


class GrowingTable:
    """A CSV file that is complete after each row; a row costs the same however long the table is.

    Parameters
    ----------
    path
        What is there already is gone on with; a last row without its end is dropped.
    after_step
        Rows whose `step` comes later are cut off; None keeps all.
    """

    def __init__(self, path: Path, *, after_step: int | None = None) -> None:
        self._path = path
        self._columns: list[str] = []
        if path.exists():
            rows = self._read()
            self._columns = list(rows[0]) if rows else []
            kept = [row for row in rows if after_step is None or int(row["step"]) <= after_step]
            self._write(kept)

    def add(self, row: Mapping[str, float | None]) -> None:
        """Append a row; None leaves a cell empty.

        Raises
        ------
        SessionError
            If the disk is full or read-only; the table is as it was.
        """
        new = [name for name in row if name not in self._columns]
        if new:
            rows = self._read()
            columns, self._columns = self._columns, [*self._columns, *new]
            try:
                self._write([*rows, {name: _text(value) for name, value in row.items()}])
            except BaseException:
                self._columns = columns
                raise
        else:
            append_text(self._path, self._line([_text(row.get(name)) for name in self._columns]))

    def _read(self) -> list[dict[str, str]]:
        if not self._path.exists():
            return []
        content = self._path.read_bytes().decode()
        return list(csv.DictReader(io.StringIO(content[: content.rfind("\n") + 1], newline="")))

    def _write(self, rows: list[dict[str, str]]) -> None:
        lines = [self._columns, *([row.get(name) or "" for name in self._columns] for row in rows)]
        write_text(self._path, "".join(self._line(line) for line in lines) if self._columns else "")

    @staticmethod
    def _line(cells: list[str]) -> str:
        stream = io.StringIO()
        csv.writer(stream, lineterminator="\n").writerow(cells)
        return stream.getvalue()


def _text(value: float | None) -> str:
    return "" if value is None else str(value) if isinstance(value, int) else f"{value:.6g}"
