"""A worker that computes nothing: what it does is in the name of the model. Run as a program, it serves."""

import os
import sys
import threading
from functools import partial
from pathlib import Path

from napari_pcs.errors import InputError
from napari_pcs.training.config import TuneConfig
from napari_pcs.training.events import Event, Preparing
from napari_pcs.worker.__main__ import main
from napari_pcs.worker.events import Prefetched
from napari_pcs.worker.messages import HandedCase, Predict, Prefetch, Tune, Warm

COMMAND = (sys.executable, __file__)


class Unheard(Event):
    """An event that no client knows."""

    figure: int = 1


class FakeWork:
    """Does what the name of the model says, and notes what it did."""

    def __init__(self):
        self.relieved = self.rested = 0
        self.gates = {}

    def gate(self, name):
        """Return the gate at which the request "hold:NAME", or the prefetching of the case NAME, waits."""
        return self.gates.setdefault(name, threading.Event())

    def prepare(self):
        pass

    def relieve(self):
        self.relieved += 1

    def rest(self):
        self.rested += 1

    def pieces(self, request):
        if isinstance(request, Prefetch):
            return [partial(self.prefetch, case) for case in request.cases]
        what, _, name = request.model.partition(":")
        return [partial(getattr(self, what), name)]

    def prefetch(self, case, stop):
        yield Preparing(sentence=case)
        if case != "open":
            self.pass_gate(case, stop)
        yield Prefetched(case=case, what="prediction")

    def pass_gate(self, name, stop):
        while not self.gate(name).wait(0.01):
            stop.check()

    def say(self, name, stop):
        yield Preparing(sentence=name)

    def hold(self, name, stop):
        yield Preparing(sentence=name)
        self.pass_gate(name, stop)

    def save(self, name, stop):
        """Is cancelled, and still has a result."""
        yield Preparing(sentence="begun")
        stop._event.wait()
        yield Preparing(sentence="saved")

    def stubborn(self, name, stop):
        """Does not stop when it is told to."""
        yield Preparing(sentence="begun")
        threading.Event().wait()

    def memory(self, name, stop):
        yield Preparing(sentence="begun")
        raise MemoryError

    def odd(self, name, stop):
        yield from ()
        msg = "odd\nwith more lines"
        raise ValueError(msg)

    def own(self, name, stop):
        yield from ()
        raise InputError(found="a cat", expected="a brain")

    def die(self, name, stop):
        yield Preparing(sentence="begun")
        os._exit(int(name))

    def noise(self, name, stop):
        print('{"id": 1, "kind": "failed", "content": {"sentence": "printed"}}', flush=True)  # noqa: T201
        os.write(1, b"straight to the descriptor\n")
        yield Preparing(sentence=f"read {sys.stdin.read()!r}")

    def note(self, name, stop):
        yield from ()
        with Path(name).open("a") as stream:
            stream.write("note\n")

    def unheard(self, name, stop):
        yield Unheard()
        yield Preparing(sentence="heard")


def predict(model, number=0, path="case"):
    return Predict(id=number, case=HandedCase(path=path), model=model)


def warm(model, number=0):
    return Warm(id=number, model=model)


def tune(model, number=0):
    return Tune(id=number, session="session", model=model, config=TuneConfig())


def prefetch(*cases, number=0):
    return Prefetch(id=number, session="session", cases=cases, model="any")


if __name__ == "__main__":
    sys.exit(main(FakeWork()))
