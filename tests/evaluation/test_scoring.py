import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from unetcli.evaluation.evaluate import PageJob, Rules, choose_metrics, evaluate, missed, parse_limit, with_comparison
from unetcli.evaluation.records import LabelledPage, worst_cases
from unetcli.evaluation.scoring import score_page
from unetcli.metrics import METRICS

TRUTH = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 0, 0]], np.int32)
PREDICTION = np.array([[0, 1, 1, 1], [0, 0, 1, 0], [2, 0, 0, 0]], np.int32)


def page(truth, prediction, case="a", number=0, **rest):
    return LabelledPage(case, number, np.asarray(truth, np.int32), np.asarray(prediction, np.int32), **rest)


def run(pages, task="binary", metrics="dice,iou", classes=("background", "cell"), **rest):
    rules = Rules(task, classes, choose_metrics(metrics, task), **rest)
    jobs = [PageJob(each.case, each.page, lambda each=each: each) for each in pages]
    return list(evaluate(jobs, rules))[-1]


def test_classes_are_scored_one_against_the_rest_and_averaged():
    result = run([page(TRUTH, PREDICTION)], "classes", "dice,recall", ("background", "a", "b"))
    values = {row.class_name: row.metrics for row in result.rows}
    assert values["a"] == pytest.approx({"dice": 2 * 3 / 8, "recall": 3 / 4})
    assert values["b"] == pytest.approx({"dice": 2 / 3, "recall": 1 / 2})
    assert values["mean"]["dice"] == pytest.approx((6 / 8 + 2 / 3) / 2)
    np.testing.assert_array_equal(result.matrix, [[5, 1, 0], [1, 3, 0], [1, 0, 1]])


def test_a_class_that_is_absent_from_an_image_has_no_say_in_its_mean():
    result = run([page([[1, 0]], [[1, 0]])], "classes", "dice", ("background", "a", "b"))
    values = {row.class_name: row.metrics["dice"] for row in result.rows}
    assert values["a"] == values["mean"] == 1
    assert math.isnan(values["b"])


def test_pages_of_a_stack_are_one_case():
    pages = [page([[1, 1]], [[1, 1]], "s", 0), page([[1, 1]], [[0, 0]], "s", 1), page([[1, 1]], [[1, 1]], "t", 0)]
    whole = run(pages)
    assert whole.cases == ("s", "t")
    assert whole.values["dice"]["cell"] == (0.5, 1.0)
    assert whole.summary["dice"]["cell"].n == 2
    assert any("one case" in note for note in whole.notes)
    apart = run(pages, pages_are_cases=True)
    assert len(apart.cases) == apart.summary["dice"]["cell"].n == 3
    assert any("too narrow" in note for note in apart.notes)


def test_pooled_pixels_differ_from_the_mean_of_images():
    result = run([page([[1] * 8], [[1] * 8]), page([[1, 0]], [[0, 1]], "b")])
    assert result.summary["dice"]["cell"].mean == 0.5
    assert result.pooled["dice"]["cell"] == pytest.approx(16 / 18)


def test_tracking_score_counts_objects_not_frames():
    one = page([[1, 0, 2, 0, 3]], [[1, 0, 2, 0, 3]], "s", 0)
    two = page([[1, 1, 0, 0, 0]], [[0, 0, 0, 0, 0]], "s", 1)
    result = run([one, two], "instances", "seg,f1", ("background", "object"))
    assert result.values["seg"]["object"] == (pytest.approx(3 / 4),)
    assert result.values["f1"]["object"] == (pytest.approx(1 / 2),)


def test_empty_images_are_counted_apart():
    pages = [page([[0, 0]], [[0, 0]]), page([[1, 0]], [[1, 0]], "b"), page([[0, 0]], [[1, 0]], "c")]
    summary = run(pages).summary["dice"]["cell"]
    assert (summary.n, summary.undefined, summary.mean) == (2, 1, 0.5)
    counted = run(pages, count_empty=True).summary["dice"]["cell"]
    assert (counted.n, counted.undefined) == (3, 0)
    assert counted.mean == pytest.approx(2 / 3)


def test_empty_classes_count_in_the_mean_over_classes_too():
    one = page([[1, 1, 0, 0]], [[1, 0, 0, 0]])
    row = run([one], "classes", "dice", ("background", "a", "b"), count_empty=True).rows[-1]
    assert row.metrics["dice"] == pytest.approx((2 / 3 + 1) / 2)


