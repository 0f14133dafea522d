import hashlib
import shutil
import zipfile

import pytest
from adapted import adapter_model
from networks import tiny_model, tiny_network

from napari_pcs.errors import ModelError
from napari_pcs.models.archive import export_model, import_archive
from napari_pcs.models.lineage import Lineage, Stage
from napari_pcs.models.store import load_network, save_network


@pytest.fixture
def model(tmp_path):
    stage = Stage(name="mine", objective="tune top", data="4 cases", epochs=5, parts=("heads",))
    return save_network(tiny_network(), tmp_path / "mine", "# mine\n", lineage=Lineage(stages=(stage,)))


@pytest.fixture
def archive(model, tmp_path):
    return export_model(model, tmp_path / "out" / "mine.zip")


def rewrite(archive, change):
    """Write an archive again with other members: {name: content}."""
    with zipfile.ZipFile(archive) as source:
        members = {info.filename: source.read(info) for info in source.infolist()}
    change(members)
    with zipfile.ZipFile(archive, "w") as target:
        for name, content in members.items():
            target.writestr(name, content)


def test_what_is_exported_comes_back_file_by_file(model, archive, tmp_path):
    (model.path / "notes.txt").write_text("not part of the model")
    found = import_archive(archive, tmp_path / "other")
    assert found.path == tmp_path / "other" / "mine"
    files = sorted(p.name for p in found.path.iterdir())
    assert files == ["card.md", "config.json", "digest", "lineage.json", "weights.safetensors"]
    for name in files:
        assert (found.path / name).read_bytes() == (model.path / name).read_bytes()
    assert load_network(found)
    assert [p.name for p in (tmp_path / "other").iterdir()] == ["mine"]
    assert [p.name for p in archive.parent.iterdir()] == ["mine.zip"]


def test_a_model_may_get_another_name_but_not_one_that_is_taken(archive, tmp_path):
    assert import_archive(archive, tmp_path, "yours").name == "yours"
    for name in (None, "yours"):
        with pytest.raises(ModelError, match="found a model of that name already"):
            import_archive(archive, tmp_path, name)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "out", "yours"]


ELSEWHERE = (
    *("../mine/config.json", "/mine/config.json", "mine/../x/config.json", "..\\mine/config.json"),
    *("config.json", "mine/a/config.json", "mine/run.py", "other/card.md"),
)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_paths_that_lead_elsewhere_are_refused_and_nothing_is_unpacked(archive, tmp_path, name):
    rewrite(archive, lambda members: members.update({name: b"{}"}))
    with pytest.raises(ModelError, match="Nothing was unpacked"):
        import_archive(archive, tmp_path / "deep" / "other")
    assert not (tmp_path / "deep").exists()


