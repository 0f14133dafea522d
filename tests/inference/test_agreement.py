"""Trials of OpenVINO against PyTorch: what they measure, and when they are remembered."""

import numpy as np
import pytest
import torch
from networks import CPU, tiny_network

from napari_pcs.errors import CancelledError, SessionError
from napari_pcs.inference import agreement as module
from napari_pcs.inference.agreement import Agreement, Agreements, measure_agreement
from napari_pcs.inference.labelling import labels_from
from napari_pcs.inference.torch_engine import TorchEngine
from napari_pcs.models.contract import SegmentationOutput
from napari_pcs.models.heads import channel_probabilities
from napari_pcs.stop import StopToken

SHAPE = (64, 32, 32)
WEIGHTS = "ab12"


@pytest.fixture(autouse=True)
def small_probe(monkeypatch):
    monkeypatch.setattr(module, "PROBE", SHAPE)


@pytest.fixture(scope="module")
def network():
    return tiny_network()


class Engine:
    """PyTorch, with logits that are off by so much."""

    def __init__(self, network, off=0.0, precision="fp32"):
        self.network, self.off, self.precision, self.passes = network, off, precision, []

    @property
    def name(self):
        return f"OpenVINO {self.precision}"

    def run(self, image, stop):
        self.passes.append(tuple(image.shape[2:]))
        out = TorchEngine(self.network, CPU, "fp32").run(image, stop)
        return SegmentationOutput(out.logits + self.off, out.features)

    def release(self):
        pass


@pytest.fixture
def trials(tmp_path):
    return Agreements(tmp_path / "trials")


def anew(trials):
    """The same folder as another process sees it."""
    return Agreements(trials.folder)


def test_the_difference_of_probabilities_and_the_dice_of_labels_are_measured(network):
    found = measure_agreement(Engine(network, off=0.3), SHAPE, StopToken())
    logits = TorchEngine(network, CPU, "fp32").run(module._image(4, SHAPE), StopToken()).logits
    wanted, off = channel_probabilities(logits), channel_probabilities(logits + 0.3)
    ours, theirs = (labels_from(np.moveaxis(p[0].numpy(), 0, -1), min_voxels=1) for p in (off, wanted))
    ours, theirs = (np.stack([labels > 0, labels == 2]) for labels in (ours, theirs))
    assert found.largest == pytest.approx(float((off - wanted).abs().max()), rel=1e-4)
    assert found.dice == pytest.approx(2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()), rel=1e-6)
    assert 0 < found.dice < 1
    same = measure_agreement(Engine(network), SHAPE, StopToken())
    assert (same.largest, same.dice) == (0, 1)


@pytest.mark.parametrize(
    ("precision", "largest", "dice", "close"),
    [
        ("fp32", 9e-4, 0.9, True),
        ("fp32", 2e-3, 1.0, False),
        ("fp32", float("nan"), 1.0, False),
        ("bf16", 0.3, 0.991, True),
        ("bf16", 0.01, 0.989, False),
        ("bf16", float("nan"), float("nan"), False),
    ],
)
def test_single_precision_is_judged_by_probabilities_and_half_by_labels(precision, largest, dice, close):
    assert Agreement(precision=precision, largest=largest, dice=dice).is_close is close


def test_a_trial_is_made_once_and_remembered_by_other_processes(trials, network):
    engine = Engine(network)
    assert trials.known(engine, WEIGHTS, SHAPE) is None
    assert trials.try_weights(engine, WEIGHTS, StopToken())
    assert engine.passes == [SHAPE]
    for later in (trials, anew(trials)):
        assert later.known(engine, WEIGHTS, (96, 96, 96)) is True
        assert later.try_weights(engine, WEIGHTS, StopToken())
    assert engine.passes == [SHAPE]


@pytest.mark.parametrize("change", ["digest", "precision", "config", "version"])
def test_other_weights_precision_network_or_release_are_not_known(trials, network, monkeypatch, change):
    trials.try_weights(Engine(network), WEIGHTS, StopToken())
    engine, digest = Engine(network), WEIGHTS
    if change == "digest":
        digest = "cd34"
    elif change == "precision":
        engine.precision = "bf16"
    elif change == "config":
        engine.network = tiny_network(window_size=5)
    else:
        monkeypatch.setattr(module, "openvino_version", lambda: "2031.1")
    assert anew(trials).known(engine, digest, SHAPE) is None


