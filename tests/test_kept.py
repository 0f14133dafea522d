"""Kept predictions: what comes back, and what makes an entry count as none."""

import json
from dataclasses import fields, replace

import numpy as np
import pytest
from networks import CPU, look_through_a_small_box, tiny_network

from napari_pcs import kept as module
from napari_pcs.anatomy.length import measure_case
from napari_pcs.anatomy.preset import find_preset
from napari_pcs.bids import CaseKey
from napari_pcs.case import Case, LabelRole
from napari_pcs.data.bundles import Bundles
from napari_pcs.inference.labelling import labels_from
from napari_pcs.kept import KeptPredictions, image_digest
from napari_pcs.labels import Hemisphere, PcsClass
from napari_pcs.predict import predict
from napari_pcs.provenance import ModelReference, Provenance
from napari_pcs.volume import Volume

L, R = Hemisphere.LEFT, Hemisphere.RIGHT
MODEL = ModelReference(name="tiny", digest="ab12")
PLENTY = 10**9


@pytest.fixture
def store(tmp_path):
    return KeptPredictions(Bundles(tmp_path / "kept", PLENTY))


@pytest.fixture(scope="module")
def case(coarse_left):
    return coarse_left


@pytest.fixture(scope="module")
def prediction(case):
    """What a network with random weights says of a small box of the phantom."""
    with pytest.MonkeyPatch.context() as patch:
        look_through_a_small_box(patch)
        found = predict(case, tiny_network(2), MODEL, CPU)
    assert set(np.unique(found.labels)) == {0, 1, 2}
    assert found.measurement.length_mm > 0
    return found


def with_tissue(case, data=None, affine=None, side=None, path=None):
    tissue = Volume.from_array(
        case.tissue.data if data is None else data, case.tissue.affine if affine is None else affine, path=path
    )
    return Case(case.key._replace(hemisphere=side or case.key.hemisphere), tissue, tissue, commissures=case.commissures)


def anew(store):
    """Return the same predictions as another process sees them."""
    return KeptPredictions(Bundles(store.bundles.folder, PLENTY))


@pytest.fixture
def never_measure(monkeypatch):
    monkeypatch.setattr(module, "measure_case", lambda *_: pytest.fail("measured anew"))


# What comes back


def test_a_kept_prediction_is_the_original_but_for_the_rounding_of_probabilities(
    store, case, prediction, never_measure
):
    assert store.put(case, prediction)
    for found in (store.get(case, MODEL), anew(store).get(case, MODEL)):
        assert found.kept
        for field in fields(prediction):
            one, other = (getattr(p, field.name) for p in (prediction, found))
            if field.name == "probabilities":
                np.testing.assert_array_equal(other, one.astype(np.float16).astype(np.float32))
            elif field.name == "labels":
                np.testing.assert_array_equal(other, one)
            elif field.name != "kept":
                assert other == one, field.name
        assert found.labels.dtype == np.uint8
        assert found.probabilities.dtype == np.float32
        assert list(found.class_probabilities) == list(PcsClass.measured())
        assert not prediction.kept


def test_what_comes_back_may_be_edited_without_changing_what_is_kept(store, case, prediction):
    store.put(case, prediction)
    found = store.get(case, MODEL)
    found.labels[:] = 1
    found.probabilities[:] = 0
    np.testing.assert_array_equal(store.get(case, MODEL).labels, prediction.labels)
    assert store.get(case, MODEL).add_to(case).labels[LabelRole.PREDICTED].provenance.model == MODEL


def test_labels_are_those_of_the_unrounded_probabilities(store, case, prediction):
    below = np.nextafter(np.float32(0.5), np.float32(0))  # float16 makes 0.5 of it
    probabilities = np.zeros((*case.tissue.shape, 2), np.float32)
    probabilities[5:9, 5:9, 5:9, 0] = below
    probabilities[12:16, 5:9, 5:9] = 0.75, below
    probabilities[12:16, 5:9, 7:9, 1] = 0.1
    exact = replace(prediction, probabilities=probabilities, labels=labels_from(probabilities))
    store.put(case, exact)
    found = store.get(case, MODEL)
    assert np.count_nonzero(labels_from(found.probabilities) != exact.labels) == 64
    np.testing.assert_array_equal(found.labels, exact.labels)