@pytest.mark.parametrize("name", ["..", "-rf", "a b", ".hidden"])
def test_a_folder_that_is_no_models_name_is_refused(archive, tmp_path, name):
    def move(members):
        for member in list(members):
            members[member.replace("mine/", f"{name}/")] = members.pop(member)

    rewrite(archive, move)
    with pytest.raises(ModelError, match=r"Nothing was unpacked|found a name that is no folder's"):
        import_archive(archive, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_link_is_refused(archive, tmp_path):
    with zipfile.ZipFile(archive) as source:
        members = {info.filename: source.read(info) for info in source.infolist()}
    with zipfile.ZipFile(archive, "w") as target:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            if name.endswith("card.md"):
                info.external_attr, content = 0o120777 << 16, b"/etc/passwd"
            target.writestr(info, content)
    with pytest.raises(ModelError, match=r"found 'mine/card\.md'"):
        import_archive(archive, tmp_path / "other")


def test_an_archive_that_would_fill_the_disk_is_refused(archive, tmp_path):
    def grow(members):
        members["mine/card.md"] = b"0" * (2**20 + 1)

    rewrite(archive, grow)
    with pytest.raises(ModelError, match=r"'mine/card\.md' \(1048577 bytes\)"):
        import_archive(archive, tmp_path / "other")


def test_altered_weights_are_refused_and_leave_nothing(archive, tmp_path):
    def alter(members):
        content = bytearray(members["mine/weights.safetensors"])
        content[-5] ^= 1
        members["mine/weights.safetensors"] = bytes(content)

    rewrite(archive, alter)
    with pytest.raises(ModelError, match="found weights with digest"):
        import_archive(archive, tmp_path / "other")
    assert list((tmp_path / "other").iterdir()) == []


@pytest.mark.parametrize("name", ["config.json", "digest", "weights.safetensors"])
def test_a_model_in_part_is_refused(archive, tmp_path, name):
    rewrite(archive, lambda members: members.pop(f"mine/{name}"))
    with pytest.raises(ModelError, match=rf"mine\.zip: found no {name} in it"):
        import_archive(archive, tmp_path / "other")


@pytest.mark.parametrize("cut", [0, 100, 1000])
def test_an_archive_that_was_cut_short_is_refused(archive, tmp_path, cut):
    archive.write_bytes(archive.read_bytes()[:cut])
    with pytest.raises(ModelError, match=r"mine\.zip: found an archive that cannot be read"):
        import_archive(archive, tmp_path / "other")


def test_a_damaged_member_is_refused(archive, tmp_path):
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 1
    archive.write_bytes(content)
    with pytest.raises(ModelError, match=r"cannot be read or unpacked \(Bad CRC-32"):
        import_archive(archive, tmp_path / "other")


def test_a_broken_model_is_not_exported(tmp_path):
    model = tiny_model(tmp_path)
    (model.path / "digest").write_text(hashlib.sha256(b"").hexdigest())
    with pytest.raises(ModelError, match="found weights with digest"):
        export_model(model, tmp_path / "m.zip")
    assert not (tmp_path / "m.zip").exists()


@pytest.mark.parametrize("name", ["m.tar", "m", "taken.zip", "taken.zip/m.zip"])
def test_an_archive_that_cannot_be_written_is_an_error(model, tmp_path, name):
    (tmp_path / "taken.zip").write_bytes(b"")
    with pytest.raises(ModelError, match=r"expected a new file|could not be written"):
        export_model(model, tmp_path / name)
    assert (tmp_path / "taken.zip").read_bytes() == b""


# Adapters


@pytest.fixture
def adapter(tmp_path):
    """Archive of an adapter, and the folder with its base."""
    exported, _ = adapter_model(tmp_path / "models")
    return export_model(exported, tmp_path / "mine.zip"), exported.path.parent


def test_an_exported_adapter_is_small_and_comes_back_file_by_file_where_its_base_is(adapter, tmp_path):
    archive, models = adapter
    assert archive.stat().st_size < 250_000
    shutil.copytree(models / "base", tmp_path / "other" / "renamed")
    found = import_archive(archive, tmp_path / "other")
    files = sorted(p.relative_to(found.path) for p in found.path.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(models / "mine") for p in (models / "mine").rglob("*") if p.is_file())
    for name in files:
        assert (found.path / name).read_bytes() == (models / "mine" / name).read_bytes()
    assert load_network(found)


def test_an_adapter_whose_base_is_not_there_is_refused_with_its_name_and_leaves_nothing(adapter, tmp_path):
    with pytest.raises(ModelError, match=r"found no base base with digest \w+ in .*other .* Import or copy that one"):
        import_archive(adapter[0], tmp_path / "other")
    assert list((tmp_path / "other").iterdir()) == []


@pytest.mark.parametrize("name", ["base.json", "adapter/adapter_config.json", "adapter/adapter_model.safetensors"])
def test_an_adapter_in_part_is_refused(adapter, name):
    rewrite(adapter[0], lambda members: members.pop(f"mine/{name}"))
    with pytest.raises(ModelError, match=rf"mine\.zip: found no .*{name} in it"):
        import_archive(adapter[0], adapter[1], "again")


@pytest.mark.parametrize("name", ["weights.safetensors", "adapter/more.json", "adapter/../card.md", "adapter"])
def test_what_is_no_part_of_an_adapter_is_refused(adapter, name):
    rewrite(adapter[0], lambda members: members.update({f"mine/{name}": b"{}"}))
    with pytest.raises(ModelError, match="Nothing was unpacked"):
        import_archive(adapter[0], adapter[1], "again")


def test_an_altered_adapter_is_refused(adapter):
    def alter(members):
        content = bytearray(members["mine/adapter/adapter_model.safetensors"])
        content[-5] ^= 1
        members["mine/adapter/adapter_model.safetensors"] = bytes(content)

    rewrite(adapter[0], alter)
    with pytest.raises(ModelError, match="found an adapter with digest"):
        import_archive(adapter[0], adapter[1], "again")
