"""Pre-train a network on hemispheres that nobody has labelled: a generator of events that ends with a model folder."""

from __future__ import annotations

import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file

from napari_pcs.data.health import Tally
from napari_pcs.data.sources import open_data
from napari_pcs.data.splits import people_to_hold_out
from napari_pcs.errors import CancelledError, ModelError
from napari_pcs.models.folders import ModelFolder, free_path
from napari_pcs.models.lineage import Lineage, Stage
from napari_pcs.models.networks import build_network
from napari_pcs.models.store import load_network, save_network
from napari_pcs.provenance import ModelReference
from napari_pcs.stop import StopToken
from napari_pcs.training.batches import PatchBatches
from napari_pcs.training.board import Board
from napari_pcs.training.card import pretrained_card
from napari_pcs.training.checkpoint import read_checkpoint
from napari_pcs.training.events import Event, Preparing, Pretrained, Started, Stopped
from napari_pcs.training.journal import last_event
from napari_pcs.training.keeping import BEST, LAST, RunKeeper
from napari_pcs.training.lock import run_lock
from napari_pcs.training.loop import Loop
from napari_pcs.training.record import RunRecord, read_split

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_pcs.data.patch import PatchSource
    from napari_pcs.models.contract import Network
    from napari_pcs.objectives import Objective
    from napari_pcs.training.plan import PretrainPlan
    from napari_pcs.training.processes import Processes

__all__ = ["pretrain"]


def pretrain(
    run: Path,
    plan: PretrainPlan,
    processes: Processes,
    stop: StopToken | None = None,
    *,
    resume: bool = False,
    workers: int | None = None,
) -> Iterator[Event]:
    """Run one stage of pre-training.

    In many processes, each runs this; the main one writes, and all yield the events.

    Parameters
    ----------
    run
        Folder of the run: config, split, events, tables, pictures, checkpoints.
    plan
        What to learn from what, and the folder of the new model, which must not exist.
    processes
        That train together.
    stop
        Setting it ends the run soon, with a checkpoint.
    resume
        Go on from the run's last checkpoint; from the beginning if it never came to one.
    workers
        Processes that read ahead; see `PatchBatches`.

    Yields
    ------
    Event
        `Preparing`, `Started`, `Step`, `Epoch`, `Pictured`, `Skipped`, `Adapted`, `Saved`, and in the end
        `Pretrained` or `Stopped`.

    Raises
    ------
    InputError
        If there is nothing to learn from, or too many files cannot be read.
    ModelError
        If network, objective and data do not fit together, training fails, or another process trains this run.
    SessionError
        If the disk is full or read-only; the last checkpoint stays as it is.
    CancelledError
        If stopped; the checkpoint is written, and the message says how to go on.
    """
    yield from _Run(run, plan, processes, stop or StopToken(), workers).events(resume=resume)


