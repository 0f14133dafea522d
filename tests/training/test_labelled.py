from dataclasses import replace

import numpy as np
import pytest
from builders import corrected_by, predicted_by

from napari_pcs.bids import CaseKey
from napari_pcs.case import LabelRole
from napari_pcs.errors import InputError
from napari_pcs.labels import Hemisphere
from napari_pcs.looked import Looked
from napari_pcs.training.labelled import Labelled

CORRECTED, PREDICTED = LabelRole.CORRECTED, LabelRole.PREDICTED


@pytest.fixture
def case(coarse_left):
    """Somebody's correction of a prediction."""
    labels = coarse_left.truth[1].data
    without = replace(coarse_left, labels={})
    return without.with_labels(PREDICTED, (labels > 0).astype(np.uint8), predicted_by()).with_labels(
        CORRECTED, labels, corrected_by()
    )


def with_provenance(case, **changes):
    provenance = corrected_by().model_copy(update=changes)
    return case.with_labels(CORRECTED, case.labels[CORRECTED].data, provenance)


def one_voxel_changed(case, role):
    data = case.labels[role].data.copy()
    data[tuple(np.argwhere(data == 1)[0])] = 0
    return case.with_labels(role, data, case.labels[role].provenance)


def tissue_changed(case):
    data = case.tissue.data.copy()
    data[tuple(np.argwhere(data == 1)[0])] = 2
    return replace(case, tissue=case.tissue.with_data(data))


CHANGES = {
    "tissue": tissue_changed,
    "correction": lambda case: one_voxel_changed(case, CORRECTED),
    "prediction": lambda case: one_voxel_changed(case, PREDICTED),
    "no prediction": lambda case: replace(case, labels={CORRECTED: case.labels[CORRECTED]}),
    "commissures": lambda case: replace(case, commissures=None),
    "person": lambda case: replace(case, key=CaseKey("other", "", Hemisphere.LEFT)),
    "partly done": lambda case: with_provenance(case, partly_done=True, looked_at=Looked(x=((1, 5),))),
}


def test_a_case_in_memory_is_read_as_it_is(case):
    found = Labelled.of(case)
    assert found.load() is case
    assert (found.key, found.name, found.partly_done) == (case.key, case.key.stem, False)


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_is_learnt_from_changes_the_digest(case, change):
    assert Labelled.of(CHANGES[change](case)).digest != Labelled.of(case).digest


def test_other_slices_that_were_looked_at_are_another_case(case):
    digests = {
        Labelled.of(with_provenance(case, partly_done=True, looked_at=Looked(y=((1, last),)))).digest for last in (3, 4)
    }
    assert len(digests) == 2


def test_what_is_not_learnt_from_does_not_change_the_digest(case):
    """Who corrected it and for how long, and the very same arrays somewhere else."""
    same = with_provenance(case, editor="bob", edit_seconds=900.0)
    copy = replace(case, tissue=case.tissue.with_data(case.tissue.data.copy()))
    assert {Labelled.of(c).digest for c in (case, same, copy)} == {Labelled.of(case).digest}


def test_labels_under_other_roles_are_told_apart(case):
    exchanged = replace(case, labels={PREDICTED: case.labels[CORRECTED], CORRECTED: case.labels[PREDICTED]})
    assert Labelled.of(exchanged).digest != Labelled.of(case).digest


def test_a_partly_done_case_says_so(case):
    assert Labelled.of(with_provenance(case, partly_done=True, looked_at=Looked(x=((1, 5),)))).partly_done


def test_a_case_without_labels_is_refused_by_name(case):
    only = replace(case, labels={PREDICTED: case.labels[PREDICTED]})
    with pytest.raises(InputError, match=f"found {case.key.stem} without labels, expected a correction or a reference"):
        Labelled.of(only)


def test_moved_commissures_are_another_case(case):
    moved = case.commissures.model_copy(update={"ac_mm": tuple(v + 1 for v in case.commissures.ac_mm)})
    assert Labelled.of(replace(case, commissures=moved)).digest != Labelled.of(case).digest
