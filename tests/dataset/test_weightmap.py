"""Ridges, border weights and class balance, against slow twins and by hand."""

from itertools import pairwise

import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from unetcli.dataset.weightmap import (
    MOST_PARTS,
    border_weights,
    class_balance,
    component_borders,
    insert_ridges,
    weight_map,
)
from unetcli.training.config import RECIPES

small_instances = arrays(np.int32, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(-1, 4))


def discs(seed, size=96, cells=12, radius=9):
    """Draw instances of overlapping discs, the later over the earlier, some ignored pixels among them."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    instances = np.zeros((size, size), np.int32)
    for cell in range(1, cells + 1):
        middle = draw.uniform(0, size, 2)
        instances[np.hypot(y - middle[0], x - middle[1]) < draw.uniform(1, radius)] = cell
    instances[draw.random((size, size)) < 0.01] = -1
    return instances


def rows(*lines):
    return np.array([[int(character) for character in line] for line in lines], np.int32)


class TestRidges:
    @given(small_instances)
    def test_equal_the_pixel_by_pixel_twin(self, instances):
        np.testing.assert_array_equal(insert_ridges(instances), oracles.ridges_pixel_by_pixel(instances))

    def test_are_two_pixels_wide(self):
        ridged = insert_ridges(rows("111222", "111222", "111222"))
        np.testing.assert_array_equal(ridged, rows("110022", "110022", "110022"))

    def test_part_cells_that_touch_at_a_corner(self):
        ridged = insert_ridges(rows("1100", "1100", "0022", "0022"))
        np.testing.assert_array_equal(ridged, rows("1100", "1000", "0002", "0022"))

    def test_part_cells_that_touch_at_the_other_corner(self):
        ridged = insert_ridges(rows("0011", "0011", "2200", "2200"))
        np.testing.assert_array_equal(ridged, rows("0011", "0001", "2000", "2200"))

    @given(small_instances)
    def test_no_cell_vanishes_and_none_grows(self, instances):
        ridged = insert_ridges(instances)
        assert set(np.unique(ridged[ridged > 0])) == set(np.unique(instances[instances > 0]))
        kept = ridged != 0
        np.testing.assert_array_equal(ridged[kept], instances[kept])

    def test_a_cell_of_one_pixel_makes_the_others_give_way(self):
        instances = np.full((7, 7), 5, np.int32)
        instances[3, 3] = 9
        ridged = insert_ridges(instances)
        assert ridged[3, 3] == 9
        assert (ridged[2:5, 2:5] == 0).sum() == 8
        assert (ridged == 5).sum() == 49 - 9

    def test_ignore_stays_and_is_no_neighbour(self):
        instances = np.full((5, 5), 3, np.int32)
        instances[2] = -1
        np.testing.assert_array_equal(insert_ridges(instances), instances)

    def test_separate_large_cells_completely(self):
        from scipy.ndimage import label

        instances = np.maximum(discs(3), 0)
        ridged = insert_ridges(instances)
        assert label(instances > 0, np.ones((3, 3)))[1] < 12  # merged before
        for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
            other = np.roll(ridged, shift, (0, 1))
            touch = (ridged > 0) & (other > 0) & (ridged != other)
            assert not touch[1:-1, 1:-1].any()

    def test_return_a_new_array_and_keep_large_ids(self):
        instances = np.array([[2**31 - 1, 2**31 - 1, 2**31 - 2, 2**31 - 2]], np.int32)
        ridged = insert_ridges(instances)
        np.testing.assert_array_equal(ridged, [[2**31 - 1, 0, 0, 2**31 - 2]])
        assert instances[0, 1] == 2**31 - 1
        assert ridged.dtype == np.int32


class TestBorderWeights:
    @given(small_instances)
    def test_equal_one_distance_map_per_cell(self, instances):
        np.testing.assert_allclose(
            border_weights(instances), oracles.border_weights_per_cell(instances), rtol=1e-5, atol=1e-6
        )

    @given(st.integers(0, 10_000), st.sampled_from([1.0, 2.5, 5.0, 12.0]), st.sampled_from([1.0, 10.0]))
    def test_equal_one_distance_map_per_cell_on_discs(self, seed, sigma, weight):
        instances = insert_ridges(discs(seed))
        expected = oracles.border_weights_per_cell(instances, weight, sigma)
        found = border_weights(instances, border_weight=weight, border_sigma=sigma)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)

    def test_are_those_of_the_definition_on_ridges(self):
        one_pixel = border_weights(rows("11022"))[0, 2]
        two_pixels = border_weights(rows("110022"))[0, 2]
        assert one_pixel == pytest.approx(10 * np.exp(-4 / 50))  # 9.23
        assert two_pixels == pytest.approx(10 * np.exp(-9 / 50))  # 8.35

    @pytest.mark.parametrize("cells", [0, 1])
    def test_are_zero_with_fewer_than_two_cells(self, cells):
        instances = np.zeros((30, 30), np.int32)
        instances[5:9, 5:9] = cells
        assert not border_weights(instances).any()

    def test_are_zero_beyond_the_reach(self):
        instances = np.zeros((3, 60), np.int32)
        instances[1, 5], instances[1, 36] = 1, 2
        assert not border_weights(instances).any()  # d1 + d2 = 31 pixels
        instances[1, 35] = 2
        assert 0 < border_weights(instances).max() < 1e-6

    @given(st.integers(0, 10_000))
    def test_do_not_depend_on_the_ids(self, seed):
        instances = discs(seed)
        step = (5_500, 165_191_049)[seed % 2]  # ids up to 66,001, or to 2^31
        ids = (np.random.default_rng(seed).permutation(13) * step + 1).astype(np.int32)
        ids[0] = 0
        relabelled = np.where(instances < 0, -1, ids[np.maximum(instances, 0)]).astype(np.int32)
        np.testing.assert_array_equal(border_weights(instances), border_weights(relabelled))
        np.testing.assert_array_equal(insert_ridges(instances) == 0, insert_ridges(relabelled) == 0)

    @given(st.integers(0, 10_000), st.integers(0, 80), st.sampled_from([1.0, 5.0]))
    def test_take_mirror_images_for_the_same_object(self, seed, apart, sigma):
        instances = insert_ridges(discs(seed, size=60, cells=5))
        mirrored = np.hstack([instances, np.zeros((60, apart), np.int32), instances[:, ::-1]])
        expected = oracles.border_weights_per_cell(mirrored, 10.0, sigma)
        np.testing.assert_allclose(border_weights(mirrored, border_sigma=sigma), expected, rtol=1e-5, atol=1e-6)

    def test_hold_for_more_parts_than_are_told_apart(self):
        instances = np.zeros((80, 240), np.int32)
        instances[::3, ::3] = np.arange(27 * 80).reshape(27, 80) % 2 + 1
        assert (instances > 0).sum() > MOST_PARTS
        expected = oracles.border_weights_per_cell(instances)
        np.testing.assert_allclose(border_weights(instances), expected, rtol=1e-5, atol=1e-6)

    def test_do_not_see_what_is_ignored(self):
        instances = discs(5)
        ignored = np.zeros(instances.shape, bool)
        ignored[20:50, 30:70] = True
        one, other = (np.where(ignored, value, instances).astype(np.int32) for value in (-1, -7))
        np.testing.assert_array_equal(border_weights(one), border_weights(other))
        assert not border_weights(one)[ignored].any()

    def test_cross_the_image_edge_unharmed(self):
        instances = np.zeros((20, 20), np.int32)
        instances[:, :9], instances[:, 11:] = 1, 2
        expected = np.zeros((20, 20))
        expected[:, 9:11] = 10 * np.exp(-9 / 50)
        np.testing.assert_allclose(border_weights(instances), expected, rtol=1e-6)


def walled(gap, size=60):
    """Two cells (1) that a wall of background (0) of so many pixels parts, and where the wall is."""
    target = np.ones((size, 2 * size + gap), np.int32)
    target[:, size : size + gap] = 0
    return target, target == 0


class TestComponentBorders:
    @pytest.mark.parametrize("smoothing", [3.0, 0.0])
    @given(small_instances)
    def test_equal_their_slow_twin(self, smoothing, target):
        found = component_borders(target, border_smoothing=smoothing)
        expected = oracles.component_borders_per_component(target, smoothing)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)

    def test_spread_by_three_pixels_and_not_at_all_in_the_recipe_of_the_paper(self):
        target = (discs(3) > 0).astype(np.int32)
        found = component_borders(target)
        np.testing.assert_allclose(found, oracles.component_borders_per_component(target), rtol=1e-4, atol=1e-5)
        assert found[target == 1].any()
        assert not component_borders(target, border_smoothing=RECIPES["paper"].border_smoothing)[target == 1].any()

    @pytest.mark.parametrize("gap", [1, 2])
    def test_weigh_a_narrow_gap_as_a_ridge(self, gap):
        target, wall = walled(gap)
        instances = np.where(np.arange(target.shape[1]) < 60, 1, 2) * target
        np.testing.assert_array_equal(component_borders(target)[wall], border_weights(instances)[wall])

    @pytest.mark.parametrize("gap", [3, 6, 9])
    def test_spread_over_both_sides_of_a_wider_one(self, gap):
        target, wall = walled(gap)
        instances = np.where(np.arange(target.shape[1]) < 60, 1, 2) * target
        weights, exact = component_borders(target)[30], border_weights(instances)[30]
        assert weights.sum() == pytest.approx(exact.sum(), rel=1e-3)
        np.testing.assert_allclose(weights, weights[::-1], rtol=1e-4)
        assert weights.argmax() in np.flatnonzero(wall[30])
        for beside, inside in ((59, 60), (60 + gap, 59 + gap)):  # nearly the same on either side of a border
            assert 0.7 * weights[inside] < weights[beside] < weights[inside]

    def test_fade_where_cells_are_far_from_each_other(self):
        middle = [component_borders(walled(gap)[0])[30, 60 + gap // 2] for gap in (5, 10, 15, 20, 40)]
        assert all(one > 1.5 * other for one, other in pairwise(middle))
        assert middle[-1] == 0

    def test_see_objects_that_meet_at_a_corner(self):
        assert component_borders(rows("1100", "1100", "0011", "0011"))[1, 2] == pytest.approx(10 * np.exp(-4 / 50))

    def test_leave_different_classes_and_one_component_alone(self):
        assert not component_borders(rows("11002211", "11002211")[:, :6]).any()
        assert not component_borders(rows("1101", "1111")).any()

    def test_part_components_of_each_class(self):
        one, other = rows("1100011000022000"), rows("2200022000011000")
        np.testing.assert_array_equal(component_borders(one), component_borders(other))
        assert component_borders(one)[0, 3] > component_borders(one)[0, 9]

    def test_do_not_count_what_lies_under_another_class(self):
        assert not component_borders(rows("1122211", "1122211")).any()

    def test_of_nothing_are_nothing(self):
        assert not component_borders(np.zeros((4, 5), np.int32)).any()
        assert not component_borders(np.full((4, 5), -1, np.int32)).any()


class TestClassBalance:
    @given(st.lists(st.integers(1, 10**6), min_size=1, max_size=6))
    def test_weighs_one_on_average(self, pixels):
        weights = class_balance(pixels)
        assert (weights * np.array(pixels)).sum() / sum(pixels) == pytest.approx(1, rel=1e-5)

    def test_is_the_inverse_frequency(self):
        np.testing.assert_allclose(class_balance([900, 100]), [1000 / 1800, 1000 / 200])

    def test_gives_an_absent_class_one(self):
        np.testing.assert_allclose(class_balance([500, 0, 500]), [1, 1, 1])
        np.testing.assert_allclose(class_balance([0, 0]), [1, 1])

    def test_raises_rare_classes_to_the_share_that_is_asked_for(self):
        np.testing.assert_allclose(class_balance([220, 780], smallest_share=0.1), [1, 1])
        rare = class_balance([990, 10], smallest_share=0.1)
        assert rare[1] / rare[0] == pytest.approx(10)
        np.testing.assert_allclose(class_balance([990, 10], smallest_share=0), [1, 1])

    def test_is_bounded(self):
        weights = class_balance([10_000_000, 3])
        assert weights[1] / weights[0] == pytest.approx(100)


class TestWeightMap:
    target = rows("110011", "110011", "110011")

    def test_adds_balance_and_borders(self):
        instances = rows("110022", "110022", "110022")
        expected = np.array([0.5, 2.0])[self.target] + border_weights(instances)
        np.testing.assert_allclose(weight_map(self.target, instances, [0.5, 2.0]), expected)

    def test_adds_balance_and_borders_of_components(self):
        expected = np.array([0.5, 2.0])[self.target] + component_borders(self.target)
        np.testing.assert_allclose(weight_map(self.target, None, [0.5, 2.0]), expected)

    def test_keeps_the_loss_of_a_single_cell(self):
        instances = rows("110000", "110000", "110000")
        weights = weight_map((instances > 0).astype(np.int32), instances, class_balance([12, 6]))
        assert (weights > 0).all()
        assert weights.mean() == pytest.approx(1)

    def test_is_zero_on_ignore(self):
        target = self.target.copy()
        target[1] = -1
        weights = weight_map(target, None, [0.5, 2.0])
        assert not weights[1].any()
        assert (weights[[0, 2]] > 0).all()

    def test_without_border_weight_is_the_balance(self):
        weights = weight_map(self.target, None, [0.5, 2.0], border_weight=0)
        np.testing.assert_array_equal(weights, np.array([0.5, 2.0], np.float32)[self.target])
        assert weights.dtype == np.float32
