"""The memory that a container or a batch system leaves to a process."""

import pytest
import torch
from networks import CPU

from napari_pcs.models import device
from napari_pcs.models.cgroup import memory_left
from napari_pcs.models.device import free_memory

GB = 10**9


@pytest.fixture
def groups(tmp_path):
    """Write control groups by name: their limit, what is used, and how much of that only caches files."""

    def write(own, **by_name):
        root = tmp_path / "cgroup"
        root.mkdir()
        for name, (limit, used, cached) in by_name.items():
            folder = root / name.replace("__", "/") if name != "top" else root
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "memory.max").write_text(f"{limit}\n")
            (folder / "memory.current").write_text(f"{used}\n")
            (folder / "memory.stat").write_text(f"anon {used - cached}\ninactive_file {cached}\nslab 5\n")
        (tmp_path / "own").write_text(own)
        return {"root": root, "own": tmp_path / "own"}

    return write


def test_a_limit_leaves_what_is_not_used_and_what_only_caches_files(groups):
    assert memory_left(**groups("0::/job\n", job=(4 * GB, 3 * GB, 2 * GB))) == 3 * GB


def test_the_least_of_all_groups_above_counts(groups):
    found = groups("0::/slurm/job/step\n", slurm=(8 * GB, 7 * GB, 0), slurm__job__step=(4 * GB, 1 * GB, 0))
    assert memory_left(**found) == 1 * GB


def test_within_a_container_the_group_is_what_is_mounted(groups):
    assert memory_left(**groups("0::/docker/123abc\n", top=(2 * GB, 1 * GB, 0))) == 1 * GB


def test_a_group_that_is_over_its_limit_leaves_nothing(groups):
    assert memory_left(**groups("0::/job\n", job=(1 * GB, 2 * GB, 0))) == 0


@pytest.mark.parametrize(
    ("own", "limit"),
    [
        ("0::/job\n", "max"),
        ("4:memory:/job\n", GB),
        ("0::/../outside\n", GB),
        ("0::/gone\n", GB),
        ("0::/job\n", "many"),
    ],
)
def test_without_a_limit_that_can_be_read_there_is_none(groups, own, limit):
    assert memory_left(**groups(own, job=(limit, 5, 0))) is None


def test_where_there_are_no_control_groups_there_is_no_limit(tmp_path):
    assert memory_left(tmp_path, tmp_path / "none") is None


def test_free_memory_is_the_containers_where_that_is_less(monkeypatch):
    monkeypatch.setattr(device, "memory_left", lambda: 512)
    assert free_memory(CPU) == 512
    monkeypatch.setattr(device, "memory_left", lambda: 10**18)
    assert 512 < free_memory(CPU) < 10**18


def test_on_a_gpu_what_pytorch_holds_without_using_it_is_free(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (100, 4000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 70)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 30)
    assert free_memory(torch.device("cuda")) == 140
