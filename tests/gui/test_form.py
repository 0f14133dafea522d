import pytest
from pydantic import BaseModel, Field

from napari_pcs.gui.form import Form
from napari_pcs.training.config import LoraConfig, TuneConfig

FIELDS = ("strategy", "learning_rate", "batch_size", "patch", "patches", "views", "held_out_share", "lora")


def shown(qtbot, model, *args):
    form = Form(model, *args)
    qtbot.addWidget(form)
    return form


def test_the_form_starts_with_the_defaults_of_the_config(qtbot):
    assert shown(qtbot, TuneConfig, FIELDS).value() == TuneConfig()


def test_what_is_set_in_the_form_is_in_the_config_also_what_lies_deeper(qtbot):
    form = shown(qtbot, TuneConfig, FIELDS)
    wanted = TuneConfig(
        strategy="lora", learning_rate=0.0025, patch=96, lora=LoraConfig(rank=4, alpha=8, dropout=0.1, dora=True)
    )
    for name in FIELDS:
        form.set(name, getattr(wanted, name))
    assert form.value() == wanted


@pytest.mark.parametrize(
    ("name", "beyond", "limit"), [("patches", 5000, 64), ("patches", -3, 1), ("learning_rate", 9.0, 0.1)]
)
def test_the_form_keeps_to_the_bounds_of_the_config(qtbot, name, beyond, limit):
    form = shown(qtbot, TuneConfig, ("patches", "learning_rate"))
    form.set(name, beyond)
    assert getattr(form.value(), name) == limit


@pytest.mark.parametrize(("typed", "nearest"), [(50, 64), (40, 32), (0, 0), (159, 160)])
def test_what_must_be_a_multiple_becomes_the_nearest_one(qtbot, typed, nearest):
    form = shown(qtbot, TuneConfig, ("patch",))
    form.set("patch", typed)
    assert form.value().patch == nearest


def test_a_strict_lower_bound_is_never_reached(qtbot):
    form = shown(qtbot, TuneConfig, ("learning_rate",))
    form.set("learning_rate", 0.0)
    assert form.value().learning_rate > 0


def test_choices_are_shown_in_words_and_kept_by_name(qtbot):
    form = shown(qtbot, TuneConfig, ("strategy",), {"strategy": {"top": "The last tenth"}})
    box = form._controls["strategy"]
    assert box.itemText(0) == "The last tenth"
    assert box.itemText(1) == "decoder"
    assert form.value().strategy == "top"


def test_a_number_is_written_without_the_zeros_at_its_end(qtbot):
    form = shown(qtbot, TuneConfig, ("learning_rate",))
    control = form._controls["learning_rate"]
    assert control.text() == f"0{control.locale().decimalPoint()}0003"
    form.set("learning_rate", 0.1)
    assert form.value().learning_rate == pytest.approx(0.1)


def test_a_change_is_told_whichever_control_it_was(qtbot):
    form = shown(qtbot, TuneConfig, FIELDS)
    told = []
    form.changed.connect(lambda: told.append(form.value()))
    form.set("views", 5)
    form.set("strategy", "full")
    form._controls["lora"].set("dora", True)
    assert [(c.views, c.strategy, c.lora.dora) for c in told] == [
        (5, "top", False),
        (5, "full", False),
        (5, "full", True),
    ]


def test_a_field_that_has_no_control_is_refused(qtbot):
    class Config(BaseModel):
        names: list[str] = Field(default_factory=list)

    with pytest.raises(TypeError, match="expected int, float, bool, Literal or a configuration"):
        Form(Config, ("names",))
