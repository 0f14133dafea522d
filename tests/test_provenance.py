import json
from datetime import UTC, datetime, timedelta
from importlib.metadata import version

import pytest
from pydantic import ValidationError

from napari_pcs.provenance import ModelReference, Provenance


def test_the_sidecar_is_spelt_as_bids_spells_it():
    sidecar = Provenance(
        manual=True,
        hemisphere="L",
        sources=("bids::sub-01/anat/sub-01_desc-pred_dseg.nii.gz",),
        editor="ada",
        edit_seconds=12.5,
        model=ModelReference(name="demo", digest="ab12"),
        created=datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC),
    ).sidecar()
    assert json.loads(json.dumps(sidecar)) == {
        "Manual": True,
        "PartlyDone": False,
        "Hemisphere": "L",
        "Sources": ["bids::sub-01/anat/sub-01_desc-pred_dseg.nii.gz"],
        "SpatialReference": "orig",
        "Description": "",
        "Editor": "ada",
        "EditSeconds": 12.5,
        "Model": {"Name": "demo", "Digest": "ab12"},
        "Software": {"Name": "napari-pcs", "Version": version("napari-pcs")},
        "Created": "2030-01-02T03:04:05Z",
    }


def test_what_is_not_known_is_left_out():
    sidecar = Provenance(manual=False, hemisphere="R").sidecar()
    assert not {"Editor", "EditSeconds", "Model"} & set(sidecar)
    assert sidecar["Manual"] is False


def test_the_sidecar_gives_the_provenance_back():
    provenance = Provenance(manual=True, hemisphere="R", editor="Zoë", edit_seconds=0)
    assert Provenance.model_validate_json(json.dumps(provenance.sidecar())) == provenance


def test_the_time_is_now_and_knows_its_zone():
    before = datetime.now(UTC)
    assert timedelta(0) <= Provenance(manual=False, hemisphere="L").created - before < timedelta(seconds=60)


@pytest.mark.parametrize(
    "change", [{"edit_seconds": -1}, {"colour": "red"}, {"manual": "perhaps"}, {"model": {"name": "without a digest"}}]
)
def test_nonsense_is_refused(change):
    with pytest.raises(ValidationError):
        Provenance.model_validate({"manual": True, "hemisphere": "L"} | change)


def test_provenance_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        Provenance(manual=True, hemisphere="L").editor = "eve"
