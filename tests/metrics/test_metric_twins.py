"""Metrics against slow, obvious twins on small random images, and what must hold for every image."""

import math

import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from unetcli.metrics import METRICS, boundary, find_metric, instances, partition, warping

shapes = st.tuples(st.integers(1, 9), st.integers(1, 9))
masks = shapes.flatmap(lambda shape: st.tuples(arrays(bool, shape), arrays(bool, shape)))
labels = shapes.flatmap(
    lambda shape: st.tuples(arrays(np.int32, shape, elements=st.integers(0, 4)),
                            arrays(np.int32, shape, elements=st.integers(0, 4)))
)  # fmt: skip


@given(masks, st.sampled_from([(1.0, 1.0), (0.5, 0.5), (2.0, 0.3)]))
def test_distances_between_borders(pair, spacing):
    truth, prediction = pair
    found = boundary.surfaces(truth, prediction, spacing=spacing)
    if truth.any() and prediction.any():
        there = oracles.border_distances(truth, prediction, spacing)
        back = oracles.border_distances(prediction, truth, spacing)
        np.testing.assert_allclose(found.truth_to_prediction, there, rtol=1e-12)
        np.testing.assert_allclose(found.prediction_to_truth, back, rtol=1e-12)
        assert boundary.hd(found) == pytest.approx(max(there + back))
        assert boundary.assd(found) == pytest.approx(np.mean(there + back))
        assert boundary.hd95(found) == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)))
    elif truth.any() or prediction.any():
        diagonal = math.hypot(truth.shape[0] * spacing[0], truth.shape[1] * spacing[1])
        assert [boundary.hd(found), boundary.assd(found), boundary.masd(found)] == pytest.approx([diagonal] * 3)
        assert boundary.nsd(found, 100.0) == boundary.boundary_f1(found, 0.0) == 0
    else:
        assert math.isnan(boundary.hd(found))


@given(labels, st.sampled_from([0.1, 0.3, 0.5, 0.75]))
def test_matching(pair, threshold):
    truth, prediction = pair
    matches = instances.match(instances.overlaps(truth, prediction), threshold)
    pairs, total = oracles.best_matching(oracles.object_ious(truth, prediction), threshold)
    assert matches.true_positives == pairs
    assert matches.ious.sum() == pytest.approx(total)


def test_a_match_reaches_its_threshold():
    table = instances.overlaps(np.array([[1, 1, 0, 2]]), np.array([[1, 0, 0, 2]]))  # IoU 1/2 and 1
    for threshold, strict, hits in ((0.5, False, 2), (0.5, True, 1), (0.51, False, 1), (1.0, False, 1), (0.1, True, 2)):
        assert instances.match(table, threshold, strict=strict).true_positives == hits


@given(labels)
def test_aggregated_jaccard_and_tracking_scores(pair):
    truth, prediction = pair
    table = instances.overlaps(truth, prediction)
    ious = oracles.object_ious(truth, prediction)
    ids, other = np.unique(truth[truth > 0]), np.unique(prediction[prediction > 0])
    if not ids.size or not other.size:
        expected = math.nan if not ids.size and not other.size else 0
        for score in (instances.aji, instances.aji_plus, instances.seg, instances.det, instances.map, instances.pq):
            assert score(table) == pytest.approx(expected, nan_ok=True)
        return
    shared = union = 0
    used = set()
    seg, covered = 0.0, []
    for i, t in enumerate(ids):
        best = int(np.argmax(ious[i]))
        if ious[i, best] > 0:
            used.add(best)
            shared += np.sum((truth == t) & (prediction == other[best]))
            union += np.sum((truth == t) | (prediction == other[best]))
        else:
            union += np.sum(truth == t)
        for j, p in enumerate(other):
            if np.sum((truth == t) & (prediction == p)) > 0.5 * np.sum(truth == t):
                seg += ious[i, j]
                covered.append(j)
    union += sum(np.sum(prediction == p) for j, p in enumerate(other) if j not in used)
    assert instances.aji(table) == pytest.approx(shared / union)
    assert instances.seg(table) == pytest.approx(seg / ids.size)
    cost = 5 * (len(covered) - len(set(covered))) + 10 * (ids.size - len(covered)) + other.size - len(set(covered))
    assert instances.det(table) == pytest.approx(1 - min(cost, 10 * ids.size) / (10 * ids.size))


