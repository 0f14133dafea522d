from typing import ClassVar

import pytest
import torch
from torch import nn
from toys import Apart, Line, Numbers

from napari_pcs.objectives.task import Outcome
from napari_pcs.training import memory
from napari_pcs.training.memory import fitting_micro_batch
from napari_pcs.training.processes import Processes
from napari_pcs.training.step import OutOfMemoryError, Passes


class Fake(Processes):
    """A device with so many free bytes."""

    def __init__(self, free):
        super().__init__("cpu")
        self.free = free

    free_memory = property(lambda self: self.free)


class Hungry(Line):
    """Every pass needs so many megabytes a sample, for as long as the watch of memory looks."""

    need_mb = 10.0
    seen: ClassVar = []

    def forward(self, batch, turn="main"):
        Hungry.seen.append(len(batch["x"]))
        return super().forward(batch, turn)


@pytest.fixture
def measured(monkeypatch):
    """Let the watch of memory find what `Hungry` says that it needs, on top of 500 MB."""

    class Watch:
        def __init__(self, device):
            Hungry.seen = []

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.peak_mb = 500 + Hungry.need_mb * max(Hungry.seen, default=0)

    monkeypatch.setattr(memory, "MemoryWatch", Watch)
    monkeypatch.setattr(memory, "peak_memory_mb", lambda _: 500.0)


@pytest.mark.parametrize(
    ("free_mb", "expected"),
    [(1000, 6), (76, 6), (74, 5), (40, 3), (13, 1), (1, 1)],
)
def test_four_fifths_of_the_free_memory_are_filled(measured, free_mb, expected):
    passes = Passes(Hungry(), Fake(free_mb * 1e6), half=False)
    assert fitting_micro_batch(passes, Numbers(size=6).batch(0, 0), ("main",)) == expected
    assert Hungry.seen == [1], "one sample tells what each of them needs"


def test_a_pass_that_needs_next_to_nothing_takes_the_whole_batch():
    passes = Passes(Line(), Fake(2**40), half=False)
    assert fitting_micro_batch(passes, Numbers(size=6).batch(0, 0), ("main",)) == 6


def test_samples_that_are_compared_are_tried_in_pairs(monkeypatch):
    tried = []
    monkeypatch.setattr(memory, "_peak", lambda _, batch, __: tried.append(len(batch["x"])) or 20e6)
    passes = Passes(Apart(), Fake(50e6), half=False)
    assert fitting_micro_batch(passes, Numbers(size=6).batch(0, 0), ("main",)) == 4
    assert tried == [2]


@pytest.mark.parametrize(("task", "size"), [(Line, 1), (Apart, 2)])
def test_the_smallest_batch_is_not_tried(task, size, monkeypatch):
    monkeypatch.setattr(memory, "_peak", None)
    passes = Passes(task(), Fake(0), half=False)
    assert fitting_micro_batch(passes, Numbers(size=size).batch(0, 0), ("main",)) == size


def test_all_processes_take_what_the_smallest_of_them_can(monkeypatch):
    monkeypatch.setattr(memory, "_peak", lambda *_: 10e6)
    processes = Fake(70e6)
    monkeypatch.setattr(Fake, "smallest", lambda _, value: min(value, 2))
    passes = Passes(Line(), processes, half=False)
    assert fitting_micro_batch(passes, Numbers(size=6).batch(0, 0), ("main",)) == 2


class Statistics(Line):
    """Running statistics, and a counter that is no number with a fraction."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, batch, turn="main"):
        return super().forward({**batch, "x": self.norm(batch["x"])}, turn)


class Paired(Statistics):
    compares = True

    def forward(self, batch, turn="main"):
        return Outcome(super().forward(batch, turn).loss)


def test_trying_leaves_weights_gradients_and_running_statistics_as_they_were():
    task = Paired().train()
    before = {name: t.clone() for name, t in task.state_dict().items()}
    fitting_micro_batch(Passes(task, Fake(2**40), half=False), Numbers(size=6).batch(0, 0), ("main",))
    assert all(torch.equal(before[name], t) for name, t in task.state_dict().items())
    assert all(p.grad is None for p in task.parameters())
    assert task.training
    task(Numbers(size=6).batch(0, 0))
    assert any(not torch.equal(before[name], t) for name, t in task.state_dict().items()), "training changes them"


def test_not_even_one_sample_is_a_sentence():
    class Starved(Line):
        def forward(self, batch, turn="main"):
            raise MemoryError

    with pytest.raises(OutOfMemoryError, match="Choose a smaller batch or patch"):
        fitting_micro_batch(Passes(Starved(), Fake(0), half=False), Numbers(size=6).batch(0, 0), ("main",))
