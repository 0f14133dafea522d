"""A choice of a few, all of them in sight."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QButtonGroup, QRadioButton, QVBoxLayout, QWidget

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Radios"]


class Radios(QWidget):
    """Radio buttons below one another.

    Parameters
    ----------
    words
        What to show for each choice.

    Signals
    -------
    changed
        Another one was chosen.
    """

    changed = Signal()

    def __init__(self, words: Mapping[str, str]) -> None:
        super().__init__()
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(1)
        self._group = QButtonGroup(self)
        self._buttons = {choice: QRadioButton(text) for choice, text in words.items()}
        for made in self._buttons.values():
            self._group.addButton(made)
            column.addWidget(made)
        next(iter(self._buttons.values())).setChecked(True)
        self._group.buttonClicked.connect(lambda _button: self.changed.emit())

    def value(self) -> str:
        """Return the choice."""
        return next(choice for choice, made in self._buttons.items() if made.isChecked())

    def set(self, choice: str) -> None:
        """Choose."""
        self._buttons[choice].setChecked(True)
        self.changed.emit()
