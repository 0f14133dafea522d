"""A form from a pydantic model: titles, help, bounds and defaults come from its fields."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MultipleOf
from pydantic import BaseModel
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QComboBox, QDoubleSpinBox, QFormLayout, QSpinBox, QWidget

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic.fields import FieldInfo

__all__ = ["Form"]

_WIDE = 2**31 - 1
_DECIMALS = 6


class Form(QWidget):
    """One control a field; `value()` returns a validated model.

    Parameters
    ----------
    model
        Class of the configuration: its fields are `int`, `float`, `bool`, `Literal`, or another configuration,
        whose form lies inside this one.
    fields
        Names to show, in order; the others keep their defaults. All of them if left out.
    words
        Of a `Literal`, by field and choice: what to show instead of the choice itself.

    Signals
    -------
    changed
        A control was set, by the user or by `set`.
    """

    changed = Signal()

    def __init__(
        self,
        model: type[BaseModel],
        fields: tuple[str, ...] | None = None,
        words: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        super().__init__()
        self._model = model
        self._controls: dict[str, QWidget] = {}
        self._rows = QFormLayout(self)
        self._rows.setContentsMargins(0, 0, 0, 0)
        for name in fields or tuple(model.model_fields):
            info = model.model_fields[name]
            control = _control(info, (words or {}).get(name, {}))
            control.setToolTip(info.description or "")
            self._controls[name] = control
            _signal(control).connect(self._heard)
            if isinstance(control, Form):
                self._rows.addRow(control)
            else:
                self._rows.addRow(info.title or name, control)

    def value(self) -> Any:
        """Return the configuration as the controls have it."""
        return self._model(**self.values())

    def values(self) -> dict[str, Any]:
        """Return what the controls have, by field."""
        return {name: _read(control) for name, control in self._controls.items()}

    def set(self, name: str, value: Any) -> None:
        """Set one control."""
        control = self._controls[name]
        match control:
            case QComboBox():
                control.setCurrentIndex(control.findData(str(value)))
            case QCheckBox():
                control.setChecked(value)
            case Form():
                for field, part in value.model_dump().items():
                    control.set(field, part)
            case _:
                control.setValue(value)

    def show_field(self, name: str, wanted: bool) -> None:
        """Show or hide the row of a field."""
        self._rows.setRowVisible(self._controls[name], wanted)

    def _heard(self, *_value: Any) -> None:
        self.changed.emit()


class _Whole(QSpinBox):
    """Whole numbers, multiples of a step: what is typed between two becomes the nearer one."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.setSingleStep(step)
        self.setKeyboardTracking(False)
        self.editingFinished.connect(lambda: self.setValue(self.value()))

    def value(self) -> int:
        step = self.singleStep()
        return int(round(super().value() / step) * step)


class _Number(QDoubleSpinBox):
    """Numbers without the zeros at their end."""

    def textFromValue(self, value: float) -> str:  # noqa: N802  Qt's name
        """Return as few digits as there are."""
        written = self.locale().toString(value, "f", _DECIMALS)
        return str(written).rstrip("0").rstrip(str(self.locale().decimalPoint()))


def _control(info: FieldInfo, words: Mapping[str, str]) -> QWidget:
    kind = info.annotation
    default = info.get_default(call_default_factory=True, validated_data={})
    if get_origin(kind) is Literal:
        return _combo(get_args(kind), default, words)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return Form(kind)
    if kind is bool:
        box = QCheckBox()
        box.setChecked(default)
        return box
    limits = _limits(info)
    if kind is int:
        spin = _Whole(int(limits[2] or 1))
        spin.setRange(max(int(limits[0]), -_WIDE), min(int(limits[1]), _WIDE))
        spin.setValue(default)
        return spin
    if kind is float:
        double = _Number()
        double.setDecimals(_DECIMALS)
        double.setRange(*limits[:2])
        double.setSingleStep(default / 2 or 0.1)
        double.setValue(default)
        return double
    msg = f"found a field of type {kind}, expected int, float, bool, Literal or a configuration"
    raise TypeError(msg)


def _combo(choices: tuple[Any, ...], default: Any, words: Mapping[str, str]) -> QComboBox:
    box = QComboBox()
    for choice in map(str, choices):
        box.addItem(words.get(choice, choice), choice)
    box.setCurrentIndex(box.findData(str(default)))
    return box


def _limits(info: FieldInfo) -> tuple[float, float, float | None]:
    """Return the lowest and the highest value of a field, and what it must be a multiple of."""
    low, high, step = float(-_WIDE), float(_WIDE), None
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
            case MultipleOf():
                step = float(limit.multiple_of)  # type: ignore[arg-type]
    return low, high, step


def _signal(control: QWidget) -> Any:
    match control:
        case QComboBox():
            return control.currentIndexChanged
        case QCheckBox():
            return control.toggled
        case Form():
            return control.changed
        case _:
            return control.valueChanged


def _read(control: QWidget) -> Any:
    match control:
        case QComboBox():
            return control.currentData()
        case QCheckBox():
            return control.isChecked()
        case _:
            return control.value()
