import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from platformdirs import user_cache_path

from napari_pcs import caches
from napari_pcs.caches import cache_usage, clear_caches, feature_cache, prediction_cache
from napari_pcs.data.bundles import bundle_key
from napari_pcs.data.cache import HemisphereCache, cache_root, default_cache
from napari_pcs.errors import InputError
from napari_pcs.labels import Hemisphere

GB = 10**9
KEY = bundle_key("key")
ONE = {"a": np.arange(1000, dtype=np.uint8)}


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_PCS_CACHE", str(tmp_path / "elsewhere"))
    return tmp_path / "elsewhere"


@pytest.fixture
def disk(monkeypatch):
    """Set how much is free on the disk."""

    def free(count):
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=count))

    free(10_000 * GB)
    return free


def store_hemisphere(coarse_left, folder, tmp_path):
    path = tmp_path / "sub-01_hemi-L_gw.nii.gz"
    coarse_left.tissue.write(path)
    HemisphereCache(folder).placed([str(path)], Hemisphere.LEFT, lambda: coarse_left.tissue)


def test_all_that_is_kept_lies_in_the_folder_that_the_variable_names(root):
    assert cache_root() == root
    assert [part.folder for part in cache_usage()] == [root / n for n in ("hemispheres", "features", "predictions")]
    assert default_cache() == root / "hemispheres"
    assert not root.exists()


@pytest.mark.parametrize("value", [None, "", "  "])
def test_without_the_variable_it_is_the_users_cache_folder(monkeypatch, value):
    monkeypatch.delenv("NAPARI_PCS_CACHE")
    if value is not None:
        monkeypatch.setenv("NAPARI_PCS_CACHE", value)
    assert cache_root() == user_cache_path("napari-pcs", appauthor=False)


def test_a_folder_may_be_named_from_the_home_or_from_here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NAPARI_PCS_CACHE", "~/kept")
    assert cache_root() == Path.home() / "kept"
    monkeypatch.setenv("NAPARI_PCS_CACHE", "kept")
    assert cache_root() == tmp_path / "kept"


def test_limits_are_8_and_2_gb_or_a_quarter_of_what_is_free(root, disk):
    assert (feature_cache().limit_bytes, prediction_cache().limit_bytes) == (8 * GB, 2 * GB)
    disk(12 * GB)
    assert (feature_cache().limit_bytes, prediction_cache().limit_bytes) == (3 * GB, 2 * GB)
    disk(4 * GB)
    assert (feature_cache().limit_bytes, prediction_cache().limit_bytes) == (GB, GB)
    disk(0)
    assert (feature_cache().limit_bytes, prediction_cache().limit_bytes) == (0, 0)


def test_a_disk_that_does_not_say_what_is_free_gets_the_plain_limits(root, monkeypatch):
    def refuse(_):
        raise OSError

    monkeypatch.setattr(shutil, "disk_usage", refuse)
    assert (feature_cache().limit_bytes, prediction_cache().limit_bytes) == (8 * GB, 2 * GB)


@pytest.mark.parametrize(("value", "expected"), [("20", 20 * GB), (" 0.5 ", GB // 2), ("0", 0), ("1e2", 100 * GB)])
def test_the_limit_of_features_can_be_chosen_and_then_holds_whatever_is_free(root, disk, monkeypatch, value, expected):
    disk(GB)
    monkeypatch.setenv("NAPARI_PCS_CACHE_GB", value)
    assert feature_cache().limit_bytes == expected
    assert prediction_cache().limit_bytes == GB // 4


@pytest.mark.parametrize("value", ["8 GB", "-1", "nan", "inf", "plenty"])
def test_a_limit_that_is_no_size_is_a_sentence_and_nothing_is_removed(root, monkeypatch, value):
    prediction_cache().write(KEY, ONE)
    monkeypatch.setenv("NAPARI_PCS_CACHE_GB", value)
    for use in (feature_cache, cache_usage, clear_caches):
        with pytest.raises(InputError, match=f"found NAPARI_PCS_CACHE_GB={value}, expected a number of gigabytes"):
            use()
    assert prediction_cache().has(KEY)


def test_usage_says_what_each_takes_and_clearing_frees_just_that(root, disk, coarse_left, tmp_path):
    store_hemisphere(coarse_left, default_cache(), tmp_path)
    feature_cache().write(KEY, ONE)
    for n in range(3):
        prediction_cache().write(bundle_key(str(n)), ONE)
    found = {part.name: part for part in cache_usage()}
    assert [part.entries for part in found.values()] == [1, 1, 3]
    for name, part in found.items():
        files = [path for path in (root / name).rglob("*") if path.is_file() and path.name != "size"]
        assert part.size_bytes == sum(path.stat().st_size for path in files) > 0
    assert [part.limit_bytes for part in found.values()] == [None, 8 * GB, 2 * GB]
    assert clear_caches() == sum(part.size_bytes for part in found.values())
    assert [(part.entries, part.size_bytes) for part in cache_usage()] == [(0, 0)] * 3
    assert feature_cache().write(KEY, ONE)
    store_hemisphere(coarse_left, default_cache(), tmp_path)
    assert [part.entries for part in cache_usage()] == [1, 1, 0]


def test_clearing_leaves_what_is_none_of_its_own(root):
    stray = root / "hemispheres" / "notes.txt"
    stray.parent.mkdir(parents=True)
    stray.write_text("mine")
    (root / "features" / "ab").mkdir(parents=True)
    mine = root / "features" / "ab" / "mine.txt"
    mine.write_text("mine")
    clear_caches()
    assert stray.read_text() == mine.read_text() == "mine"


def test_asking_and_clearing_where_nothing_was_kept_makes_no_folder(root):
    assert clear_caches() == 0
    assert sum(part.size_bytes for part in cache_usage()) == 0
    assert not root.exists()


def test_tests_keep_out_of_the_users_cache(cache_folder):
    assert cache_root() == cache_folder
    assert user_cache_path("napari-pcs", appauthor=False) not in (cache_folder, *cache_folder.parents)
    assert caches.FEATURES_GB == "NAPARI_PCS_CACHE_GB"
