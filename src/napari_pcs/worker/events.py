"""What the worker tells while it works, by name: training's events, the stages of a prediction, and its own."""

from __future__ import annotations

from dataclasses import asdict, is_dataclass
from typing import Any, Literal

from napari_pcs.provenance import ModelReference
from napari_pcs.training import events as training
from napari_pcs.training.events import Event

__all__ = ["Predicted", "Prefetched", "as_told", "rebuilt"]


class Predicted(Event):
    """A prediction is among the bundles of a folder, where the other process can read it.

    Attributes
    ----------
    mode
        Of the network; None takes what there is.
    folder
        Of the bundles; see `kept.KeptPredictions`.
    temporary
        Whether the folder is for this prediction alone, since the cache refused it; its reader removes it.
    kept
        Whether it was there before it was asked for.
    """

    model: ModelReference
    mode: Literal["whole", "windows"] | None
    folder: str
    temporary: bool
    kept: bool


class Prefetched(Event):
    """Something that a `Prefetch` asked for is there: the prediction of a case, or what tuning on it needs."""

    case: str
    what: Literal["prediction", "features"]


_EVENTS: dict[str, type[Event]] = {
    **{name: kind for name, kind in vars(training).items() if isinstance(kind, type) and issubclass(kind, Event)},
    **{kind.__name__: kind for kind in (Predicted, Prefetched)},
}


def as_told(event: Any) -> tuple[str, dict[str, Any]]:
    """Return the name of an event and its content, of JSON types.

    Parameters
    ----------
    event
        An `Event` or a `prediction.Stage`.
    """
    content = asdict(event) if is_dataclass(event) and not isinstance(event, type) else event.model_dump(mode="json")
    return type(event).__name__, content


def rebuilt(name: str, content: dict[str, Any]) -> Any:
    """Return the event that was told.

    Raises
    ------
    KeyError
        If there is no event of that name.
    ValueError
        If its content is not that of such an event.
    """
    if name == "Stage":
        from napari_pcs.prediction import Stage

        return Stage(**content)
    return _EVENTS[name].model_validate(content)
