import pytest
from pydantic import BaseModel, Field

from napari_pcs.gui.form import Form
from napari_pcs.training.config import TuneConfig


def test_the_form_starts_with_the_defaults_of_the_config(qtbot):
    form = Form(TuneConfig, ("strategy", "epochs", "learning_rate", "held_out_share"))
    qtbot.addWidget(form)
    assert form.value() == TuneConfig()


def test_what_is_set_in_the_form_is_in_the_config(qtbot):
    form = Form(TuneConfig, ("epochs", "learning_rate"))
    qtbot.addWidget(form)
    form.set("epochs", 7)
    form.set("learning_rate", 0.0025)
    assert form.value() == TuneConfig(epochs=7, learning_rate=0.0025)


@pytest.mark.parametrize(
    ("name", "beyond", "limit"), [("epochs", 5000, 1000), ("epochs", -3, 1), ("learning_rate", 9.0, 0.1)]
)
def test_the_form_keeps_to_the_bounds_of_the_config(qtbot, name, beyond, limit):
    form = Form(TuneConfig, ("epochs", "learning_rate"))
    qtbot.addWidget(form)
    form.set(name, beyond)
    assert getattr(form.value(), name) == limit


def test_a_strict_lower_bound_is_never_reached(qtbot):
    form = Form(TuneConfig, ("learning_rate",))
    qtbot.addWidget(form)
    form.set("learning_rate", 0.0)
    assert form.value().learning_rate > 0


def test_a_field_that_has_no_control_is_refused(qtbot):
    class Config(BaseModel):
        names: list[str] = Field(default_factory=list)

    with pytest.raises(TypeError, match="expected int, float or Literal"):
        Form(Config, ("names",))
