"""What is said of a tuned model, from the reports before and after."""

import pytest
from fake_worker import reports

from napari_pcs.gui.verdict import judge
from napari_pcs.metrics.report import CaseReport, LabelMetrics

CASES = ("a", "b", "c")
SAME = (0.50, 0.60, 10.0, 8.0)


def compared(before, after, cases=CASES):
    return judge("old", "new", reports(cases, before), reports(cases, after))


@pytest.mark.parametrize(
    ("after", "word", "use_new"),
    [
        ((0.55, 0.60, 10.0), "better", True),
        ((0.45, 0.60, 10.0), "not better", False),
        ((0.50, 0.60, 4.0), "better", True),
        ((0.50, 0.60, 16.0), "not better", False),
        ((0.50, 0.55, 10.0), "not better", False),
        ((0.503, 0.597, 10.6), "as good as", True),
        # PCS Dice comes first where they disagree.
        ((0.55, 0.50, 10.0), "better", True),
        ((0.45, 0.70, 2.0), "not better", False),
        ((0.50, 0.50, 4.0), "better", True),
    ],
)
def test_the_new_model_is_used_unless_it_is_worse(after, word, use_new):
    verdict = compared(SAME, after)
    assert verdict.use_new == use_new
    assert word in verdict.sentence
    assert ("not better" in verdict.sentence) == (word == "not better")
    assert verdict.sentence.endswith("Use new." if use_new else "Keep old.")


def test_what_disagrees_is_named():
    sentence = compared(SAME, (0.55, 0.50, 16.0)).sentence
    assert "PCS Dice better, but length error and skeleton Dice worse" in sentence


def test_the_figures_are_means_of_absolute_errors_and_of_dice():
    verdict = compared(SAME, (0.55, 0.50, 16.0, 9.0))
    # The stand-in's errors alternate in sign, so that a plain mean would hide them.
    assert [(f.name, f.before, f.after) for f in verdict.figures] == [
        ("PCS Dice", pytest.approx(0.5), pytest.approx(0.55)),
        ("length error", 10.0, 16.0),
        ("skeleton Dice", pytest.approx(0.6), pytest.approx(0.5)),
        ("PCS Hausdorff", 8.0, 9.0),
    ]


def test_exchanging_the_models_turns_the_figures_round():
    other = (0.58, 0.50, 4.0, 5.0)
    there, back = compared(SAME, other), compared(other, SAME)
    assert [f.gain for f in there.figures] == pytest.approx([-f.gain for f in back.figures])
    assert there.use_new
    assert not back.use_new


def test_distances_are_compared_on_the_cases_where_both_models_have_one():
    before = [*reports(("a",), (0.5, 0.6, 1.0, 10.0)), *reports(("b",), (0.5, 0.6, 1.0))]
    after = [*reports(("a",), (0.5, 0.6, 1.0, 4.0)), *reports(("b",), (0.5, 0.6, 1.0, 90.0))]
    verdict = judge("old", "new", before, after)
    assert [(f.before, f.after) for f in verdict.figures if f.name == "PCS Hausdorff"] == [(10.0, 4.0)]
    assert verdict.use_new
    alone = judge("old", "new", [], after, old_labels=False)
    assert [(f.before, f.after) for f in alone.figures if f.name == "PCS Hausdorff"] == [(None, 47.0)]


def with_pcs(case, outcome, dice):
    return CaseReport(
        case=case,
        labels={
            "pcs": LabelMetrics(outcome=outcome, dice=dice),
            "skeleton": LabelMetrics(outcome="compared", dice=0.6),
        },
        length_error_mm=0.0,
    )


def test_seeing_that_there_is_no_pcs_is_an_improvement_over_seeing_one():
    before = [with_pcs("a", "one_empty", 0.0), with_pcs("b", "compared", 0.5), with_pcs("c", "both_empty", None)]
    after = [with_pcs("a", "both_empty", None), with_pcs("b", "compared", 0.5), with_pcs("c", "both_empty", None)]
    verdict = judge("old", "new", before, after)
    assert (verdict.figures[0].before, verdict.figures[0].after) == (0.25, 0.75)
    assert verdict.use_new
    assert not judge("old", "new", after, before).use_new


def test_without_figures_the_old_model_stays():
    assert not judge("old", "new", reports(CASES, SAME), ()).use_new
    assert not judge("old", "new", (), reports(CASES, SAME)).use_new
    neither = [with_pcs(c, "both_empty", None).model_copy(update={"length_error_mm": None}) for c in CASES]
    blank = [
        r.model_copy(update={"labels": {k: LabelMetrics(outcome="both_empty") for k in r.labels}}) for r in neither
    ]
    verdict = judge("old", "new", blank, blank)
    assert not verdict.use_new
    assert "nothing to compare by" in verdict.sentence


def test_a_model_that_could_not_label_gives_way():
    verdict = judge("old", "new", (), reports(CASES, SAME), old_labels=False)
    assert verdict.use_new
    assert "cannot label yet" in verdict.sentence


@pytest.mark.parametrize(("cases", "warned"), [(("a",), True), (("a", "b"), True), (("a", "b", "c"), False)])
def test_few_cases_are_said_to_be_few(cases, warned):
    sentence = compared(SAME, (0.55, 0.6, 10.0), cases).sentence
    assert ("can mislead" in sentence) == warned
    assert f"{len(cases)} held-out case{'s' if len(cases) > 1 else ''}" in sentence
