import errno
import os

import pytest

from napari_pcs.errors import SessionError
from napari_pcs.training.tables import GrowingTable


def test_a_row_with_the_same_columns_is_appended_and_touches_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "t.csv"
    table = GrowingTable(path)
    table.add({"step": 1, "loss": 0.5})
    first = path.stat().st_ino
    table.add({"loss": 0.25, "step": 2})
    table.add({"step": 3})
    assert path.read_text() == "step,loss\n1,0.5\n2,0.25\n3,\n"
    assert path.stat().st_ino == first


def test_a_column_whose_name_has_a_comma_stays_one_column(tmp_path):
    path = tmp_path / "t.csv"
    GrowingTable(path).add({"step": 1, "loss, mean": 2.0})
    GrowingTable(path).add({"step": 2, "loss, mean": 3.0})
    assert path.read_text() == 'step,"loss, mean"\n1,2\n2,3\n'


@pytest.mark.parametrize("row", [{"step": 2, "loss": 0.25}, {"step": 2, "loss": 0.25, "new": 1.0}])
def test_a_full_disk_leaves_the_table_as_it_was_and_the_row_can_be_added_later(tmp_path, monkeypatch, row):
    path = tmp_path / "t.csv"
    table = GrowingTable(path)
    table.add({"step": 1, "loss": 0.5})
    before = path.read_bytes()

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        patch.setattr(os, "fsync", full)
        with pytest.raises(SessionError, match="the disk is full"):
            table.add(row)
    assert path.read_bytes() == before
    table.add(row)
    assert path.read_text().splitlines()[-1] == ",".join(f"{v:g}" for v in row.values())
