"""A read-only table of figures; what is missing says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableWidget, QTableWidgetItem

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["fill", "table_widget"]

_ROW_HEIGHT = 22


def table_widget(columns: Sequence[str]) -> QTableWidget:
    """Return an empty table with these columns."""
    table = QTableWidget(0, len(columns))
    table.setHorizontalHeaderLabels(list(columns))
    table.verticalHeader().setVisible(False)
    table.verticalHeader().setDefaultSectionSize(_ROW_HEIGHT)
    table.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
    table.horizontalHeader().setSectionResizeMode(0, QHeaderView.ResizeMode.ResizeToContents)
    table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
    table.setMaximumHeight(2 * _ROW_HEIGHT)
    return table


def fill(table: QTableWidget, rows: Sequence[Sequence[str | float | None]]) -> None:
    """Replace the rows; numbers get three significant decimals, None becomes a dash."""
    table.setRowCount(len(rows))
    for r, row in enumerate(rows):
        for c, value in enumerate(row):
            item = QTableWidgetItem(_text(value))
            if c:
                item.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
            table.setItem(r, c, item)
    height = table.horizontalHeader().sizeHint().height() + _ROW_HEIGHT * len(rows) + 4
    table.setMinimumHeight(height)
    table.setMaximumHeight(height)


def _text(value: str | float | None) -> str:
    if value is None:
        return "n/a"
    return value if isinstance(value, str) else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
