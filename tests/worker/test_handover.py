from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from builders import ORIENTATIONS, affine_of, asymmetric
from networks import CPU, look_through_a_small_box, tiny_network

from napari_pcs.bids import CaseKey
from napari_pcs.caches import prediction_cache
from napari_pcs.case import Case
from napari_pcs.data.bundles import Bundles
from napari_pcs.data.phantom import phantom
from napari_pcs.errors import InputError, PcsError
from napari_pcs.kept import KeptPredictions
from napari_pcs.labels import Hemisphere
from napari_pcs.predict import predict
from napari_pcs.provenance import ModelReference
from napari_pcs.session import Session
from napari_pcs.volume import Volume
from napari_pcs.worker.handover import case_of, discard, fetch, hand_over, read_case, write_case
from napari_pcs.worker.messages import HandedCase, StoredCase

MODEL = ModelReference(name="tiny", digest="ab12")


@pytest.fixture(scope="module")
def case():
    return phantom(Hemisphere.RIGHT, pcs_length_mm=30.0)


@pytest.fixture(scope="module")
def prediction(case):
    with pytest.MonkeyPatch.context() as patch:
        look_through_a_small_box(patch)
        return predict(case, tiny_network(), MODEL, CPU)


def same_volume(one, two):
    np.testing.assert_array_equal(one.data, two.data, strict=True)
    np.testing.assert_array_equal(one.affine, two.affine, strict=True)
    np.testing.assert_array_equal(one.orientation, two.orientation)
    np.testing.assert_array_equal(one.source_affine, two.source_affine)
    assert one.header.binaryblock == two.header.binaryblock
    assert one.header.endianness == two.header.endianness
    assert (one.spacing, one.path) == (two.spacing, two.path)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_case_is_read_as_it_was_written_to_the_last_bit(tmp_path, write_nifti, orientation, case):
    path = write_nifti("schön.nii.gz", asymmetric(dtype=np.uint8) % 3, affine=affine_of(orientation, (0.7, 1.0, 1.2)))
    tissue = Volume.read(path)
    written = Case(CaseKey("01", "2", Hemisphere.RIGHT), tissue, tissue, commissures=case.commissures)
    found = read_case(write_case(written, tmp_path / "Übergabe"))
    same_volume(found.tissue, tissue)
    assert found.key == written.key
    assert isinstance(found.key.hemisphere, Hemisphere)
    assert found.commissures == written.commissures
    assert found.image is found.tissue
    # What is written on its grid overlays the source.
    assert found.tissue.encode("x.nii") == tissue.encode("x.nii")


def test_a_header_of_the_other_byte_order_and_data_in_any_order_survive(tmp_path):
    data = np.asfortranarray(asymmetric(dtype=np.uint8))
    header = nib.Nifti1Header(endianness=">")
    header.set_sform(affine_of("RAS"), 2)
    volume = replace(Volume.from_array(data, affine_of("RAS"), header=header), data=data)
    found = read_case(write_case(Case(CaseKey("1", "", Hemisphere.LEFT), volume, volume), tmp_path))
    same_volume(found.tissue, volume)
    assert found.commissures is None


def test_labels_and_displayed_image_stay_behind(tmp_path, case):
    image = case.tissue.with_data(case.tissue.data.astype(np.float32))
    found = read_case(write_case(replace(case, image=image), tmp_path))
    assert not found.labels
    np.testing.assert_array_equal(found.image.data, case.tissue.data)


def test_files_of_one_case_do_not_meet(tmp_path, case):
    assert write_case(case, tmp_path) != write_case(case, tmp_path)


@pytest.mark.parametrize("damage", ["missing", "truncated", "altered", "of-another-kind"])
def test_a_damaged_file_is_a_sentence(tmp_path, case, damage):
    path = write_case(case, tmp_path)
    content = path.read_bytes()
    path.unlink()
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "altered":
        path.write_bytes(content.replace(b"orientation", b"orientatiom"))
    elif damage == "of-another-kind":
        path.write_bytes(b"not at all")
    with pytest.raises(InputError, match="found a case that cannot be read"):
        read_case(path)


def test_a_request_names_a_case_of_a_session_or_a_file(tmp_path, case):
    session = Session.create(tmp_path / "Sitzung ü")
    session.add(case)
    stored = case_of(StoredCase(session=str(session.root), case=case.key.stem))
    handed = case_of(HandedCase(path=str(write_case(case, tmp_path))))
    assert stored.key == handed.key == case.key
    np.testing.assert_array_equal(stored.tissue.data, case.tissue.data)
    np.testing.assert_array_equal(handed.tissue.data, case.tissue.data)


def same_prediction(one, two):
    np.testing.assert_array_equal(one.labels, two.labels, strict=True)
    np.testing.assert_allclose(one.probabilities, two.probabilities, atol=5e-4)
    assert one.class_probabilities == two.class_probabilities
    assert one.measurement == two.measurement
    assert (one.uncertainty, one.mode, one.model) == (two.uncertainty, two.mode, two.model)


def test_a_prediction_arrives_by_way_of_the_cache_and_stays_there(case, prediction):
    kept = KeptPredictions(prediction_cache())
    told = hand_over(prediction, case, kept)
    assert (told.temporary, told.kept, told.folder) == (False, False, str(kept.bundles.folder))
    same_prediction(fetch(told, case), prediction)
    assert kept.has(case, MODEL.digest)
    same_prediction(fetch(told, case), prediction)


@pytest.mark.parametrize("refusal", ["no folder", "too little room"])
def test_where_the_cache_refuses_a_prediction_it_arrives_all_the_same(tmp_path, monkeypatch, case, prediction, refusal):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "für kurz"))
    (tmp_path / "für kurz").mkdir()
    (tmp_path / "file").write_text("in the way")
    bundles = Bundles(tmp_path / "file" / "x", 10**9) if refusal == "no folder" else Bundles(tmp_path / "small", 1000)
    told = hand_over(prediction, case, KeptPredictions(bundles))
    assert told.temporary
    assert Path(told.folder).parent == tmp_path / "für kurz"
    same_prediction(fetch(told, case), prediction)
    assert not any((tmp_path / "für kurz").iterdir())


def test_a_prediction_that_fits_nowhere_is_a_sentence(tmp_path, monkeypatch, case, prediction):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(Bundles, "write", lambda *_: False)
    with pytest.raises(PcsError, match=r"could be written neither to .* nor to .*Free some space"):
        hand_over(prediction, case, KeptPredictions(prediction_cache()))
    assert not any(tmp_path.iterdir())


def test_a_prediction_that_has_gone_is_none_and_only_temporary_folders_are_removed(case, prediction):
    kept = KeptPredictions(prediction_cache())
    told = hand_over(prediction, case, kept)
    discard(told)
    assert kept.has(case, MODEL.digest)
    kept.bundles.clear()
    assert fetch(told, case) is None
