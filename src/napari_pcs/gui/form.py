"""A form from a pydantic model: titles, help, bounds and defaults come from its fields."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from qtpy.QtWidgets import QComboBox, QDoubleSpinBox, QFormLayout, QSpinBox, QWidget

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

__all__ = ["Form"]

_WIDE = 2**31 - 1
_DECIMALS = 6


class Form(QWidget):
    """One control a field; `value()` returns a validated model.

    Parameters
    ----------
    model
        Class of the configuration: its fields are `int`, `float` or `Literal`.
    fields
        Names to show, in order; the others keep their defaults.
    """

    def __init__(self, model: type[BaseModel], fields: tuple[str, ...]) -> None:
        super().__init__()
        self._model = model
        self._controls: dict[str, QWidget] = {}
        layout = QFormLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for name in fields:
            info = model.model_fields[name]
            control = _control(info)
            control.setToolTip(info.description or "")
            self._controls[name] = control
            layout.addRow(info.title or name, control)

    def value(self) -> Any:
        """Return the configuration as the controls have it."""
        return self._model(**{name: _read(control) for name, control in self._controls.items()})

    def set(self, name: str, value: Any) -> None:
        """Set one control."""
        control = self._controls[name]
        if isinstance(control, QComboBox):
            control.setCurrentText(str(value))
        else:
            control.setValue(value)


def _control(info: FieldInfo) -> QWidget:
    if get_origin(info.annotation) is Literal:
        box = QComboBox()
        box.addItems([str(choice) for choice in get_args(info.annotation)])
        box.setCurrentText(str(info.default))
        return box
    low, high = _bounds(info)
    if info.annotation is int:
        spin = QSpinBox()
        spin.setRange(max(int(low), -_WIDE), min(int(high), _WIDE))
        spin.setValue(info.default)
        return spin
    if info.annotation is float:
        double = QDoubleSpinBox()
        double.setDecimals(_DECIMALS)
        double.setRange(low, high)
        double.setSingleStep(info.default / 2 or 0.1)
        double.setValue(info.default)
        return double
    msg = f"found a field of type {info.annotation}, expected int, float or Literal"
    raise TypeError(msg)


def _bounds(info: FieldInfo) -> tuple[float, float]:
    low, high = float(-_WIDE), float(_WIDE)
    for limit in info.metadata:
        match limit:
            case Ge():
                low = float(limit.ge)  # type: ignore[arg-type]
            case Gt():
                low = float(limit.gt) + 10**-_DECIMALS  # type: ignore[arg-type]
            case Le():
                high = float(limit.le)  # type: ignore[arg-type]
            case Lt():
                high = float(limit.lt) - 10**-_DECIMALS  # type: ignore[arg-type]
    return low, high


def _read(control: QWidget) -> Any:
    return control.currentText() if isinstance(control, QComboBox) else control.value()