@given(labels)
def test_rand_scores_count_pairs(pair):
    truth, prediction = pair
    inside = truth > 0
    if not inside.any():
        return
    both, true, predicted = oracles.rand_by_pairs(truth, prediction)
    found = partition._compare(truth[inside], prediction[inside])
    assert found[:3] == pytest.approx((both, true, predicted))
    size = int(inside.sum())
    apart = (true + predicted - 2 * both) * size / (size - 1) if size > 1 else 0.0
    assert found[4] == pytest.approx(apart)


@given(shapes.flatmap(lambda shape: st.tuples(*[arrays(np.int32, shape, elements=st.integers(1, 4))] * 2)))
def test_exchanging_truth_and_prediction_exchanges_split_and_merge(pair):
    truth, prediction = (array.ravel() for array in pair)
    there, back = partition._compare(truth, prediction), partition._compare(prediction, truth)
    assert there[:3] == pytest.approx((back[0], back[2], back[1]))
    assert there[3] == pytest.approx(back[3], abs=1e-9)


@given(labels, st.permutations(range(1, 5)), st.integers(0, 1))
def test_numbering_changes_no_score(pair, order, gap):
    truth, prediction = pair
    renumber = np.array([0, *order], np.int32) * (1 + gap * 1_000_000)
    for metric in METRICS.values():
        if metric.takes == "objects" and metric.name != "aji":  # two equally good predictions: the first counts there
            before, after = metric(truth, prediction), metric(renumber[truth], renumber[prediction])
            assert before == pytest.approx(after, nan_ok=True), metric.name


@given(labels)
def test_large_tables_equal_small_ones(pair):
    truth, prediction = pair
    small = instances.overlaps(truth, prediction)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(instances, "DENSE_CELLS", 0)
        large = instances.overlaps(truth, prediction)
    for name in vars(small):
        np.testing.assert_array_equal(getattr(small, name), getattr(large, name))


@given(masks)
def test_every_score_keeps_to_its_range(pair):
    truth, prediction = pair
    for metric in METRICS.values():
        if metric.takes != "objects":
            value = metric(truth, prediction)
            assert math.isnan(value) or 0 <= value <= (math.inf if metric.unit else 1 + 1e-12), metric.name
            perfect = metric(truth, truth)
            if not math.isnan(perfect) and not metric.name.startswith("v_info"):
                assert perfect == pytest.approx(1 if metric.higher_is_better else 0), metric.name


@given(masks, st.data())
def test_ignored_pixels_have_no_say(pair, data):
    truth, prediction = pair
    ignored = data.draw(arrays(bool, truth.shape))
    for metric in METRICS.values():
        one = metric(truth, prediction, ignored=ignored)
        other = metric(truth ^ ignored, prediction & ~ignored, ignored=ignored)
        assert one == pytest.approx(other, nan_ok=True), metric.name


def test_warping_error_is_a_share_of_the_counted_pixels():
    truth, ignored = np.ones((4, 6), bool), np.zeros((4, 6), bool)
    prediction = truth.copy()
    prediction[1, 1] = False  # a hole, which no warp makes
    ignored[:, 3:] = True
    metric = METRICS["warping_error"]
    assert metric(truth, prediction, ignored=ignored) == pytest.approx(1 / 12)
    nothing = metric.prepare(truth, prediction, ignored=np.ones_like(ignored))
    assert math.isnan(metric.score(nothing))
    assert metric.pooled([nothing, metric.prepare(truth, prediction, ignored=ignored)]) == pytest.approx(1 / 12)
    assert math.isnan(metric.pooled([nothing, nothing]))


@given(masks)
def test_warping_keeps_topology(pair):
    from scipy.ndimage import label

    truth, prediction = pair
    moved = warping.warp(truth, prediction, np.zeros(truth.shape))
    assert label(moved)[1] == label(truth)[1]
    everywhere = np.ones((3, 3))
    assert label(~np.pad(moved, 1), everywhere)[1] == label(~np.pad(truth, 1), everywhere)[1]
    assert np.all((moved == truth) | (moved == prediction))


