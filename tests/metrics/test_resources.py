import threading
import time

import numpy as np
import psutil
import pytest
from networks import CPU

from napari_pcs.metrics.resources import MemoryWatch

MB = 1_000_000


def test_a_large_array_that_lives_briefly_is_seen_even_after_it_is_gone():
    before = psutil.Process().memory_info().rss / MB
    with MemoryWatch(CPU) as watch:
        array = np.ones(200 * MB, dtype=np.uint8)
        time.sleep(0.2)
        del array
        time.sleep(0.1)
    after = psutil.Process().memory_info().rss / MB
    assert after < before + 100
    assert before + 180 < watch.peak_mb < before + 400


def test_a_block_that_needs_nothing_costs_nothing():
    with MemoryWatch(CPU) as watch:
        time.sleep(0.12)
    assert watch.peak_mb == pytest.approx(psutil.Process().memory_info().rss / MB, abs=50)


def test_watching_ends_with_the_block_even_if_it_fails():
    threads = threading.active_count()

    def fail():
        with MemoryWatch(CPU):
            assert threading.active_count() == threads + 1
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert threading.active_count() == threads