def test_a_prediction_that_finds_nothing_comes_back_empty(store, case, prediction):
    nothing = replace(
        prediction,
        labels=np.zeros_like(prediction.labels),
        probabilities=np.zeros_like(prediction.probabilities),
        measurement=measure_case(case, np.zeros_like(prediction.labels)),
    )
    store.put(case, nothing)
    found = store.get(case, MODEL)
    assert found.labels.shape == case.tissue.shape
    assert not found.labels.any()
    assert not found.probabilities.any()
    assert found.measurement == nothing.measurement


def test_labels_where_no_probability_is_left_come_back_too(store, case, prediction):
    labels = np.zeros_like(prediction.labels)
    labels[0, 0, 0] = labels[-1, -1, -1] = 1
    corner = replace(prediction, labels=labels, probabilities=np.zeros_like(prediction.probabilities))
    store.put(case, corner)
    np.testing.assert_array_equal(store.get(case, MODEL).labels, labels)


def test_air_around_a_hemisphere_takes_no_room(tmp_path, case, prediction):
    width = ((40, 10), (5, 30), (20, 20))
    affine = case.tissue.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ [before for before, _ in width]
    wide = with_tissue(case, np.pad(case.tissue.data, width), affine)
    said = replace(
        prediction,
        labels=np.pad(prediction.labels, width),
        probabilities=np.pad(prediction.probabilities, (*width, (0, 0))),
    )
    stores = [KeptPredictions(Bundles(tmp_path / name, PLENTY)) for name in ("tight", "wide")]
    stores[0].put(case, prediction)
    stores[1].put(wide, said)
    tight, large = (s.bundles.usage()[1] for s in stores)
    assert abs(tight - large) < 200  # the notes differ
    np.testing.assert_array_equal(stores[1].get(wide, MODEL).labels, said.labels)


# The measurement


def test_length_and_class_follow_the_commissures_that_the_case_has_now(store, case, prediction):
    store.put(case, prediction)
    moved = case.commissures.model_copy(update={"ac_mm": tuple(np.add(case.commissures.ac_mm, (0, 3, 4)))})
    other = replace(case, commissures=moved)
    found = store.get(other, MODEL).measurement
    assert found == measure_case(other, prediction.labels)
    assert found != prediction.measurement
    assert store.get(replace(case, commissures=None), MODEL).measurement is None


def test_a_case_whose_commissures_became_known_is_measured(store, case, prediction):
    unknown = replace(case, commissures=None)
    store.put(unknown, replace(prediction, measurement=None))
    assert store.get(unknown, MODEL).measurement is None
    assert store.get(case, MODEL).measurement == prediction.measurement


def test_length_and_class_follow_the_protocol_that_is_asked_for(store, case, prediction, monkeypatch):
    sagittal = find_preset("sagittal")
    store.put(case, prediction)
    expected = measure_case(case, prediction.labels, sagittal)
    assert expected != prediction.measurement
    assert store.get(case, MODEL, sagittal).measurement == expected
    store.put(case, replace(prediction, measurement=expected), sagittal)
    assert store.get(case, MODEL).measurement == prediction.measurement
    monkeypatch.setattr(module, "measure_case", lambda *_: pytest.fail("measured anew"))
    assert store.get(case, MODEL, sagittal).measurement == expected


def test_an_edited_protocol_of_the_same_name_is_another(store, case, prediction):
    store.put(case, prediction)
    default = find_preset("default")
    strict = default.model_copy(update={"small_from_mm": 300.0, "present_from_mm": 400.0})
    assert store.get(case, MODEL, strict).measurement.pcs_class == PcsClass.ABSENT
    assert store.get(case, MODEL).measurement.pcs_class == prediction.measurement.pcs_class != PcsClass.ABSENT


