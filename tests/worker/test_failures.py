import pytest
import torch
from fake_work import predict, tune, warm

from napari_pcs.errors import InputError, ModelError
from napari_pcs.training.step import OutOfMemoryError
from napari_pcs.worker.failures import failure_of


def raised(error, cause=None):
    """Return an error as it is caught."""
    try:
        raise error from cause
    except type(error) as caught:
        return caught


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
        RuntimeError("CUDA error: out of memory"),
    ],
)
def test_memory_that_ran_out_is_told_in_the_same_words_however_it_shows(error):
    found = failure_of(raised(error), tune("x"))
    assert found.sentence.startswith("Tuning ran out of memory. Choose a smaller patch or the CPU, or close other")
    assert found.no_memory
    assert not found.lost_device


def test_advice_is_about_what_was_asked_for():
    assert "Choose the CPU, or close" in failure_of(MemoryError(), predict("x")).sentence
    assert failure_of(MemoryError(), warm("x")).sentence.startswith("Loading the model ran out of memory")


@pytest.mark.parametrize("kind", [ModelError, OutOfMemoryError])
def test_a_sentence_of_ours_stands_and_its_cause_is_seen(kind):
    found = failure_of(raised(kind("The cuda device ran out of memory."), torch.OutOfMemoryError()), predict("x"))
    assert found.sentence == "The cuda device ran out of memory."
    assert found.no_memory
    assert not found.details


def test_bad_input_is_only_a_sentence():
    found = failure_of(raised(InputError(found="a cat", expected="a brain")), predict("x"))
    assert found == ("found a cat, expected a brain.", "", False, False)


def test_a_gpu_that_fails_is_told_from_one_without_memory():
    found = failure_of(raised(RuntimeError("CUDA error: device-side assert triggered\nmore")), tune("x"))
    assert found.lost_device
    assert not found.no_memory
    assert "the GPU failed (CUDA error: device-side assert triggered)" in found.sentence


def test_anything_else_has_its_type_its_first_line_and_its_traceback():
    found = failure_of(raised(KeyError("weights"), ValueError("deep down")), tune("x"))
    assert found.sentence == "Tuning failed unexpectedly (KeyError: 'weights'). The log has the details."
    assert "deep down" in found.details
    assert (
        failure_of(raised(ValueError()), tune("x")).sentence
        == "Tuning failed unexpectedly (ValueError: no message). The log has the details."
    )
