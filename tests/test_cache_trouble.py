"""Caches that are full, read-only, damaged, shared or of another model: a result or a sentence, never a wrong array.

The caches are those of predictions and of what tuning keeps, each through its own user.
"""

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import corrected_by, predicted_by
from networks import CPU, look_through_a_small_box, tiny_network
from quick_prediction import MODEL, OTHER, quick_prediction

from napari_pcs.case import LabelRole
from napari_pcs.data import bundle_file
from napari_pcs.data.bundles import Bundles
from napari_pcs.errors import ModelError
from napari_pcs.kept import KeptPredictions
from napari_pcs.models.folders import ModelFolder
from napari_pcs.models.store import load_segmenter, save_network
from napari_pcs.predict import predict
from napari_pcs.session import Session
from napari_pcs.stop import StopToken
from napari_pcs.strategies import prepare
from napari_pcs.training.config import TuneConfig
from napari_pcs.training.features import FrozenValues, Item
from napari_pcs.training.labelled import Labelled
from napari_pcs.tuning import labelled_cases

TESTS = Path(__file__).parent
PLENTY = 10**9
CONFIG = TuneConfig(strategy="top", patch=32, patches=2, views=1)


def case_of_a_session(root, small_case):
    """A session with one corrected case, and that case."""
    session = Session.create(root)
    case = small_case("01")
    labels = np.ones(case.tissue.shape, np.uint8)
    predicted = case.with_labels(LabelRole.PREDICTED, labels, predicted_by())
    session.add(predicted)
    session.write_correction(predicted.with_labels(LabelRole.CORRECTED, 2 * labels, corrected_by()), labels, 1.0)
    return session, session.load(case.key)


class Predictions:
    """The cache of predictions, and what it gives."""

    def __init__(self, case):
        self.case = case

    def fill(self, bundles):
        return KeptPredictions(bundles).put(self.case, quick_prediction(self.case))

    def take(self, bundles):
        """Return what a user of the cache works with: what is kept, or what is computed instead."""
        found = KeptPredictions(bundles).get(self.case, MODEL)
        prediction = found or quick_prediction(self.case)
        return {"labels": prediction.labels, "probabilities": prediction.probabilities}


class Values:
    """The cache of what tuning reads, and what it gives."""

    def __init__(self, case):
        torch.manual_seed(0)
        self.case, self.network = Labelled.of(case), tiny_network()
        prepare(self.network, "top", seed=0)

    def fill(self, bundles):
        values = FrozenValues(self.network, CONFIG, bundles, StopToken())
        values.prepare(self.case, 0)
        return bundles.has(values._key(self.case, 0))

    def take(self, bundles):
        values = FrozenValues(self.network, CONFIG, bundles, StopToken())
        return {name: np.asarray(array) for name, array in values.patch(Item(self.case, 0, 1)).items()}


@pytest.fixture(autouse=True)
def small_box(monkeypatch):
    look_through_a_small_box(monkeypatch)


@pytest.fixture(params=["predictions", "values"])
def user(request, small_case, coarse_left):
    return Predictions(small_case("01")) if request.param == "predictions" else Values(coarse_left)


@pytest.fixture
def bundles(tmp_path):
    return Bundles(tmp_path / "kept", PLENTY)


def anew(bundles):
    """The same folder as another process sees it."""
    return Bundles(bundles.folder, bundles.limit_bytes)


def files_of(bundles):
    return [path for path in bundles.folder.rglob("*.safetensors") if path.is_file()]


def same(one, two):
    return one.keys() == two.keys() and all(np.array_equal(one[name], two[name]) for name in one)


# Full, read-only, damaged


@pytest.mark.parametrize("code", ["ENOSPC", "EROFS", "EDQUOT"])
def test_a_disk_that_refuses_is_a_warning_and_the_result_is_the_same(
    user, bundles, tmp_path, monkeypatch, caplog, code
):
    import errno

    user.fill(anew(Bundles(tmp_path / "other", PLENTY)))
    expected = user.take(Bundles(tmp_path / "other", PLENTY))

    def refuse(*_):
        number = getattr(errno, code)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(bundle_file, "_put", refuse)
    with caplog.at_level(logging.WARNING):
        assert not user.fill(bundles)
        assert same(user.take(bundles), expected)
    assert {"ENOSPC": "disk is full", "EDQUOT": "disk is full", "EROFS": "read-only"}[code] in caplog.text
    assert files_of(bundles) == []