def test_a_measurement_by_another_protocol_than_said_is_not_taken(store, case, prediction):
    sagittal = find_preset("sagittal")
    store.put(case, replace(prediction, measurement=measure_case(case, prediction.labels, sagittal)))
    assert store.get(case, MODEL).measurement == prediction.measurement


def test_a_hemisphere_that_was_moved_in_the_world_is_measured_where_it_lies(store, case, prediction):
    store.put(case, prediction)
    affine = case.tissue.affine.copy()
    affine[:3, 3] += (0, 0, 12)
    moved = with_tissue(case, affine=affine)
    found = store.get(moved, MODEL)
    np.testing.assert_array_equal(found.labels, prediction.labels)
    assert found.measurement == measure_case(moved, prediction.labels)
    assert found.measurement.extent_mm != prediction.measurement.extent_mm


# What an entry belongs to


def test_nothing_is_known_of_what_was_never_predicted(store, case):
    assert store.get(case, MODEL) is None
    assert not store.has(case, MODEL.digest)


def test_a_tuned_model_has_its_own_predictions_and_leaves_those_of_its_base(store, case, prediction):
    tuned = ModelReference(name="tiny", digest="cd34")
    store.put(case, prediction)
    assert store.get(case, tuned) is None
    said = replace(prediction, model=tuned, labels=prediction.labels[::-1].copy())
    store.put(case, said)
    np.testing.assert_array_equal(store.get(case, tuned).labels, said.labels)
    np.testing.assert_array_equal(store.get(case, MODEL).labels, prediction.labels)


def test_a_renamed_model_is_the_same_model(store, case, prediction):
    store.put(case, prediction)
    renamed = ModelReference(name="other", digest=MODEL.digest)
    assert store.get(case, renamed).model == renamed


def one_voxel_changed(case):
    data = case.tissue.data.copy()
    place = tuple(np.argwhere(data == 1)[100])
    data[place] = 2
    return with_tissue(case, data)


OTHERS = {
    "one voxel": one_voxel_changed,
    "mirrored": lambda case: with_tissue(case, np.ascontiguousarray(case.tissue.data[::-1])),
    "the other side": lambda case: with_tissue(case, side=R),
    "another voxel size": lambda case: with_tissue(case, affine=case.tissue.affine @ np.diag([1.01, 1, 1, 1])),
    "one empty plane more": lambda case: with_tissue(case, np.pad(case.tissue.data, ((0, 1), (0, 0), (0, 0)))),
    "axes exchanged": lambda case: with_tissue(case, np.ascontiguousarray(case.tissue.data.transpose(0, 2, 1))),
}
SAMES = {
    "another name": lambda case: replace(case, key=CaseKey("somebody", "2", case.key.hemisphere)),
    "from a file": lambda case: with_tissue(case, path="elsewhere.nii.gz"),
    "other labels": lambda case: case.with_labels(
        LabelRole.CORRECTED, np.zeros(case.tissue.shape, np.uint8), Provenance(manual=True, hemisphere="L")
    ),
    "another image shown": lambda case: replace(case, image=case.tissue.with_data(case.tissue.data * 1.5)),
    "another type": lambda case: with_tissue(case, case.tissue.data.astype(np.float64)),
    "another order in memory": lambda case: replace(
        case, tissue=case.tissue.with_data(np.asfortranarray(case.tissue.data))
    ),
    "commissures": lambda case: replace(case, commissures=None),
    "an affine in single precision": lambda case: with_tissue(
        case, affine=case.tissue.affine.astype(np.float32).astype(float)
    ),
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_another_image_has_no_prediction(store, case, prediction, change):
    store.put(case, prediction)
    other = change(case)
    assert image_digest(other) != image_digest(case)
    assert store.get(other, MODEL) is None
    assert not store.has(other, MODEL.digest)


@pytest.mark.parametrize("change", SAMES.values(), ids=SAMES)
def test_what_the_network_does_not_see_changes_nothing(store, case, prediction, change):
    store.put(case, prediction)
    other = change(case)
    assert image_digest(other) == image_digest(case)
    assert store.has(other, MODEL.digest)
    np.testing.assert_array_equal(store.get(other, MODEL).labels, prediction.labels)


def test_a_rotated_affine_with_the_same_voxels_is_the_same_input(case):
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.1), -np.sin(0.1)], [np.sin(0.1), np.cos(0.1)]]
    assert image_digest(with_tissue(case, affine=turn @ case.tissue.affine)) == image_digest(case)