class _Run:
    """One run; `events` does it."""

    def __init__(
        self, run: Path, plan: PretrainPlan, processes: Processes, stop: StopToken, workers: int | None
    ) -> None:
        self.folder, self.plan, self.processes, self.stop, self.workers = run, plan, processes, stop, workers
        self.config = plan.stage

    def events(self, *, resume: bool) -> Iterator[Event]:
        began = time.perf_counter()
        self._require_new(resume=resume)
        network, lineage = self._network()
        objective = self._objective(network)
        source = open_data(self.plan.data, network.config.spatial_dims)
        # Only now: a run that is refused leaves no folder.
        with run_lock(self.folder) if self.processes.is_main else nullcontext():
            yield from self._events(objective, source, lineage, began, resume=resume)

    def _events(
        self, objective: Objective, source: PatchSource, lineage: Lineage, began: float, *, resume: bool
    ) -> Iterator[Event]:
        loop, keeper = self._loop(objective, source)
        done = self._resume(loop, keeper, source) if resume else 0
        record = self._record(done, source) if self.processes.is_main else None
        with Board(self.folder / "tensorboard", after_step=done) if self.processes.is_main else nullcontext() as board:
            for event in self._training(loop, keeper, objective, source, began, lineage):
                if record is not None and board is not None:
                    record.add(event)
                    board.add(event)
                yield event

    def _require_new(self, *, resume: bool) -> None:
        """Refuse what would end in nothing; a name taken while a run was under way is no reason to lose it."""
        if resume and isinstance(last_event(self.folder / "events.jsonl"), Pretrained):
            msg = (
                f"Run {self.folder.name}: found it finished, expected a run that was stopped before its end."
                f" Begin another stage from its model with --init {self.plan.model.name}."
            )
            raise ModelError(msg)
        if not resume and self.plan.model.exists():
            msg = f"Model {self.plan.model.name}: found a model of that name already, expected a new name."
            raise ModelError(msg)

    def _network(self) -> tuple[Network, Lineage]:
        torch.manual_seed(self.config.loop.seed)
        if self.plan.init is None:
            return build_network(self.config.network), Lineage()
        folder = ModelFolder(self.plan.init)
        return load_network(folder), folder.lineage

    def _objective(self, network: Network) -> Objective:
        config, name = self.config, self.config.objective
        objective = config.objective_class(network, config.settings).to(self.processes.device)
        multiple, dims = network.side_multiple, network.config.spatial_dims
        if len(config.patch) != dims or any(n % multiple for n in config.patch) or max(config.patch) <= multiple:
            msg = (
                f"Objective {name}: found patches of {'x'.join(map(str, config.patch))} for the network"
                f" {network.config.architecture}, expected {dims} sides that are multiples of {multiple},"
                f" one of them larger than {multiple}."
            )
            raise ModelError(msg)
        if objective.compares and config.loop.batch_size * self.processes.count < 2:
            msg = f"Objective {name}: found a batch of 1, expected at least 2: it compares the samples of a batch."
            raise ModelError(msg)
        self.processes.synchronise(objective)
        return objective

    def _loop(self, objective: Objective, source: PatchSource) -> tuple[Loop, RunKeeper]:
        config = self.config
        held = people_to_hold_out(source.people, config.held_out_share, config.loop.seed)
        self.training = [i for i, person in enumerate(source.people) if person not in held]
        self.held_out = [i for i, person in enumerate(source.people) if person in held]
        tally = Tally(len(source.names), config.unreadable_share)
        batches = PatchBatches(
            source,
            self.training,
            self.held_out,
            config.objective_class,
            config.settings,
            config.patch,
            times=config.patches_per_hemisphere,
            batch_size=config.loop.batch_size,
            tries=tally.limit,
            seed=config.loop.seed,
            processes=self.processes,
            workers=self.workers,
        )
        keeper = RunKeeper(
            self.folder,
            minutes=config.loop.checkpoint_minutes,
            picture_epochs=config.picture_epochs,
            files=len(source.names),
            tally=tally,
            is_main=self.processes.is_main,
        )
        return Loop(objective, batches, config.loop, self.processes, keeper, self.stop), keeper

    def _resume(self, loop: Loop, keeper: RunKeeper, source: PatchSource) -> int:
        path = self.folder / LAST
        if not path.exists():
            return 0
        if read_split(self.folder) != self._split(source):
            msg = (
                f"Run {self.folder.name}: found other files in {self.plan.data} than when the run was begun"
                " (see its split.json), expected the same. Put them back, or begin a new run."
            )
            raise ModelError(msg)
        loop.position = read_checkpoint(path, loop.task, loop.optimisers)
        if loop.position.processes != self.processes.count:
            msg = (
                f"Run {self.folder.name}: found {self.processes.count} processes, expected"
                f" {loop.position.processes} as before: another number would draw other batches."
            )
            raise ModelError(msg)
        keeper.remember(loop.position.skipped)
        return loop.position.step

    def _record(self, done: int, source: PatchSource) -> RunRecord:
        if done:
            return RunRecord.reopen(self.folder, after_step=done)
        record = RunRecord(self.folder, self.plan)
        record.split(*self._split(source))
        return record

    def _split(self, source: PatchSource) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the names of those who train and of those who judge."""
        training, held_out = (tuple(source.names[i] for i in side) for side in (self.training, self.held_out))
        return training, held_out

    def _training(
        self,
        loop: Loop,
        keeper: RunKeeper,
        objective: Objective,
        source: PatchSource,
        began: float,
        lineage: Lineage,
    ) -> Iterator[Event]:
        training, held_out = self._split(source)
        for note in source.notes:
            yield Preparing(sentence=note)
        yield Started(
            what=self.config.objective,
            network=objective.network.config.model_dump(),
            trainable_parameters=sum(p.numel() for p in objective.parameters() if p.requires_grad),
            total_parameters=sum(p.numel() for p in objective.parameters()),
            training=training,
            held_out=held_out,
            epochs=self.config.loop.epochs,
            steps=loop.total_steps,
            steps_done=loop.position.step,
            device=self.processes.device.type,
            precision="bf16" if loop.half else "fp32",
            processes=self.processes.count,
            batch_size=self.config.loop.batch_size,
            micro_batch=loop.position.micro_batch or self.config.loop.batch_size,
        )
        yield from loop.events()
        if loop.stopped == "cancelled":
            yield from keeper.checkpoint(loop)
            yield Stopped(step=loop.position.step, steps=loop.total_steps, run=str(self.folder))
            msg = (
                f"Stopped after step {loop.position.step} of {loop.total_steps}."
                f" Go on with: napari-pcs pretrain --resume {self.folder}"
            )
            raise CancelledError(msg)
        self.processes.wait()
        objective.network.load_state_dict(load_file(self.folder / BEST))
        yield self._saved(self._result(loop, keeper, source, began, lineage), objective.network)

    def _result(self, loop: Loop, keeper: RunKeeper, source: PatchSource, began: float, lineage: Lineage) -> Pretrained:
        position, config = loop.position, self.config
        path = free_path(self.plan.model)
        people = f" of {len(set(source.people))} people" if source.spatial_dims == 3 else ""
        stage = Stage(
            name=path.name,
            objective=config.objective,
            data=f"{self.plan.data.name}: {len(source.names)} files{people}, {source.digest[:12]}",
            epochs=position.step / loop.batches.steps_per_epoch,
            parts=config.objective_class.trained_parts,
        )
        assert position.first_loss is not None and position.last_loss is not None  # noqa: S101, PT018  an epoch is over
        return Pretrained(
            model=ModelReference(name=path.name, digest=""),
            path=str(path),
            run=str(self.folder),
            objective=config.objective,
            epochs=int(stage.epochs),
            best_epoch=position.best_epoch,
            stopped=loop.stopped,
            seconds_per_epoch=position.seconds / stage.epochs,
            seconds_total=time.perf_counter() - began,
            first_loss=position.first_loss,
            last_loss=position.last_loss,
            skipped=keeper.unreadable,
            lineage=(*lineage.stages, stage),
        )

    def _saved(self, result: Pretrained, network: Network) -> Pretrained:
        """Write the model; tell every process of it."""
        if self.processes.is_main:
            card = pretrained_card(result, self.config.model_dump_json())
            saved = save_network(network, Path(result.path), card, lineage=Lineage(stages=result.lineage))
            result = result.model_copy(update={"model": saved.reference, "lineage": saved.lineage.stages})
        return self.processes.share(result)  # type: ignore[no-any-return]
