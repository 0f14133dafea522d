from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from napari_pcs.anatomy.progress import Step
from napari_pcs.anatomy.sources import base
from napari_pcs.anatomy.sources.base import Source
from napari_pcs.case import Case
from napari_pcs.errors import CancelledError, InputError
from napari_pcs.labels import Hemisphere
from napari_pcs.stop import StopToken

L, R = Hemisphere.LEFT, Hemisphere.RIGHT


@dataclass(frozen=True)
class Made(Source):
    kind = "made for this test"
    cases: tuple = ()

    @classmethod
    def find(cls, path):
        return ()

    def load(self, hemispheres, stop):
        yield Step("Half of it", 0.5)
        yield from (case for case in self.cases if case.key.hemisphere in hemispheres)


@pytest.fixture
def both(coarse_left, coarse_right):
    return Made(Path("person"), "ada", cases=(coarse_left, coarse_right))


def test_reading_yields_steps_in_order_and_a_case_for_every_side(both):
    events = list(both.read(None, StopToken()))
    fractions = [event.fraction for event in events if isinstance(event, Step)]
    assert fractions == sorted(fractions)
    assert fractions[0] == pytest.approx(0.5 * Made.loading_share)
    assert fractions[-1] < 1
    assert [event.key.hemisphere for event in events if isinstance(event, Case)] == [L, R]


def test_what_the_files_know_is_not_registered(both, monkeypatch):
    monkeypatch.setattr("napari_pcs.anatomy.location.register", lambda *_: pytest.fail("registered"))
    (case,) = (e for e in both.read((R,), StopToken()) if isinstance(e, Case))
    assert case.commissures.detail == "made so"


def test_what_the_files_do_not_know_is_located(both, monkeypatch, coarse_left):
    monkeypatch.setattr(base, "locate", lambda case, _stop: (replace(case, commissures="found"), "looked for"))
    unknown = replace(both, cases=(replace(coarse_left, commissures=None),), hemispheres=(L,))
    events = list(unknown.read(None, StopToken()))
    assert events[-1].commissures == "found"
    assert events[-2].sentence == "looked for"


def test_an_exchanged_side_is_refused_in_every_source(both, coarse_left):
    tissue = coarse_left.tissue
    flipped = replace(tissue, data=np.ascontiguousarray(tissue.data[::-1]))
    wrong = replace(both, cases=(replace(coarse_left, tissue=flipped, image=flipped),))
    with pytest.raises(InputError, match="exchanged"):
        list(wrong.read((L,), StopToken()))


def test_a_side_that_it_does_not_hold_is_refused(both):
    with pytest.raises(InputError, match="found hemisphere L, expected R, as chosen"):
        list(replace(both, hemispheres=(L,)).read((R,), StopToken()))


def test_a_side_that_nobody_named_is_asked_for_and_then_taken(both):
    unnamed = replace(both, hemispheres=())
    with pytest.raises(InputError, match="does not say which hemisphere"):
        list(unnamed.read(None, StopToken()))
    assert unnamed.choose((R,)) == (R,)


def test_reading_stops_between_steps(both):
    stop = StopToken()
    events = both.read(None, stop)
    next(events)
    stop.set()
    with pytest.raises(CancelledError):
        list(events)
