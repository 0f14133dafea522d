import json
import math
from typing import Any, Literal, get_args, get_origin

import pytest

from napari_pcs.metrics.report import CaseReport, LabelMetrics
from napari_pcs.models.lineage import Stage as LineageStage
from napari_pcs.predict import Stage
from napari_pcs.provenance import ModelReference
from napari_pcs.training import events as training
from napari_pcs.training.config import TuneConfig
from napari_pcs.training.events import Event, Judged, Step
from napari_pcs.worker.channel import encode, number_of, read_reply, read_request
from napari_pcs.worker.events import Predicted, Prefetched, as_told, rebuilt
from napari_pcs.worker.messages import Cancel, Prefetch, Reply, StoredCase, Tune

MODEL = ModelReference(name="Jülich", digest="ab12")
REPORT = CaseReport(
    case="sub-01_hemi-L",
    labels={
        "skeleton": LabelMetrics(outcome="compared", dice=0.75, hd_mm=3.5),
        "pcs": LabelMetrics(outcome="one_empty"),
    },
    length_mm=31.5,
)
VALUES = {
    str: "Zürich \u2028 脑",
    int: 3,
    float: 0.1 + 0.2,
    bool: True,
    float | None: None,
    int | None: 7,
    str | None: None,
    dict[str, Any]: {"size": 12, "nested": [1, None]},
    dict[str, float | None]: {"dice": 0.5, "nothing": None},
    tuple[str, ...]: ("one", "two"),
    tuple[CaseReport, ...]: (REPORT,),
    tuple[LineageStage, ...]: (LineageStage(name="a", objective="tune", data="x", epochs=1.5, parts=("heads",)),),
    ModelReference: MODEL,
}
"""A value for every type of field."""
OF_TRAINING = [
    kind for kind in vars(training).values() if isinstance(kind, type) and issubclass(kind, Event) and kind is not Event
]


def filled(kind):
    """Build an event with a value in every field."""
    kinds = {name: field.annotation for name, field in kind.model_fields.items()}
    return kind(**{name: get_args(k)[0] if get_origin(k) is Literal else VALUES[k] for name, k in kinds.items()})


def there_and_back(event):
    """Send an event as a line and rebuild it."""
    name, content = as_told(event)
    line = encode(Reply(id=3, kind="event", name=name, content=content))
    assert line.count(b"\n") == 1
    reply = read_reply(line)
    assert (reply.id, reply.kind) == (3, "event")
    return rebuilt(reply.name, reply.content)


@pytest.mark.parametrize("kind", OF_TRAINING, ids=lambda kind: kind.__name__)
def test_every_event_of_training_arrives_as_it_left(kind):
    event = filled(kind)
    assert there_and_back(event) == event
    assert type(there_and_back(event)) is kind


@pytest.mark.parametrize(
    "event",
    [
        Predicted(model=MODEL, mode="whole", folder="/x/ü", temporary=True, kept=False),
        Predicted(model=MODEL, mode=None, folder="C:\\x", temporary=False, kept=True),
        Prefetched(case="sub-01_hemi-L", what="features"),
        Stage("network", "Running Jülich on cpu"),
        Judged(moment="before", reports=(REPORT, REPORT)),
    ],
    ids=lambda event: type(event).__name__,
)
def test_the_workers_own_events_and_stages_arrive_as_they_left(event):
    assert there_and_back(event) == event


def test_a_loss_that_is_no_number_arrives_as_one_that_is_none():
    step = filled(Step).model_copy(update={"loss": math.nan, "gradient_norm": math.inf, "figures": {"a": -math.inf}})
    found = there_and_back(step)
    assert math.isnan(found.loss)
    assert (found.gradient_norm, found.figures) == (math.inf, {"a": -math.inf})


def test_a_name_that_is_not_known_is_refused():
    with pytest.raises(KeyError):
        rebuilt("Surprise", {})
    with pytest.raises(ValueError, match="sentence"):
        rebuilt("Preparing", {"phrase": "x"})


def test_requests_arrive_as_they_left():
    case = StoredCase(session="/data/日本", case="sub-01_hemi-L")
    config = TuneConfig(strategy="lora", rounds=3)
    for request in (
        Tune(id=4, session="/data/ü", model="starter", config=config),
        Prefetch(id=5, session="/data/ü", cases=("sub-01_hemi-L",), model="starter", tune=config),
        Cancel(id=6),
    ):
        assert read_request(encode(request)) == request
    assert case == StoredCase.model_validate(json.loads(encode(case)))


def test_paths_are_absolute_wherever_the_other_process_is(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    case = StoredCase(session="here", case="sub-01_hemi-L")
    assert case.session == str(tmp_path / "here")
    monkeypatch.chdir("/")
    assert StoredCase.model_validate(json.loads(encode(case))) == case


@pytest.mark.parametrize(
    ("line", "number"), [(b'{"id": 7}', 7), (b'{"id": "7"}', 0), (b'{"id": true}', 0), (b"[]", 0), (b"x", 0)]
)
def test_the_number_of_a_request_is_read_from_whatever_can_be_read(line, number):
    assert number_of(line) == number