def test_a_page_that_is_ignored_throughout_does_not_count_as_perfect():
    pages = [page([[1, 1]], [[1, 0]], "s", 0), page([[-1, -1]], [[1, 0]], "s", 1)]
    assert run(pages, count_empty=True).summary["dice"]["cell"].mean == pytest.approx(2 / 3)


def test_ignored_pixels_count_nowhere():
    result = run([page([[1, -1, 0]], [[1, 1, 0]])], metrics="pixel_error,dice,f1")
    assert result.rows[0].metrics == {"pixel_error": 0, "dice": 1, "f1": 1}
    assert result.matrix.sum() == 2


def test_objects_end_where_pixels_are_ignored():
    for between in (0, 1):  # one object or two are predicted, where nobody knows
        result = run([page([[1, -1, 1]], [[1, between, 1]])], metrics="f1,pq,aji,seg,det")
        assert set(result.rows[0].metrics.values()) == {1}


@given(st.data(), st.sampled_from(["binary", "classes", "instances", "membranes"]), st.tuples(*[st.integers(1, 8)] * 2))
def test_what_is_predicted_where_pixels_are_ignored_changes_no_score(data, task, shape):
    labels = arrays(np.int32, shape, elements=st.integers(0, 2 if task in ("classes", "instances") else 1))
    shares = arrays(np.float32, shape, elements=st.floats(0, 1, width=32))
    hidden = data.draw(arrays(bool, shape))
    truth = np.where(hidden, -1, data.draw(labels))
    prediction, elsewhere, probability, also = (data.draw(each) for each in (labels, labels, shares, shares))
    classes = ("background", "a", "b") if task == "classes" else ("background", "a")
    one, other = (
        score_page(
            page(truth, shown, probability=share if task == "membranes" else None), task, classes, [*METRICS.values()]
        )
        for shown, share in (
            (prediction, probability),
            (np.where(hidden, elsewhere, prediction), np.where(hidden, also, probability)),
        )
    )
    for row, same in zip(one.rows, other.rows, strict=True):
        assert row.metrics == pytest.approx(same.metrics, nan_ok=True)
    np.testing.assert_array_equal(one.matrix, other.matrix)


def test_probabilities_go_to_the_membrane_scores_only():
    truth = np.array([[1, 1, 0, 1]] * 3)
    probability = np.where(truth > 0, 0.9, 0.6).astype(np.float32)
    scored = page(truth, probability > 0.5, probability=probability)
    rules = choose_metrics("v_rand,pixel_error", "membranes")
    row = score_page(scored, "membranes", ("membrane", "inside"), rules).rows[0]
    assert row.metrics == pytest.approx({"v_rand": 1, "pixel_error": 3 / 12})


def test_distances_have_the_unit_of_the_pixels():
    result = run([page([[1, 0, 0, 0]], [[0, 0, 0, 1]], spacing=(0.5, 0.25))], metrics="hd")
    assert result.rows[0].metrics["hd"] == 0.75


def test_comparison_is_paired_by_case():
    truth = [page([[1, 1]], [[1, 0]], name) for name in "ab"]
    other = [page([[1, 1]], [[1, 1]], name) for name in "ab"]
    found = with_comparison(run(truth), run(other), Path("other")).comparison["dice"]["cell"]
    assert found.difference == pytest.approx(2 / 3 - 1)
    assert found.n == 2


def test_worst_cases_come_first():
    result = run([page([[1, 1]], [[1, 1]], "good"), page([[1, 1]], [[0, 1]], "bad"), page([[0]], [[0]], "none")])
    assert worst_cases(result) == [("bad", pytest.approx(2 / 3)), ("good", 1)]


@pytest.mark.parametrize(
    ("text", "lower", "expected"),
    [("dice=0.5", True, None), ("dice=0.9", True, "dice is 0.666667, below 0.9"), ("pixel_error=0.4", False, "above"),
     ("dice[cell]=0.9", True, "dice[cell]"), ("pixel_error=0.5", False, None)],
)  # fmt: skip
def test_limits(text, lower, expected):
    result = run([page([[1, 1]], [[1, 0]])], metrics="dice,pixel_error")
    found = missed(parse_limit(text, lower=lower), result)
    assert (found is None) == (expected is None)
    assert found is None or expected in found


@pytest.mark.parametrize("text", ["dice", "dice=x", "=1", "hd95=3", "dyce=1", "dice=nan"])
def test_wrong_limits_are_usage_errors(text):
    from unetcli.errors import UsageError

    with pytest.raises(UsageError):
        parse_limit(text, lower=True)


def test_an_undefined_mean_misses_every_limit():
    result = run([page([[0]], [[0]])])
    assert "undefined" in missed(parse_limit("dice=0", lower=True), result)