def test_what_makes_no_difference_to_the_function_makes_none_to_what_is_known(trials, network):
    trials.try_weights(Engine(network), WEIGHTS, StopToken())
    other = Engine(tiny_network(flash_attention=False, gradient_checkpointing=True))
    assert trials.known(other, WEIGHTS, SHAPE)


def test_an_engine_that_does_not_agree_is_never_used_and_the_log_says_so(trials, network, caplog):
    engine = Engine(network, off=1.0)
    assert not trials.try_weights(engine, WEIGHTS, StopToken())
    assert anew(trials).known(engine, WEIGHTS, SHAPE) is False
    assert "PyTorch runs the model" in caplog.text


def test_a_shape_that_failed_rules_out_whatever_weights_and_no_other_shape(trials, network):
    engine, off = Engine(network), Engine(network, off=1.0)
    trials.try_weights(engine, WEIGHTS, StopToken())
    assert not trials.try_shape(off, (32, 64, 32), StopToken())
    assert trials.known(engine, WEIGHTS, (32, 64, 32)) is False
    assert trials.known(engine, "cd34", (32, 64, 32)) is False
    assert trials.known(engine, WEIGHTS, SHAPE) is True


@pytest.mark.parametrize("damage", [b"", b"{", b'{"precision": "fp32", "largest": 0}', b"\xff\xfe", b"[1]"])
def test_a_damaged_file_counts_as_none_and_is_written_anew(trials, network, damage):
    engine = Engine(network)
    trials.try_weights(engine, WEIGHTS, StopToken())
    (path,) = trials.folder.iterdir()
    sound = path.read_bytes()
    path.write_bytes(damage)
    again = anew(trials)
    assert again.known(engine, WEIGHTS, SHAPE) is None
    assert again.try_weights(engine, WEIGHTS, StopToken())
    assert path.read_bytes() == sound


def test_where_the_folder_takes_nothing_a_trial_is_remembered_by_this_process(trials, network, monkeypatch, caplog):
    def refuse(*_):
        msg = "The disk is full."
        raise SessionError(msg)

    monkeypatch.setattr(module, "write_text", refuse)
    engine = Engine(network)
    assert trials.try_weights(engine, WEIGHTS, StopToken())
    assert trials.known(engine, WEIGHTS, SHAPE)
    assert "found out anew by every process. The disk is full." in caplog.text
    assert anew(trials).known(engine, WEIGHTS, SHAPE) is None


def test_a_file_in_place_of_the_folder_is_no_reason_to_fail(tmp_path, network):
    (tmp_path / "trials").write_text("not a folder")
    trials = Agreements(tmp_path / "trials")
    assert trials.known(Engine(network), WEIGHTS, SHAPE) is None
    assert trials.try_weights(Engine(network), WEIGHTS, StopToken())


def test_old_trials_go_when_there_are_too_many(trials, network, monkeypatch):
    monkeypatch.setattr(module, "_MOST", 2)
    for digest in ("a", "b", "c"):
        trials.try_weights(Engine(network), digest, StopToken())
    assert len(list(trials.folder.iterdir())) == 2
    assert trials.known(Engine(network), "a", SHAPE)  # this process still knows


def test_a_cancelled_trial_is_not_remembered(trials, network):
    stop = StopToken()
    stop.set()
    with pytest.raises(CancelledError):
        trials.try_weights(Engine(network), WEIGHTS, stop)
    assert not trials.folder.exists()
    assert trials.known(Engine(network), WEIGHTS, SHAPE) is None


@pytest.mark.parametrize("channels", [1, 4])
def test_the_image_of_a_trial_has_tissue_in_blocks_and_position(channels):
    image = module._image(channels, (20, 16, 9))
    assert image.shape == (1, channels, 20, 16, 9)
    assert image[0, 0].unique().tolist() == [0, 0.5, 1]
    assert torch.equal(image[0, 0, :8, :8, :8].unique(), image[0, 0, :1, :1, :1].unique())
    if channels == 4:
        assert image[0, 1, :, 0, 0].tolist() == pytest.approx(torch.linspace(-1, 1, 20).tolist())


def test_the_folder_is_in_the_cache_that_the_user_names(monkeypatch, tmp_path):
    monkeypatch.setenv("NAPARI_PCS_CACHE", str(tmp_path))
    assert Agreements().folder == tmp_path / "openvino"
