from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from builders import affine_of, asymmetric, corrected_by, label_map, predicted_by

from napari_pcs.case import Case, LabelRole, check_labels
from napari_pcs.errors import InputError
from napari_pcs.volume import Volume

REF, PRED, CORR = LabelRole.REFERENCE, LabelRole.PREDICTED, LabelRole.CORRECTED


def labelled(case, *roles):
    for n, role in enumerate(roles):
        case = case.with_labels(role, label_map(case.tissue.shape, seed=n), predicted_by())
    return case


def test_a_case_and_its_labels_are_frozen(small_case):
    case = labelled(small_case(), PRED)
    with pytest.raises(FrozenInstanceError):
        case.tissue = case.image
    with pytest.raises(FrozenInstanceError):
        case.labels[PRED].data = None
    with pytest.raises(TypeError):
        case.labels[REF] = case.labels[PRED]


def test_adding_labels_leaves_the_first_case_as_it_was(small_case):
    first = labelled(small_case(), PRED)
    labels = label_map(first.tissue.shape, seed=9)
    second = first.with_labels(CORR, labels, corrected_by())
    assert set(first.labels) == {PRED}
    assert set(second.labels) == {PRED, CORR}
    np.testing.assert_array_equal(second.labels[CORR].data, labels)
    assert second.labels[CORR].provenance.editor == "ada"


def test_a_second_reference_is_refused(small_case):
    case = labelled(small_case(), REF)
    with pytest.raises(InputError, match=r"second reference.*never overwritten"):
        case.with_labels(REF, label_map(case.tissue.shape), predicted_by())


@pytest.mark.parametrize("role", [PRED, CORR])
def test_predictions_and_corrections_may_be_replaced(small_case, role):
    case = labelled(small_case(), role)
    new = label_map(case.tissue.shape, seed=77)
    assert not np.array_equal(case.labels[role].data, new)
    np.testing.assert_array_equal(case.with_labels(role, new, predicted_by()).labels[role].data, new)


@pytest.mark.parametrize("shape", [(7, 8, 9), (9, 8, 8), (9, 8, 7, 1), (72, 7)])
def test_labels_of_another_shape_are_refused(small_case, shape):
    case = small_case(orientation="PIR")
    assert case.tissue.shape == (9, 7, 8)
    with pytest.raises(InputError, match="found labels of shape"):
        case.with_labels(PRED, np.zeros(shape, np.uint8), predicted_by())


@pytest.mark.parametrize(
    ("value", "shown"), [(5, "5"), (-1, "-1"), (100, "100"), (1.5, "1.5"), (np.nan, "nan")], ids=str
)
def test_unknown_values_are_refused_and_named(small_case, value, shown):
    case = small_case()
    data = np.zeros(case.tissue.shape)
    data[1, 2, 3] = value
    with pytest.raises(InputError, match=rf"found values .*{shown}.*expected .*\[0, 1, 2, 3, 4\]"):
        case.with_labels(PRED, data, predicted_by())


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.float32, np.float64, ">i2"])
def test_every_label_of_the_table_is_accepted_in_any_type(dtype):
    data = np.arange(5).reshape(1, 1, 5).astype(dtype)
    labels = check_labels(data)
    assert labels.dtype == np.uint8
    assert labels.ravel().tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("roles", "truth"),
    [((), None), ((PRED,), None), ((REF,), REF), ((REF, PRED), REF), ((PRED, CORR), CORR), ((REF, CORR), CORR)],
)
def test_the_truth_is_the_correction_then_the_reference_and_never_the_prediction(small_case, roles, truth):
    case = labelled(small_case(), *roles)
    if truth is None:
        assert case.truth is None
    else:
        assert case.truth == (truth, case.labels[truth])


def test_an_image_on_another_grid_is_refused(small_case):
    case = small_case(orientation="RAS")
    moved = affine_of("RAS", (0.7, 1.0, 1.2))
    moved[2, 3] += 5
    with pytest.raises(InputError, match=r"an image for display whose corner lies 5\.00 mm"):
        Case(case.key, case.tissue, Volume.from_array(asymmetric(), moved))
