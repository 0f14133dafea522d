from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from builders import corrected_by

from napari_pcs import session as session_module
from napari_pcs.anatomy.progress import Step
from napari_pcs.anatomy.sources.base import Source
from napari_pcs.case import LabelRole
from napari_pcs.commissures import Commissures, FrameSource
from napari_pcs.errors import CancelledError, SessionError
from napari_pcs.labels import Hemisphere
from napari_pcs.prepare import Prepared, prepare
from napari_pcs.session import Session
from napari_pcs.stop import StopToken

L, R = Hemisphere.LEFT, Hemisphere.RIGHT


@dataclass(frozen=True)
class Made(Source):
    kind = "made for this test"
    cases: tuple = ()
    loads: tuple = ()

    @classmethod
    def find(cls, path):
        return ()

    def load(self, hemispheres, stop):
        self.loads[0].append(hemispheres)
        yield Step("Loading", 0.0)
        yield from (
            replace(case, key=self.key(case.key.hemisphere))
            for case in self.cases
            if case.key.hemisphere in hemispheres
        )


@pytest.fixture
def source(coarse_left, coarse_right, tmp_path):
    return Made(tmp_path / "ada", "ada", cases=(coarse_left, coarse_right), loads=([],))


@pytest.fixture
def session(tmp_path):
    return Session.create(tmp_path / "study")


@pytest.fixture(autouse=True)
def _quick(monkeypatch, coarse_skeletons):
    """The skeletons of the phantoms are known."""
    monkeypatch.setattr("napari_pcs.prepare.extract_skeleton", lambda case: coarse_skeletons[case.key.hemisphere])


def files(session):
    return {p: p.read_bytes() for p in sorted(session.root.rglob("*")) if p.is_file()}


def run(*args, **kwargs):
    events = list(prepare(*args, stop=StopToken(), **kwargs))
    return [e for e in events if isinstance(e, Prepared)], [e for e in events if isinstance(e, Step)]


def test_every_hemisphere_is_stored_with_skeleton_and_commissures(source, session, coarse_skeletons):
    done, steps = run(source, session)
    assert [(p.case.key, p.skipped, p.kind) for p in done] == [(source.key(s), False, source.kind) for s in (L, R)]
    assert session.keys() == [source.key(L), source.key(R)]
    for prepared, case in zip(done, source.cases, strict=True):
        stored = session.load(prepared.case.key)
        np.testing.assert_array_equal(stored.tissue.data, case.tissue.data)
        assert stored.commissures == case.commissures
        assert set(stored.labels) == {LabelRole.REFERENCE, LabelRole.PROPOSED}
        pieces = session.load_pieces(prepared.case.key)
        np.testing.assert_array_equal(pieces > 0, coarse_skeletons[case.key.hemisphere])
        assert pieces.max() == prepared.pieces
        skeleton = session.load_skeleton(prepared.case.key)
        np.testing.assert_array_equal(skeleton, coarse_skeletons[case.key.hemisphere])
    fractions = [step.fraction for step in steps]
    assert fractions == sorted(fractions)
    assert 0 <= fractions[0] <= fractions[-1] <= 1
    assert (session.root / "participants.tsv").read_text() == "participant_id\nsub-ada\n"


def test_what_is_there_is_not_computed_again(source, session):
    run(source, session, hemispheres=(L,))
    before = files(session)
    (left, right), _ = run(source, session)
    assert (left.skipped, right.skipped) == (True, False)
    assert source.loads[0] == [(L,), (R,)]
    assert {path: content for path, content in files(session).items() if path in before} == before
    np.testing.assert_array_equal(left.case.tissue.data, source.cases[0].tissue.data)


def test_a_case_without_its_skeleton_is_completed(source, session):
    (left,), _ = run(source, session, hemispheres=(L,))
    mask = next(session.root.rglob("*_desc-skel_mask.nii.gz"))
    content = mask.read_bytes()
    mask.unlink()
    (again,), _ = run(source, session, hemispheres=(L,))
    assert not again.skipped
    assert mask.read_bytes() == content
    np.testing.assert_array_equal(again.skeleton, left.skeleton)