@pytest.mark.parametrize("shape", [(300, 400), (1500, 2000)])  # what is too far for 32-bit floats takes another way
def test_distance_transform_is_exact_far_away(shape):
    points = np.zeros(shape, bool)
    points[3, -10] = points[-100, 20] = True
    y, x = np.indices(shape)
    squares = [(y - v) ** 2 + (x - u) ** 2 for v, u in np.argwhere(points)]
    np.testing.assert_array_equal(boundary.distance_to(points), np.sqrt(np.minimum(*squares)))


def test_best_threshold_of_a_probability_map_is_found():
    truth = np.ones((32, 32), bool)
    truth[:, 15:17] = False
    probability = np.where(truth, 0.95, 0.62)
    probability[:, 20] = 0.83  # a wall that is not there, weaker than the membrane's
    v_rand = METRICS["v_rand"]
    assert v_rand(truth, probability > 0.5) < 0.8
    assert v_rand(truth, probability) == pytest.approx(1)
    assert METRICS["v_info"](truth, probability) == pytest.approx(1)


def test_slices_of_a_stack_share_their_threshold():
    truth = np.ones((16, 16), bool)
    truth[:, 8] = False
    pages = [np.where(truth, 0.95, low) for low in (0.15, 0.75)]
    pages[0][:, 4] = 0.25  # must lie above the threshold, which the second page forbids
    pages[1][:, 4] = 0.85
    metric = METRICS["v_rand"]
    bases = [metric.prepare(truth, page) for page in pages]
    alone = [metric.score(basis) for basis in bases]
    assert alone == pytest.approx([1, 1])
    assert metric.pooled(bases) < 0.95


@pytest.mark.parametrize("name", [name for name in METRICS if name not in ("boundary_iou", "v_info_unthinned")])
def test_pooling_one_image_is_that_image(name):
    rng = np.random.default_rng(3)
    truth, prediction = rng.random((2, 24, 24)) > 0.4
    metric = METRICS[name]
    if metric.takes == "objects":
        truth, prediction = partition.connected(truth), partition.connected(prediction)
    basis = metric.prepare(truth, prediction)
    assert metric.pooled([basis]) == pytest.approx(metric.score(basis))


def test_pooled_objects_do_not_meet_across_images():
    one, other = np.array([[1, 1, 0]]), np.array([[0, 1, 1]])
    table = instances.Overlaps.merged([instances.overlaps(one, one), instances.overlaps(other, one)])
    assert table.truth_areas.size == table.prediction_areas.size == 2
    assert instances.ap(table, 0.9) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [("dyce", "no metric"), ("dice@2", "takes no"), ("nsd@x", "not a number"), ("ap@1.5", "at most at 1")],
)
def test_unknown_metrics_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        find_metric(text)


def test_ten_thousand_objects_take_seconds():
    size, side = 100, 12
    y, x = np.mgrid[: size * side, : size * side]
    truth = (y // side * size + x // side + 1).astype(np.int32)
    prediction = ((y + 3) // side % size * size + (x + 4) // side % size + 1).astype(np.int32)
    table = instances.overlaps(truth, prediction)
    assert table.truth_areas.size == 10_000
    assert instances.match(table, 0.25).true_positives == 10_000
    assert instances.aji_plus(table) == pytest.approx(1 / 3)


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.7, 1.9)])
@pytest.mark.parametrize("far", [1, 120])  # border pixels far from the other border: a search tree, or a transform
def test_far_borders_have_exact_distances(spacing, far):
    rng = np.random.default_rng(1)
    truth, prediction = np.zeros((2, 90, 120), bool)
    truth[10:60, 5:50] = rng.random((50, 45)) > 0.6
    prediction[10:60, 6:51] = truth[10:60, 5:50]
    prediction.ravel()[rng.permutation(np.arange(70 * 120, 90 * 120))[:far]] = True
    found = boundary.surfaces(truth, prediction, spacing=spacing)
    np.testing.assert_allclose(
        found.prediction_to_truth, oracles.border_distances(prediction, truth, spacing), rtol=1e-12
    )


def test_matching_prefers_more_pairs_to_more_overlap():
    rows, columns, gains = np.array([0, 0, 1]), np.array([0, 1, 1]), np.array([0.2, 0.9, 0.3])
    assert instances._assign(rows, columns, gains, prefer_many=True).tolist() == [0, 2]
    assert instances._assign(rows, columns, gains, prefer_many=False).tolist() == [1]
