import sys
import threading
import time
from types import ModuleType, SimpleNamespace

import psutil
import pytest
import torch
from networks import CPU

from napari_pcs.metrics import resources
from napari_pcs.metrics.resources import DeviceWatch
from napari_pcs.models import device

UUID = "0f3c2b1a-1111-2222-3333-444455556666"
GPU = torch.device("cuda", 0)


class FakeNvml(ModuleType):
    """A driver of one GPU that says what it is told to say."""

    class NVMLError(Exception):
        pass

    def __init__(self):
        super().__init__("pynvml")
        self.begun = self.ended = 0
        self.shares, self.watts = [30, 60, 90], [100_000, 200_000]

    def nvmlInit(self):  # noqa: N802  NVML's name
        self.begun += 1

    def nvmlShutdown(self):  # noqa: N802  NVML's name
        self.ended += 1

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802  NVML's name
        if uuid != f"GPU-{UUID}":
            raise self.NVMLError(3)
        return "the GPU"

    def nvmlDeviceGetUtilizationRates(self, handle):  # noqa: N802  NVML's name
        return SimpleNamespace(gpu=self._next(handle, self.shares))

    def nvmlDeviceGetPowerUsage(self, handle):  # noqa: N802  NVML's name
        return self._next(handle, self.watts)

    def _next(self, handle, values):
        assert handle == "the GPU"
        if not values:
            raise self.NVMLError(6)
        return values[0] if len(values) == 1 else values.pop(0)


@pytest.fixture
def nvml(monkeypatch):
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setattr(resources, "_GPU_INTERVAL_S", 0.02)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: SimpleNamespace(uuid=UUID))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _device: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _device: 3_000_000)
    return fake


def test_utilisation_and_power_are_means_over_the_block(nvml):
    nvml.shares, nvml.watts = [30, 60, 90, 0], [100_000, 200_000, 300_000]
    seen = []
    ask = nvml.nvmlDeviceGetPowerUsage
    nvml.nvmlDeviceGetPowerUsage = lambda handle: seen.append(ask(handle)) or seen[-1]
    with DeviceWatch(GPU) as watch:
        while len(seen) < 4:
            time.sleep(0.01)
    assert watch.power_w == pytest.approx(sum(seen) / len(seen) / 1000)
    assert watch.utilisation == pytest.approx((0.3 + 0.6 + 0.9) / len(seen))
    assert watch.peak_mb == 3.0
    assert (nvml.begun, nvml.ended) == (1, 1)


def test_a_block_shorter_than_an_interval_is_read_once(nvml, monkeypatch):
    monkeypatch.setattr(resources, "_GPU_INTERVAL_S", 60)
    with DeviceWatch(GPU) as watch:
        pass
    assert (watch.utilisation, watch.power_w) == (0.3, 100.0)


def test_what_the_driver_does_not_support_is_unknown_and_the_rest_is_known(nvml):
    nvml.shares = []
    with DeviceWatch(GPU) as watch:
        time.sleep(0.1)
    assert watch.utilisation is None
    assert watch.power_w > 0


def test_without_a_driver_nothing_is_known_but_the_memory(nvml):
    def none():
        raise nvml.NVMLError(9)

    nvml.nvmlInit = none
    with DeviceWatch(GPU) as watch:
        pass
    assert (watch.utilisation, watch.power_w, watch.peak_mb) == (None, None, 3.0)
    assert nvml.ended == 0


def test_a_gpu_that_the_driver_does_not_know_is_not_mistaken_for_another(nvml, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: SimpleNamespace(uuid="another"))
    with DeviceWatch(GPU) as watch:
        pass
    assert (watch.utilisation, watch.power_w) == (None, None)
    assert (nvml.begun, nvml.ended) == (1, 1)


def test_on_a_cpu_the_memory_of_the_process_is_what_there_is(nvml):
    with DeviceWatch(CPU) as watch:
        time.sleep(0.1)
    assert watch.peak_mb == pytest.approx(psutil.Process().memory_info().rss / 1e6, abs=50)
    assert (watch.utilisation, watch.power_w) == (None, None)
    assert nvml.begun == 0


@pytest.mark.parametrize("where", [GPU, CPU])
def test_watching_ends_with_the_block_even_if_the_block_fails(nvml, where):
    threads = threading.active_count()

    def fail():
        with DeviceWatch(where):
            assert threading.active_count() == threads + 1
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert threading.active_count() == threads
    assert nvml.begun == nvml.ended


def test_the_watch_knows_the_memory_of_the_device_it_was_given(monkeypatch):
    asked = []
    monkeypatch.setattr(device, "process_memory_mb", lambda: asked.append(1) or 7.0)
    with DeviceWatch(CPU) as watch:
        pass
    assert asked
    assert watch.peak_mb == 7.0
