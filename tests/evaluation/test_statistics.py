import math

import numpy as np
import pytest
from scipy import stats

from unetcli.evaluation import statistics
from unetcli.evaluation.statistics import compare, confidence_interval, summarize

NAN = math.nan


def test_a_small_set_by_hand():
    summary = summarize([0.8, NAN, 0.9, 1.0])
    assert (summary.n, summary.undefined) == (3, 1)
    assert (summary.mean, summary.median) == pytest.approx((0.9, 0.9))
    assert summary.sd == pytest.approx(0.1)
    half = 4.302653 * 0.1 / math.sqrt(3)  # t(0.975, 2)
    assert (summary.ci_low, summary.ci_high) == pytest.approx((0.9 - half, 0.9 + half), rel=1e-6)
    assert "Student" in summary.interval


def test_the_interval_keeps_to_what_is_possible():
    summary = summarize([0.8, 1.0, 1.0], bounds=(0, 1))
    assert summary.ci_high == 1
    assert 0 < summary.ci_low < 0.9


def test_one_case_has_no_interval_and_says_why():
    summary = summarize([0.7])
    assert summary.mean == 0.7
    assert math.isnan(summary.ci_low)
    assert math.isnan(summary.sd)
    assert "one case" in summary.interval


def test_nothing_defined():
    summary = summarize([NAN, NAN])
    assert (summary.n, summary.undefined) == (0, 2)
    assert math.isnan(summary.mean)


def test_the_bootstrap_begins_at_twenty_cases_and_repeats_itself():
    values = np.random.default_rng(0).beta(9, 1, 20)
    assert "bootstrap" in summarize(values).interval
    assert "Student" in summarize(values[:19]).interval
    assert confidence_interval(values) == confidence_interval(values.copy())


def test_the_bootstrap_agrees_with_student_for_bell_shaped_values():
    values = np.random.default_rng(2).normal(0.5, 0.1, 60)
    low, high, _ = confidence_interval(values)
    expected = stats.t.interval(0.95, 59, values.mean(), stats.sem(values))
    assert (low, high) == pytest.approx(expected, abs=0.004)


def test_resamples_are_drawn_from_all_cases():
    means = statistics.bootstrap_means(np.array([0.0, 1.0]))
    assert set(means) == {0.0, 0.5, 1.0}
    assert np.mean(means == 0.5) == pytest.approx(0.5, abs=0.03)


def coverage(size, sets, seed=1):
    rng = np.random.default_rng(seed)
    inside = 0
    for _ in range(sets):
        low, high, _ = confidence_interval(rng.beta(9, 1, size))
        inside += low <= 0.9 <= high
    return inside / sets


def test_intervals_cover_the_mean_of_skewed_scores():
    assert coverage(50, 300) >= 0.91


@pytest.mark.slow
@pytest.mark.parametrize(("size", "least"), [(5, 0.88), (10, 0.89), (20, 0.91), (50, 0.93)])
def test_coverage_as_documented(size, least):
    share = coverage(size, 2000)
    print(f"n = {size}: {share:.1%}")
    assert share >= least


def test_paired_difference():
    first, second = [0.9, 0.8, NAN, 0.7, 0.95], [0.8, 0.75, 0.5, 0.7, 0.9]
    found = compare(first, second)
    differences = np.array([0.1, 0.05, 0.0, 0.05])
    assert (found.n, found.undefined) == (4, 1)
    assert found.difference == pytest.approx(differences.mean())
    assert found.p == pytest.approx(stats.wilcoxon(differences[differences != 0]).pvalue)
    assert found.ci_low < found.difference < found.ci_high


def test_pairing_sees_what_two_intervals_do_not():
    rng = np.random.default_rng(0)
    hard = rng.beta(5, 2, 30)
    first, second = hard + 0.02 + rng.normal(0, 0.005, 30), hard
    assert summarize(first).ci_low < summarize(second).ci_high
    assert compare(first, second).ci_low > 0
    assert compare(first, second).p < 1e-4


def test_no_difference_at_all():
    found = compare([0.5, 0.6], [0.5, 0.6])
    assert (found.difference, found.p) == (0, 1)