@pytest.mark.skipif(sys.platform != "linux", reason="needs a way to refuse root too")
def test_a_folder_that_nobody_may_write_into_is_read_and_what_is_missing_is_computed(user, bundles, tmp_path, caplog):
    """A file stands where a bundle's folder should be: not even root can write there."""
    user.fill(bundles)
    expected = user.take(anew(bundles))
    shutil.rmtree(bundles.folder)
    bundles.folder.parent.mkdir(exist_ok=True)
    bundles.folder.write_text("no folder")
    with caplog.at_level(logging.WARNING):
        assert not user.fill(anew(bundles))
        assert same(user.take(anew(bundles)), expected)
    assert "is not kept" in caplog.text
    assert bundles.folder.read_text() == "no folder"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_read(user, bundles):
    user.fill(bundles)
    expected = user.take(anew(bundles))
    folders = [bundles.folder, *(path for path in bundles.folder.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o500)
    try:
        assert same(user.take(anew(bundles)), expected)
    finally:
        for folder in folders:
            folder.chmod(0o700)


@pytest.mark.parametrize("damage", ["cut in half", "cut to nothing", "one byte", "other content"])
def test_a_damaged_entry_is_computed_again_and_never_wrong(user, bundles, damage):
    user.fill(bundles)
    expected = user.take(anew(bundles))
    (path,) = files_of(bundles)
    content = bytearray(path.read_bytes())
    if damage == "one byte":
        content[-1] ^= 1
    elif damage == "other content":
        content = bytearray(np.random.default_rng(0).bytes(len(content)))
    else:
        del content[len(content) // 2 if damage == "cut in half" else 0 :]
    path.write_bytes(content)
    assert same(_rounded(user.take(anew(bundles))), _rounded(expected))
    user.fill(anew(bundles))
    assert same(user.take(anew(bundles)), expected)


def _rounded(arrays):
    """Predictions that are computed have more digits than those that are kept."""
    return {n: a.astype(np.float16) if n == "probabilities" else a for n, a in arrays.items()}


def test_a_limit_of_nothing_keeps_nothing_and_the_result_is_the_same(user, bundles, tmp_path):
    user.fill(bundles)
    none = Bundles(tmp_path / "none", 0)
    assert not user.fill(none)
    assert same(_rounded(user.take(none)), _rounded(user.take(bundles)))


def test_a_session_has_the_same_files_whatever_becomes_of_the_caches(tmp_path, small_case, monkeypatch):
    session, case = case_of_a_session(tmp_path / "study", small_case)
    before = {path: path.read_bytes() for path in session.root.rglob("*") if path.is_file()}
    for limit, folder in ((0, "none"), (PLENTY, "kept"), (3000, "small")):
        user = Predictions(case)
        user.fill(Bundles(tmp_path / folder, limit))
        for path in files_of(Bundles(tmp_path / folder, limit)):
            path.write_bytes(path.read_bytes()[:50])
        user.take(Bundles(tmp_path / folder, limit))
    assert {path: path.read_bytes() for path in session.root.rglob("*") if path.is_file()} == before


# Shared

SHARING = """
import sys
import numpy as np
from pathlib import Path
from quick_prediction import MODEL, quick_prediction
from napari_pcs.data.bundles import Bundles
from napari_pcs.kept import KeptPredictions
from napari_pcs.session import Session

session, folder, seed = Session.open(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
kept = KeptPredictions(Bundles(folder, int(sys.argv[4])))
cases = list(session.cases())
rng = np.random.default_rng(seed)
found = 0
for n in rng.integers(0, len(cases), 150):
    case = cases[n]
    prediction = kept.get(case, MODEL)
    if prediction is None:
        kept.put(case, quick_prediction(case))
        continue
    found += 1
    np.testing.assert_array_equal(prediction.labels, quick_prediction(case).labels)
    np.testing.assert_array_equal(prediction.probabilities, quick_prediction(case).probabilities)
print(found)
"""


@pytest.mark.parametrize("limit", [PLENTY, 12_000], ids=["with room for all", "with room for a few"])
def test_two_sessions_that_share_a_cache_at_once_get_their_own_predictions(tmp_path, small_case, limit):
    """Each has other images under the same names."""
    for n in range(2):
        session = Session.create(tmp_path / f"study-{n}")
        for subject in range(6):
            case = small_case(f"{subject}")
            data = np.random.default_rng([n, subject]).integers(0, 3, case.tissue.shape, np.uint8)
            session.add(type(case)(case.key, case.tissue.with_data(data), case.tissue.with_data(data)))
    (tmp_path / "share.py").write_text(SHARING)
    paths = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    processes = [
        subprocess.Popen(
            [sys.executable, tmp_path / "share.py", tmp_path / f"study-{n}", tmp_path / "kept", str(n), str(limit)],
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in range(2)
    ]
    for process in processes:
        out, told = process.communicate(timeout=120)
        assert process.returncode == 0, told
        assert int(out) > 10
    assert Bundles(tmp_path / "kept", limit).usage()[1] <= limit


# Models


def test_a_tune_leaves_what_other_models_said_and_its_own_predictions_are_new(bundles, small_case):
    case, kept = small_case("01"), KeptPredictions(bundles)
    kept.put(case, quick_prediction(case, MODEL))
    before = {path: path.read_bytes() for path in files_of(bundles)}
    assert kept.get(case, OTHER) is None
    kept.put(case, quick_prediction(case, OTHER))
    np.testing.assert_array_equal(kept.get(case, MODEL).labels, quick_prediction(case, MODEL).labels)
    np.testing.assert_array_equal(kept.get(case, OTHER).labels, quick_prediction(case, OTHER).labels)
    assert {path: path.read_bytes() for path in before} == before
    assert len(files_of(bundles)) == 2


def test_weights_that_changed_under_the_same_name_have_no_predictions(bundles, tmp_path, coarse_left):
    kept = KeptPredictions(bundles)
    first = save_network(tiny_network(0), tmp_path / "one" / "mine", "# mine\n")
    second = save_network(tiny_network(1), tmp_path / "two" / "mine", "# mine\n")
    kept.put(coarse_left, predict(coarse_left, load_segmenter(first), first.reference, CPU))
    assert first.name == second.name
    assert kept.get(coarse_left, first.reference) is not None
    assert kept.get(coarse_left, second.reference) is None


def test_a_model_whose_weights_are_not_those_of_its_digest_is_refused_by_both(tmp_path):
    """What is kept under the digest says nothing about them."""
    model = save_network(tiny_network(0), tmp_path / "mine", "# mine\n")
    other = save_network(tiny_network(1), tmp_path / "other", "# other\n")
    shutil.copy(other.path / "weights.safetensors", model.path / "weights.safetensors")
    with pytest.raises(ModelError, match=r"Model mine: found weights with digest .*, expected .*\. Copy"):
        load_segmenter(ModelFolder(model.path))


def test_a_prediction_under_the_key_of_another_model_counts_as_none(bundles, small_case):
    """As after two folders were mixed by hand: the note inside says whose it is."""
    case, kept = small_case("01"), KeptPredictions(bundles)
    kept.put(case, quick_prediction(case, MODEL))
    (mine,) = files_of(bundles)
    kept.put(case, quick_prediction(case, OTHER))
    (theirs,) = set(files_of(bundles)) - {mine}
    theirs.write_bytes(mine.read_bytes())
    assert KeptPredictions(anew(bundles)).get(case, OTHER) is None
    assert KeptPredictions(anew(bundles)).get(case, MODEL) is not None


# What a correction invalidates


def test_a_correction_changes_what_is_tuned_on_of_that_case_only(tmp_path, small_case, bundles):
    session, case = case_of_a_session(tmp_path / "study", small_case)
    second = small_case("02")
    labels = np.ones(second.tissue.shape, np.uint8)
    predicted = second.with_labels(LabelRole.PREDICTED, labels, predicted_by())
    session.add(predicted)
    session.write_correction(predicted.with_labels(LabelRole.CORRECTED, 2 * labels, corrected_by()), labels, 1.0)
    kept = KeptPredictions(bundles)
    kept.put(case, quick_prediction(case))
    before = {one.name: one.digest for one in labelled_cases(session)}
    changed = case.labels[LabelRole.CORRECTED].data.copy()
    changed[0, 0, 0] = 0
    again = case.with_labels(LabelRole.CORRECTED, changed, corrected_by(seconds=50))
    session.write_correction(again, case.labels[LabelRole.CORRECTED].data, 2.0)
    after = {one.name: one.digest for one in labelled_cases(session)}
    assert [name for name in before if before[name] != after[name]] == ["sub-01_hemi-L"]
    assert kept.get(session.load(case.key), MODEL) is not None  # what a model says does not depend on labels


def test_values_of_a_corrected_case_are_new_and_those_of_others_stay(coarse_left, coarse_right, bundles):
    network = tiny_network()
    prepare(network, "top", seed=0)
    values = FrozenValues(network, CONFIG, bundles, StopToken())
    one, two = Labelled.of(coarse_left), Labelled.of(coarse_right)
    values.prepare(one, 0)
    values.prepare(two, 0)
    labels = coarse_left.labels[LabelRole.REFERENCE].data.copy()
    labels[labels == 2] = 1
    corrected = Labelled.of(coarse_left.with_labels(LabelRole.CORRECTED, labels, corrected_by()))
    assert not bundles.has(values._key(corrected, 0))
    assert bundles.has(values._key(two, 0))
    assert bundles.has(values._key(one, 0))
