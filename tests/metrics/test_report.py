import json
from dataclasses import replace

import numpy as np
import pytest

from napari_pcs.anatomy.landmarks import WORLD
from napari_pcs.errors import InputError
from napari_pcs.metrics.report import Summary, compare, compare_in, summarise, table

SPACING = (1.0, 1.0, 1.0)
SHAPE = (10, 70, 20)


def labels(pcs=(0, 0), at=4, skeleton=True):
    """Sheet of skeleton with a PCS along y in a stretch of it."""
    data = np.zeros(SHAPE, np.uint8)
    if skeleton:
        data[at, 2:68, 5:9] = 1
    data[at, pcs[0] : pcs[1], 5:9] *= 2
    return data


def placed(name, predicted, reference, spacing=SPACING):
    """Compare two label maps whose commissures are known."""
    return compare(name, predicted, reference, spacing, affine=np.diag([*spacing, 1.0]), commissures=WORLD)


def figures(metrics):
    return {k: v for k, v in metrics.model_dump().items() if k != "outcome"}


@pytest.fixture
def summary():
    """A case without PCS, one with a missed PCS and one with a PCS found half."""
    return summarise(
        [
            placed("none", labels(), labels()),
            placed("missed", labels(), labels((10, 60))),
            placed("half", labels((10, 35)), labels((10, 60))),
        ]
    )


def test_two_empty_masks_are_agreement_without_figures():
    metrics = compare("c", labels(), labels(), SPACING).labels["pcs"]
    assert metrics.outcome == "both_empty"
    assert set(figures(metrics).values()) == {None}


@pytest.mark.parametrize("swap", [False, True])
def test_one_empty_mask_is_no_overlap_and_no_distance(swap):
    pair = [labels(), labels((10, 60))]
    metrics = compare("c", *(reversed(pair) if swap else pair), SPACING).labels["pcs"]
    assert metrics.outcome == "one_empty"
    assert figures(metrics) == {
        "dice": 0,
        "nsd_1mm": 0,
        "cldice": 0,
        "hd_mm": None,
        "hd95_mm": None,
        "assd_mm": None,
    }


def test_the_pcs_counts_as_skeleton_too():
    report = compare("c", labels((10, 30)), labels((30, 60)), SPACING)
    assert report.labels["skeleton"].dice == 1
    assert report.labels["pcs"].dice == 0


def test_figures_of_a_compared_case_are_what_a_hand_computes():
    # Reference 50 x 4 voxels, half of it predicted; the far end is missed by 25 mm.
    metrics = compare("c", labels((10, 35)), labels((10, 60)), SPACING).labels["pcs"]
    assert metrics.outcome == "compared"
    assert metrics.dice == pytest.approx(2 * 100 / 300)
    assert metrics.hd_mm == 25
    # 100 + 100 voxels at 0 mm and 4 at 1 mm, of 300.
    assert metrics.nsd_1mm == pytest.approx(204 / 300)
    assert metrics.assd_mm == pytest.approx(4 * sum(range(1, 26)) / 300)


def test_the_length_error_is_signed_and_classes_follow_the_length():
    short, long = labels((10, 35)), labels((10, 60))
    there, back = placed("c", short, long), placed("c", long, short)
    assert there.length_error_mm == pytest.approx(-25, abs=1)
    assert there.length_error_mm == pytest.approx(-back.length_error_mm, abs=1e-9)
    assert there.length_error_mm == pytest.approx(there.length_mm - there.reference_length_mm)
    assert (there.pcs_class, there.reference_class) == ("small", "present")


def test_distances_and_lengths_are_in_mm():
    one, two = labels((10, 35)), labels((10, 60))
    small, large = (placed("c", one, two, (s,) * 3) for s in (1.0, 2.0))
    assert large.labels["pcs"].hd_mm == 2 * small.labels["pcs"].hd_mm
    assert large.length_error_mm == pytest.approx(2 * small.length_error_mm, rel=0.01)
    assert large.labels["pcs"].dice == small.labels["pcs"].dice


