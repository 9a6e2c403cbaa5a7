"""Brute-force twins of the information score, boundary IoU and clDice."""

import numpy as np
import oracles
import pytest
from hypothesis import assume, given
from hypothesis.extra.numpy import arrays
from skimage.morphology import skeletonize

from unetcli.metrics import METRICS, find_metric

MASKS = arrays(np.int32, (7, 9), elements={"min_value": 0, "max_value": 1})


@given(MASKS, MASKS)
def test_information_score(truth, prediction):
    assume(truth.any() and prediction.any())
    expected = oracles.information_score(truth > 0, prediction > 0)
    assert METRICS["v_info_unthinned"](truth > 0, prediction > 0) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("width", [1, 2, 3])
@given(truth=MASKS, prediction=MASKS)
def test_boundary_iou(width, truth, prediction):
    assume(truth.any() and prediction.any())
    first, second = (oracles.boundary_band(mask > 0, width) for mask in (truth, prediction))
    expected = len(first & second) / len(first | second)
    assert find_metric(f"boundary_iou@{width}")(truth > 0, prediction > 0) == pytest.approx(expected)


@given(MASKS, MASKS)
def test_cldice(truth, prediction):
    assume(truth.any() and prediction.any())

    def inside(lines, mask):
        pixels = [tuple(pixel) for pixel in np.argwhere(lines)]
        return sum(bool(mask[pixel]) for pixel in pixels) / len(pixels)

    precision = inside(skeletonize(prediction > 0), truth)
    sensitivity = inside(skeletonize(truth > 0), prediction)
    both = precision + sensitivity
    assert METRICS["cldice"](truth > 0, prediction > 0) == pytest.approx(
        2 * precision * sensitivity / both if both else 0
    )
