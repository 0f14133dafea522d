"""`prepare` on several scans at the same time: each is prepared once, and a restart does nothing again."""

import json

import pytest
from builders import write_landmarks
from typer.testing import CliRunner

from napari_pcs.cli import app
from napari_pcs.data.phantom import phantom
from napari_pcs.session import Session


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    case = phantom(pcs_length_mm=30, spacing_mm=2.0)
    paths = []
    for name in ("01", "02", "03"):
        path = folder / f"sub-{name}_hemi-L_gw.nii.gz"
        case.tissue.with_data(case.tissue.data * 100).write(path)
        write_landmarks(case, path)
        paths.append(path)
    broken = folder / "sub-04_hemi-L_gw.nii.gz"
    broken.write_bytes(paths[0].read_bytes()[:200])
    return [*paths, broken]


def prepare(scans, session):
    result = CliRunner().invoke(app, ["prepare", *map(str, scans), "--session", str(session), "--jobs", "2", "--json"])
    return result.exit_code, json.loads(result.stdout)


def test_two_processes_prepare_every_scan_once_and_a_restart_skips_them(scans, tmp_path):
    session = tmp_path / "session"
    code, first = prepare(scans, session)
    assert code == 1
    assert sorted(c["case"] for c in first["cases"]) == [f"sub-0{n}_hemi-L" for n in (1, 2, 3)]
    assert [f["input"] for f in first["failed"]] == [str(scans[-1])]
    assert [key.subject for key in Session.open(session).keys()]  # noqa: SIM118 == ["01", "02", "03"]
    people = (session / "participants.tsv").read_text().split()
    assert people == ["participant_id", "sub-01", "sub-02", "sub-03"]
    before = {p: p.stat().st_mtime_ns for p in session.rglob("*.nii.gz")}
    code, again = prepare(scans[:-1], session)
    assert code == 0
    assert [c["skipped"] for c in again["cases"]] == [True] * 3
    assert sorted(c["case"] for c in again["cases"]) == sorted(c["case"] for c in first["cases"])
    assert {p: p.stat().st_mtime_ns for p in session.rglob("*.nii.gz")} == before