def test_another_scan_of_the_same_name_is_refused(source, session, tmp_path):
    run(source, session, hemispheres=(L,))
    before = files(session)
    tissue = source.cases[0].tissue
    data = tissue.data.copy()
    data[:, 40:45] = 0
    case = replace(source.cases[0], tissue=replace(tissue, data=data), image=replace(tissue, data=data))
    other = replace(source, path=tmp_path / "elsewhere", cases=(case,))
    with pytest.raises(SessionError, match="found another hemisphere of that name"):
        run(other, session, hemispheres=(L,))
    assert files(session) == before


def test_the_same_scan_from_another_place_is_taken_as_the_same(source, session, tmp_path):
    run(source, session, hemispheres=(L,))
    (again,), _ = run(replace(source, path=tmp_path / "copy"), session, hemispheres=(L,))
    assert not again.skipped
    (third,), _ = run(replace(source, path=tmp_path / "copy"), session, hemispheres=(L,))
    assert third.skipped


def test_force_prepares_again_and_keeps_labels_and_clicked_commissures(source, session):
    (first,), _ = run(source, session, hemispheres=(L,))
    clicked = Commissures.from_points((0, 1, 2), (0, -24, 2), FrameSource.CLICKS)
    session.write_commissures(replace(first.case, commissures=clicked))
    labels = first.case.labels[LabelRole.REFERENCE].data
    session.write_correction(first.case.with_labels(LabelRole.CORRECTED, labels, corrected_by()), labels, seconds=3)
    (again,), _ = run(source, session, hemispheres=(L,), force=True)
    assert not again.skipped
    assert again.case.commissures == session.load(source.key(L)).commissures == clicked
    assert session.corrected_keys() == [source.key(L)]


def test_force_does_not_move_labels_onto_another_grid(source, session):
    run(source, session, hemispheres=(L,))
    tissue = source.cases[0].tissue
    moved = replace(tissue, affine=tissue.affine + np.outer([1, 0, 0, 0], [0, 0, 0, 5]))
    other = replace(source, cases=(replace(source.cases[0], tissue=moved, image=moved),))
    with pytest.raises(SessionError, match="found labels on another grid"):
        run(other, session, hemispheres=(L,), force=True)


def cancel(events, stop, when):
    """Take events and ask to stop at the first that fits."""
    for n, event in enumerate(events):
        if when(n, event):
            stop.set()


@pytest.mark.parametrize("after", range(3))
def test_cancelling_at_any_step_leaves_no_part_of_a_case(source, session, after):
    before = files(session)
    stop = StopToken()
    events = prepare(source, session, hemispheres=(L,), stop=stop)
    with pytest.raises(CancelledError):
        cancel(events, stop, lambda n, _: n == after)
    assert files(session) == before


def test_cancelling_after_one_hemisphere_keeps_that_one_whole(source, session):
    stop = StopToken()
    with pytest.raises(CancelledError):
        cancel(prepare(source, session, stop=stop), stop, lambda _, event: isinstance(event, Prepared))
    assert session.keys() == [source.key(L)]
    assert session.load_skeleton(source.key(L)) is not None
    assert not list(session.root.rglob("*hemi-R*"))


@pytest.mark.parametrize("error", [OSError(28, "full"), KeyboardInterrupt()], ids=["disk full", "Ctrl-C"])
def test_a_failure_while_writing_leaves_no_part_of_a_case(source, session, monkeypatch, error):
    before = files(session)
    synced = []

    def fail(handle):
        synced.append(handle)
        if len(synced) == 4:
            raise error

    monkeypatch.setattr("napari_pcs.files.os.fsync", fail)
    with pytest.raises(SessionError if isinstance(error, OSError) else KeyboardInterrupt):
        run(source, session, hemispheres=(L,))
    assert files(session) == before


def test_one_write_holds_all_files_of_a_case_and_the_tissue_map_comes_last(source, session, monkeypatch):
    written = []
    whole = session_module.write_together
    monkeypatch.setattr(session_module, "write_together", lambda c: (written.append([p.name for p in c]), whole(c)))
    run(source, session, hemispheres=(L,))
    (names,) = written
    assert names[-1] == "sub-ada_hemi-L_space-orig_desc-gw_dseg.nii.gz"
    assert "sub-ada_hemi-L_space-orig_desc-skel_mask.nii.gz" in names


def test_a_case_that_prediction_added_has_no_origin(source, session):
    session.add(replace(source.cases[0], key=source.key(L)))
    assert session.origin(source.key(L)) is None
    (prepared,), _ = run(source, session, hemispheres=(L,))
    assert not prepared.skipped
    assert session.origin(source.key(L)) == str(Path(source.path).resolve())
