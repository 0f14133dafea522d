"""What the window and the worker tell each other: one JSON object a line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from napari_pcs.training.config import TuneConfig

__all__ = [
    "LOST_DEVICE",
    "AnyRequest",
    "Cancel",
    "CaseSource",
    "HandedCase",
    "Predict",
    "Prefetch",
    "Quit",
    "Reply",
    "Request",
    "StoredCase",
    "Tune",
    "Warm",
]

LOST_DEVICE = 75
"""Exit code of a worker whose GPU has failed: a new process may find it again."""
AbsolutePath = Annotated[str, AfterValidator(lambda path: str(Path(path).absolute()))]
"""The two processes need not have the same working folder."""


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StoredCase(_Message):
    """A case of a session, by its folder and the stem of its key."""

    source: Literal["session"] = "session"
    session: AbsolutePath
    case: str


class HandedCase(_Message):
    """A case that no session has, written into a file for the worker; see `worker.handover`."""

    source: Literal["file"] = "file"
    path: AbsolutePath


CaseSource = Annotated[StoredCase | HandedCase, Field(discriminator="source")]


class Request(_Message):
    """Root of all requests; the client gives each its number, from 1."""

    id: int = 0


class Warm(Request):
    """Load a model, so that the next request need not."""

    do: Literal["warm"] = "warm"
    model: str
    models: tuple[AbsolutePath, ...] = ()
    device: str = "auto"


class Predict(Request):
    """Predict a case now; ends with `Predicted`, whose bundle holds the prediction.

    Attributes
    ----------
    model, models
        Name of the model, and folders to look for it beside the shipped ones.
    again
        Predict even if the prediction is kept.
    """

    do: Literal["predict"] = "predict"
    case: CaseSource
    model: str
    models: tuple[AbsolutePath, ...] = ()
    device: str = "auto"
    again: bool = False


class Prefetch(Request):
    """Have these cases predicted, and what tuning needs of corrected ones computed, whenever nothing else is to do.

    Replaces an earlier request of the kind; in the order given, most wanted first. Models are looked for in the
    session, and beside it where `models` says so.
    """

    do: Literal["prefetch"] = "prefetch"
    session: AbsolutePath
    cases: tuple[str, ...]
    model: str
    models: tuple[AbsolutePath, ...] = ()
    device: str = "auto"
    tune: TuneConfig | None = None


class Tune(Request):
    """Tune a model on the corrections of a session; events as of `training.tune.tune`."""

    do: Literal["tune"] = "tune"
    session: AbsolutePath
    model: str
    models: tuple[AbsolutePath, ...] = ()
    name: str | None = None
    device: str = "auto"
    config: TuneConfig


class Cancel(Request):
    """Stop the request of this number, or all of them."""

    do: Literal["cancel"] = "cancel"
    of: int | None = None


class Quit(Request):
    """End the process, after what cannot be left half done."""

    do: Literal["quit"] = "quit"


AnyRequest = Annotated[Warm | Predict | Prefetch | Tune | Cancel | Quit, Field(discriminator="do")]


class Reply(_Message):
    """One line of the worker.

    Attributes
    ----------
    id
        Of the request that it belongs to; 0 for what nobody asked for.
    kind
        "ready" once, when the process can take requests; "event" while it works; then one of "done",
        "cancelled" and "failed".
    name, content
        Of an event: its class and fields. Of a failure, `content` has the `sentence` and, where it was
        unexpected, the traceback as `details`.
    """

    id: int
    kind: Literal["ready", "event", "done", "cancelled", "failed"]
    name: str = ""
    content: dict[str, Any] = {}

    @property
    def is_end(self) -> bool:
        """Whether nothing else follows for its request."""
        return self.kind in {"done", "cancelled", "failed"}
