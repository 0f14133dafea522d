"""Tuning on a session: its corrections, where frozen values are kept, and runs that are repeated."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from pydantic import ValidationError

from napari_pcs.caches import feature_cache, prediction_cache
from napari_pcs.data.bundles import bundle_key
from napari_pcs.errors import ModelError, SessionError
from napari_pcs.kept import KeptPredictions
from napari_pcs.models.bases import require_in_reach
from napari_pcs.models.folders import find_model, new_model_path
from napari_pcs.training.config import TuneConfig
from napari_pcs.training.journal import read_events
from napari_pcs.training.labelled import Labelled
from napari_pcs.training.tune import load_to_tune, prepare_values, tune

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import torch

    from napari_pcs.bids import CaseKey
    from napari_pcs.models.contract import Segmenter
    from napari_pcs.models.folders import ModelFolder
    from napari_pcs.session import Session
    from napari_pcs.stop import StopToken
    from napari_pcs.training.events import Event

__all__ = ["labelled_case", "labelled_cases", "new_model_folder", "prepare_case", "repeated", "tune_session"]


def labelled_case(session: Session, key: CaseKey) -> Labelled:
    """Return a corrected case of a session; only its files' bytes are looked at.

    Raises
    ------
    SessionError
        If a file of it cannot be read.
    InputError
        If the sidecar of its correction is damaged.
    """
    digests = [_digest(path) for path in session.files_to_tune_on(key)]
    provenance = session.correction_provenance(key)
    looked = provenance.model_dump_json(include={"partly_done", "looked_at"})
    return Labelled(
        key=key,
        digest=bundle_key(key.stem, looked, *digests),
        labels=bundle_key(key.stem, looked, digests[0]),
        partly_done=provenance.partly_done,
        load=lambda: session.load(key),
    )


def labelled_cases(session: Session) -> list[Labelled]:
    """Return all corrected cases of a session; see `labelled_case`."""
    return [labelled_case(session, key) for key in session.corrected_keys()]


def new_model_folder(session: Session, base: ModelFolder, config: TuneConfig, name: str | None = None) -> Path:
    """Return the folder of a new model of a session; see `napari_pcs.models.folders.new_model_path`.

    Raises
    ------
    ModelError
        If the name is taken or none, or if it is to be an adapter that would not find its base there.
    """
    if config.strategy == "lora":
        require_in_reach(base, session.models)
    return new_model_path(session.models, name, f"{base.name}-{config.strategy}")


def tune_session(
    session: Session,
    base: ModelFolder,
    target: Path,
    config: TuneConfig,
    device: torch.device,
    stop: StopToken | None = None,
    *,
    cases: Sequence[Labelled] | None = None,
    load: Callable[[ModelFolder], Segmenter] = load_to_tune,
) -> Iterator[Event]:
    """Tune a model on corrected cases of a session, on all if left out; see `napari_pcs.training.tune.tune`."""
    run = session.new_run(f"tune-{config.strategy}")
    cases = labelled_cases(session) if cases is None else cases
    kept = KeptPredictions(prediction_cache())
    yield from tune(cases, base, target, run, config, device, stop, bundles=feature_cache(), kept=kept, load=load)


def prepare_case(
    session: Session,
    key: CaseKey,
    base: ModelFolder,
    config: TuneConfig,
    device: torch.device,
    stop: StopToken,
    *,
    load: Callable[[ModelFolder], Segmenter] = load_to_tune,
) -> None:
    """Compute and keep what tuning on a corrected case will read."""
    prepare_values(labelled_case(session, key), load(base).to(device), config, feature_cache(), stop)


def repeated(session: Session, run: Path) -> tuple[ModelFolder, TuneConfig, list[Labelled]]:
    """Return what repeats a tuning run of a session: its model, its settings with exactly as many rounds, its cases.

    Raises
    ------
    SessionError
        If the folder is not that of a tuning run that has come to at least one round.
    ModelError
        If the model or a case is not what it was then.
    """
    try:
        config = TuneConfig.model_validate_json((run / "config.json").read_bytes())
        inputs = json.loads((run / "inputs.json").read_bytes())
        name, digest, cases = inputs["model"]["name"], inputs["model"]["digest"], dict(inputs["cases"])
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        msg = f"Run {run.name}: found no record of a tuning in {run} ({error}), expected the folder of one."
        raise SessionError(msg) from error
    rounds = sum(type(event).__name__ == "Epoch" for event in read_events(run / "events.jsonl")[0])
    if not rounds:
        msg = f"Run {run.name}: found no round that was completed, expected at least one. Tune anew."
        raise SessionError(msg)
    model = find_model(name, session.models)
    if model.digest != digest:
        msg = f"Model {name}: found weights {model.digest[:12]}, expected {digest[:12]} as in run {run.name}."
        raise ModelError(msg)
    found = {case.name: case for case in labelled_cases(session)}
    changed = sorted(stem for stem, then in cases.items() if stem not in found or found[stem].digest != then)
    if changed:
        msg = f"Run {run.name}: found cases that are not as they were then ({', '.join(changed)}), expected the same."
        raise ModelError(msg)
    return model, config.model_copy(update={"rounds": rounds}), [found[stem] for stem in cases]


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        msg = f"{path.name}: found a file that cannot be read ({error.strerror}), expected one of the session."
        raise SessionError(msg) from error