def test_tissue_that_is_no_whole_number_is_told_from_what_it_would_be_rounded_to(case):
    assert image_digest(with_tissue(case, case.tissue.data * 0.75)) != image_digest(
        with_tissue(case, (case.tissue.data * 0.75).astype(np.uint8))
    )


def test_one_pass_and_windows_are_kept_beside_one_another(store, case, prediction):
    assert prediction.mode == "whole"
    store.put(case, prediction)
    assert store.get(case, MODEL, mode="windows") is None
    assert not store.has(case, MODEL.digest, "windows")
    windows = replace(prediction, mode="windows", labels=np.minimum(prediction.labels, 1))
    store.put(case, windows)
    np.testing.assert_array_equal(store.get(case, MODEL, mode="windows").labels, windows.labels)
    np.testing.assert_array_equal(store.get(case, MODEL, mode="whole").labels, prediction.labels)
    assert store.get(case, MODEL).mode == "whole"


def test_windows_are_taken_where_there_is_nothing_else_and_no_mode_was_asked_for(store, case, prediction):
    store.put(case, replace(prediction, mode="windows"))
    assert store.get(case, MODEL).mode == "windows"
    assert store.has(case, MODEL.digest)


def test_another_release_predicts_anew(store, case, prediction, monkeypatch):
    store.put(case, prediction)
    monkeypatch.setattr(module, "_RULES", "another")
    assert store.get(case, MODEL) is None


@pytest.mark.parametrize("name", ["image", "model", "mode"])
def test_an_entry_whose_note_names_something_else_is_not_taken(store, case, prediction, name):
    store.put(case, prediction)
    key = module._key(image_digest(case), MODEL.digest, "whole")
    bundle = store.bundles.read(key)
    arrays = {n: a.copy() for n, a in bundle.arrays.items()}
    store.bundles.write(key, arrays, {**bundle.note, name: "ff"})
    assert store.get(case, MODEL) is None
    store.bundles.write(key, arrays, {n: v for n, v in bundle.note.items() if n != name})
    assert store.get(case, MODEL) is None


def test_a_digest_asks_as_well_as_a_case(store, case, prediction):
    digest = image_digest(case)
    assert not store.has(digest, MODEL.digest)
    store.put(case, prediction)
    assert store.has(digest, MODEL.digest)
    assert not store.has(digest, "cd34")
    assert not store.has(digest[::-1], MODEL.digest)


# Disks that refuse


def test_a_prediction_that_cannot_be_kept_says_so(tmp_path, case, prediction):
    store = KeptPredictions(Bundles(tmp_path / "kept", 1000))
    assert not store.put(case, prediction)
    assert store.get(case, MODEL) is None


def test_a_damaged_entry_counts_as_none(store, case, prediction):
    store.put(case, prediction)
    (path,) = store.bundles.folder.rglob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert store.get(case, MODEL) is None
    assert not store.has(case, MODEL.digest)


def test_the_note_is_plain_json(store, case, prediction):
    store.put(case, prediction)
    key = module._key(image_digest(case), MODEL.digest, "whole")
    note = dict(store.bundles.read(key).note)
    assert json.loads(json.dumps(note)) == note
    assert note["timings_s"] == dict(prediction.timings_s)