@pytest.mark.parametrize("known", [{}, {"affine": np.eye(4)}, {"commissures": WORLD}], ids=["none", "affine", "AC, PC"])
def test_without_commissures_overlap_is_compared_and_lengths_are_missing(known):
    report = compare("c", labels((10, 35)), labels((10, 60)), SPACING, **known)
    assert report.labels == placed("c", labels((10, 35)), labels((10, 60))).labels
    lengths = (report.length_mm, report.reference_length_mm, report.length_error_mm)
    assert lengths == (None, None, None)
    assert (report.pcs_class, report.reference_class) == (None, None)
    assert summarise([report]).mean["length_error_mm"] is None
    row = table([report]).splitlines()[2].split("\t")
    assert (row[1], row[-4:]) == ("pcs", ["n/a"] * 4)


def test_a_case_is_compared_on_its_grid_with_its_commissures(coarse_left):
    truth = coarse_left.labels["ref"].data
    report = compare_in(coarse_left, np.minimum(truth, 1), truth)
    assert report.case == coarse_left.key.stem
    assert (report.length_mm, report.pcs_class, report.reference_class) == (0, "absent", "present")
    assert report.length_error_mm == -report.reference_length_mm == pytest.approx(-60, abs=1.5)
    unknown = compare_in(replace(coarse_left, commissures=None), np.minimum(truth, 1), truth)
    assert unknown.labels == report.labels
    assert unknown.length_error_mm is None


def test_the_mean_leaves_missing_figures_out(summary):
    pcs = summary.mean["pcs"]
    half = summary.cases[2].labels["pcs"]
    assert pcs["dice"] == pytest.approx((0 + half.dice) / 2)
    assert pcs["hd_mm"] == half.hd_mm
    assert summary.mean["skeleton"]["dice"] == 1
    expected = np.mean([c.length_error_mm for c in summary.cases])
    assert summary.mean["length_error_mm"] == pytest.approx(expected)


def test_every_case_is_counted_under_its_outcome(summary):
    assert summary.counts == {"both_empty": 1, "one_empty": 1, "compared": 1}
    assert summary.counts_by_label["skeleton"] == {"both_empty": 0, "one_empty": 0, "compared": 3}


def test_the_mean_of_cases_without_any_figure_is_missing_and_not_0():
    summary = summarise([compare("c", labels(), labels(), SPACING)])
    assert set(summary.mean["pcs"].values()) == {None}
    assert summarise([]).mean["length_error_mm"] is None


def test_the_order_of_the_cases_does_not_matter(summary):
    shuffled = summarise(reversed(summary.cases))
    assert shuffled.counts == summary.counts
    for label in ("skeleton", "pcs"):
        assert shuffled.mean[label] == pytest.approx(summary.mean[label])


def test_the_table_has_a_row_for_each_case_and_label_with_missing_figures_named(summary):
    header, *rows = [line.split("\t") for line in table(summary.cases).splitlines()]
    assert len(rows) == 6
    assert {len(row) for row in rows} == {len(header)}
    cells = {(row[0], row[1]): dict(zip(header, row, strict=True)) for row in rows}
    none, missed, half = (cells[name, "pcs"] for name in ("none", "missed", "half"))
    assert (none["dice"], none["hd_mm"], none["class"]) == ("n/a", "n/a", "absent")
    assert (missed["dice"], missed["hd_mm"]) == ("0.0000", "n/a")
    assert float(half["dice"]) == pytest.approx(2 / 3, abs=1e-4)
    assert cells["half", "skeleton"]["length_mm"] == cells["half", "skeleton"]["class"] == "n/a"
    assert "" not in {cell for row in rows for cell in row}


def test_missing_figures_are_null_in_json_and_come_back(summary):
    text = summary.model_dump_json()
    found = json.loads(text)["cases"][0]["labels"]["pcs"]
    assert found["outcome"] == "both_empty"
    assert found["dice"] is None
    assert found["hd_mm"] is None
    assert "NaN" not in text
    assert Summary.model_validate_json(text) == summary


def test_label_maps_of_two_shapes_are_refused():
    with pytest.raises(InputError, match=r"c7: labels of shape \(10, 70, 19\).*\(10, 70, 20\)"):
        compare("c7", labels()[..., :-1], labels(), SPACING)
