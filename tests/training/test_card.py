import pytest

from napari_pcs.metrics.report import CaseReport, LabelMetrics
from napari_pcs.provenance import ModelReference
from napari_pcs.training.card import tuned_card
from napari_pcs.training.events import Tuned


def report(skeleton, pcs):
    def metrics(figures):
        return LabelMetrics(outcome="both_empty") if figures is None else LabelMetrics(outcome="compared", **figures)

    return CaseReport(
        case="c",
        labels={"skeleton": metrics(skeleton), "pcs": metrics(pcs)},
        length_mm=1.0,
        reference_length_mm=1.0,
        length_error_mm=0.0,
        pcs_class="absent",
        reference_class="absent",
    )


def card(before=(), after=(), **changes):
    result = Tuned(
        **{
            "model": ModelReference(name="mine", digest="ab"),
            "path": "p",
            "run": "r",
            "strategy": "top",
            "trainable_parameters": 315_123,
            "total_parameters": 3_913_466,
            "epochs": 2.5,
            "best_step": 24,
            "rounds": 4,
            "stopped": "early",
            "seconds_per_epoch": 1.0,
            "seconds_total": 61.7,
            "before": before,
            "after": after,
            "held_out_cases": ("sub-c_hemi-L",) if before or after else (),
            **changes,
        }
    )
    return tuned_card("starter", "feed", result, ["sub-a_hemi-L", "sub-b_hemi-R"], '{"epochs":5}')


def rows(text):
    table = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ")]
    return {(c[0].strip(), c[1].strip()): (c[2].strip(), c[3].strip()) for c in table}


def test_the_card_says_where_the_model_comes_from():
    text = card()
    assert text.startswith("# mine\n")
    for part in ("**starter** (weights feed)", "315,123 of 3,913,466", "sub-a_hemi-L, sub-b_hemi-R", '`{"epochs":5}`'):
        assert part in text
    assert "Rounds: 4 (stopped early, the held-out Dice rose no more); weights of step 24; 62 s in all" in text


def test_the_table_holds_the_means_before_and_after():
    before = (
        report({"dice": 0.5, "hd95_mm": 8.0}, {"dice": 0.1, "hd95_mm": 9.0}),
        report({"dice": 0.6, "hd95_mm": 6.0}, None),
    )
    after = (
        report({"dice": 0.8, "hd95_mm": 2.0}, {"dice": 0.3, "hd95_mm": 4.5}),
        report({"dice": 0.7, "hd95_mm": 3.0}, None),
    )
    found = rows(card(before, after))
    assert found["skeleton", "dice"] == ("0.550", "0.750")
    assert found["skeleton", "hd95_mm"] == ("7.000", "2.500")
    # The case where both are without PCS is no part of its mean.
    assert found["pcs", "dice"] == ("0.100", "0.300")
    assert found["pcs", "hd95_mm"] == ("9.000", "4.500")


def test_a_figure_that_is_missing_is_named_so():
    same = (report({"dice": 0.5, "hd95_mm": 1.0}, None),)
    assert rows(card(same, same))["pcs", "dice"] == ("n/a", "n/a")


def test_a_model_that_could_not_predict_before_is_judged_after():
    found = rows(card((), (report({"dice": 0.8, "hd95_mm": 2.0}, None),)))
    assert found["skeleton", "dice"] == ("n/a", "0.800")
    assert found["pcs", "hd95_mm"] == ("n/a", "n/a")


@pytest.mark.parametrize(
    ("before", "changes", "said"),
    [
        ((), {}, "There was none: all corrected cases are of one person"),
        ((report({"dice": 0.5}, None),), {"stopped": "cancelled"}, "not predicted after tuning, because it was"),
    ],
)
def test_what_was_not_judged_is_said_and_has_no_table(before, changes, said):
    text = card(before, **changes)
    assert said in text
    assert not rows(text)
    assert ("cancelled by the user, best weights kept" in text) is bool(changes)
