import numpy as np
import pytest

from napari_pcs.anatomy.sources import find_sources
from napari_pcs.anatomy.sources.find import UNDERSTOOD
from napari_pcs.errors import InputError
from napari_pcs.session import Session


def test_a_folder_that_is_not_understood_is_described(tmp_path):
    for n in range(8):
        (tmp_path / f"note{n}.txt").touch()
    with pytest.raises(InputError, match=r"found a folder with note0.txt, .* and 2 more") as caught:
        find_sources(tmp_path)
    for kind in UNDERSTOOD:
        assert kind in str(caught.value)


def test_an_empty_folder_is_called_so(tmp_path):
    with pytest.raises(InputError, match="found an empty folder"):
        find_sources(tmp_path)


def test_a_session_is_to_be_opened(tmp_path):
    with pytest.raises(InputError, match=r"found a session of napari-pcs.*Open it as a session"):
        find_sources(Session.create(tmp_path / "study").root)


@pytest.mark.parametrize(("name", "said"), [("gone.nii.gz", "no such file"), ("notes.txt", "not an image")])
def test_a_file_that_is_no_image_is_named(tmp_path, name, said):
    (tmp_path / "notes.txt").write_text("AC is somewhere")
    with pytest.raises(InputError, match=rf"^{name}: found .*{said}"):
        find_sources(tmp_path / name)


def test_a_label_map_is_not_a_source(save):
    data = np.arange(3, dtype=np.uint8).repeat(40).reshape(5, 4, 6)
    with pytest.raises(InputError, match=r"may be a label map as well as a tissue map"):
        find_sources(save("sub-ada_hemi-L_dseg.nii.gz", data, np.eye(4)))
