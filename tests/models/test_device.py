import psutil
import pytest
import torch
from networks import CPU

from napari_pcs.errors import ModelError
from napari_pcs.models import device
from napari_pcs.models.device import available_devices, choose_device, free_memory, peak_memory_mb


@pytest.fixture
def machine(monkeypatch):
    """Pretend that this machine has some accelerators and no others."""

    def pretend(*names):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in names)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in names)

    return pretend


@pytest.mark.parametrize(
    ("has", "listed"),
    [((), ["cpu"]), (["cuda"], ["cuda", "cpu"]), (["mps"], ["mps", "cpu"]), (["mps", "cuda"], ["cuda", "mps", "cpu"])],
)
def test_devices_are_listed_fastest_first_and_auto_takes_the_first(machine, has, listed):
    machine(*has)
    assert available_devices() == listed
    assert choose_device("auto") == choose_device() == torch.device(listed[0])
    assert [choose_device(name).type for name in listed] == listed


@pytest.mark.parametrize("name", ["cuda", "mps", "tpu", ""])
def test_a_device_that_is_not_there_is_refused_and_the_others_are_named(machine, name):
    machine()
    with pytest.raises(ModelError, match=f"Device {name}: found cpu on this machine"):
        choose_device(name)


def test_free_memory_is_what_the_system_says(monkeypatch):
    total = psutil.virtual_memory().total
    assert 0 < free_memory(CPU) <= total
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (123, 456))
    assert free_memory(torch.device("cuda")) == 123


@pytest.mark.parametrize("much", [True, False])
def test_where_there_is_little_what_was_freed_is_given_back_first(monkeypatch, much):
    found = [12 * 2**30] if much else [2**30, 3 * 2**30]
    given = []
    monkeypatch.setattr(device, "_free_here", lambda: found.pop(0))
    monkeypatch.setattr(device, "give_back", lambda: given.append(len(found)))
    assert free_memory(CPU) == (12 if much else 3) * 2**30
    assert given == ([] if much else [1])


def test_peak_memory_is_in_megabytes(monkeypatch):
    assert peak_memory_mb(CPU) == pytest.approx(psutil.Process().memory_info().rss / 1e6, rel=0.05)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 2_500_000)
    assert peak_memory_mb(torch.device("cuda")) == 2.5


def test_only_a_cuda_device_is_told_to_start_a_new_measurement(monkeypatch):
    told = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", told.append)
    for name in ("cpu", "mps", "cuda"):
        device.reset_peak_memory(torch.device(name))
    assert told == [torch.device("cuda")]
