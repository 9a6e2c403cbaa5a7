"""Distances between the borders of two masks.

The border of a mask is what a 4-connected erosion removes, with background outside the image (as in MedPy, MONAI and
Metrics Reloaded), so that objects cut by the image edge have a border there. Empty cases: both masks empty -> nan;
one empty -> every distance is the image diagonal, and the shares are 0.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]
REACH = 4  # pixels around a border pixel that are looked through one by one
FEW = 0.05  # share of border pixels up to which a search tree is faster than a transform of the image
FARTHEST_EXACT = 512.0  # pixels: up to here a 32-bit float tells squared distances apart, even a little off


@dataclass(frozen=True)
class Surfaces:
    """Distances of each border's pixels to the other border, in the unit of the spacing."""

    truth_to_prediction: FloatArray
    prediction_to_truth: FloatArray

    @property
    def pooled(self) -> FloatArray:
        """Both directions together."""
        return np.concatenate([self.truth_to_prediction, self.prediction_to_truth])

    @classmethod
    def merged(cls, parts: Sequence[Self]) -> "Surfaces":
        """Return the distances of several images together."""
        return Surfaces(
            np.concatenate([part.truth_to_prediction for part in parts]),
            np.concatenate([part.prediction_to_truth for part in parts]),
        )


@dataclass(frozen=True)
class Bands:
    """Distances of mask pixels to the own border, over the pixels of either mask; inf outside the own mask."""

    truth: FloatArray
    prediction: FloatArray


def surfaces(
    truth: BoolArray,
    prediction: BoolArray,
    *,
    ignored: BoolArray | None = None,
    spacing: tuple[float, float] = (1.0, 1.0),
) -> Surfaces:
    """Return the distances from either border to the other; ignored pixels are background in both masks.

    Parameters
    ----------
    truth, prediction : boolean arrays (H, W).
    ignored : boolean array (H, W).
    spacing : size of a pixel (y, x); distances have its unit.
    """
    assert truth.shape == prediction.shape
    if ignored is not None:
        truth, prediction = truth & ~ignored, prediction & ~ignored
    worst = math.hypot(truth.shape[0] * spacing[0], truth.shape[1] * spacing[1])
    box = _bounding_box(truth | prediction)
    if box is None:
        return Surfaces(np.zeros(0), np.zeros(0))
    of_truth, of_prediction = border(truth[box]), border(prediction[box])
    return Surfaces(
        _distances(of_truth, of_prediction, spacing, worst),
        _distances(of_prediction, of_truth, spacing, worst),
    )


def bands(
    truth: BoolArray,
    prediction: BoolArray,
    *,
    ignored: BoolArray | None = None,
    spacing: tuple[float, float] = (1.0, 1.0),
) -> Bands:
    """Return how far inside their mask the pixels of either mask lie; ignored pixels are background in both."""
    if ignored is not None:
        truth, prediction = truth & ~ignored, prediction & ~ignored
    either = truth | prediction
    box = _bounding_box(either)
    if box is None:
        return Bands(np.zeros(0), np.zeros(0))
    depths = []
    for mask in (truth[box], prediction[box]):
        depth = distance_to(border(mask), spacing) if mask.any() else np.zeros(mask.shape)
        depths.append(np.where(mask, depth, np.inf)[either[box]])
    return Bands(*depths)


def border(mask: BoolArray) -> BoolArray:
    """Return the pixels of a mask (H, W) with at least one of their four neighbours outside it or the image."""
    inner = mask.copy()
    inner[0], inner[-1], inner[:, 0], inner[:, -1] = False, False, False, False
    inner[1:] &= mask[:-1]
    inner[:-1] &= mask[1:]
    inner[:, 1:] &= mask[:, :-1]
    inner[:, :-1] &= mask[:, 1:]
    return mask ^ inner


def distance_to(points: BoolArray, spacing: tuple[float, float] = (1.0, 1.0)) -> FloatArray:
    """Return the exact Euclidean distance (H, W) of every pixel to the nearest of `points`, of which there is one.

    With square pixels OpenCV's exact transform is used, ten times faster than SciPy's: squared distances are whole
    numbers, so rounding them removes the error of its 32-bit floats.
    """
    import cv2
    from scipy.ndimage import distance_transform_edt

    if spacing[0] == spacing[1]:
        fast = cv2.distanceTransform((~points).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        if fast.max(initial=0) <= FARTHEST_EXACT:
            return np.sqrt(np.rint(np.square(fast.astype(np.float64)))) * spacing[0]
    distances: FloatArray = distance_transform_edt(~points, sampling=spacing)
    return distances


def _distances(start: BoolArray, end: BoolArray, spacing: tuple[float, float], worst: float) -> FloatArray:
    """Return the distance of each pixel of `start` to the nearest of `end`; `worst` when there is none.

    Borders mostly lie a few pixels apart, so the neighborhood is looked through first, the nearest places before the
    farther ones; what finds nothing there gets its distance from a tree, or from a transform when it is much.
    """
    places = np.flatnonzero(start)
    distances = np.full(places.size, worst)
    if not end.any():
        return distances
    stride = end.shape[1] + 2 * REACH
    targets = np.pad(end, REACH).ravel()
    rows, columns = np.divmod(places, end.shape[1])
    centers = (rows + REACH) * stride + columns + REACH
    waiting = np.arange(places.size)
    for distance, dy, dx in _neighborhood(*spacing):
        found = targets[centers[waiting] + (dy * stride + dx)]
        distances[waiting[found]] = distance
        waiting = waiting[~found]
        if not waiting.size:
            return distances
    if waiting.size > FEW * places.size:
        distances[waiting] = distance_to(end, spacing).ravel()[places[waiting]]
    else:
        from scipy.spatial import cKDTree

        points = np.column_stack([rows, columns])[waiting] * np.array(spacing)
        distances[waiting] = cKDTree(np.argwhere(end) * np.array(spacing)).query(points)[0]
    return distances


@functools.cache
def _neighborhood(height: float, width: float) -> tuple[tuple[float, int, int], ...]:
    """Return (distance, dy, dx) of the places nearer than any outside the reach, the nearest first."""
    steps = range(-REACH, REACH + 1)
    near = ((math.hypot(dy * height, dx * width), dy, dx) for dy in steps for dx in steps)
    return tuple(sorted(place for place in near if place[0] <= REACH * min(height, width)))


def _bounding_box(mask: BoolArray) -> tuple[slice, slice] | None:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return None
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def hd(distances: Surfaces) -> float:
    """Return the Hausdorff distance: the largest distance of either direction."""
    pooled = distances.pooled
    return float(pooled.max()) if pooled.size else math.nan


def hd95(distances: Surfaces) -> float:
    """Return the larger of the two directed 95th percentiles (linear interpolation), as MONAI; MedPy pools first."""
    directed = [np.percentile(part, 95) for part in _directions(distances) if part.size]
    return float(max(directed)) if directed else math.nan


def assd(distances: Surfaces) -> float:
    """Return the average symmetric surface distance: the mean over the pooled distances."""
    pooled = distances.pooled
    return float(pooled.mean()) if pooled.size else math.nan


def masd(distances: Surfaces) -> float:
    """Return the mean of the two directed mean distances."""
    directed = [part.mean() for part in _directions(distances) if part.size]
    return float(np.mean(directed)) if directed else math.nan


def nsd(distances: Surfaces, tolerance: float) -> float:
    """Return the normalized surface distance: the share of all border pixels within `tolerance` of the other border."""
    if not all(part.size for part in _directions(distances)):  # a tolerance beyond the diagonal forgives no empty mask
        return 0.0 if distances.pooled.size else math.nan
    return _share_within(distances.pooled, tolerance)


def boundary_f1(distances: Surfaces, tolerance: float) -> float:
    """Return the harmonic mean of the shares of either border within `tolerance` of the other."""
    to_truth, to_prediction = distances.prediction_to_truth, distances.truth_to_prediction
    if not to_truth.size and not to_prediction.size:
        return math.nan
    if not to_truth.size or not to_prediction.size:
        return 0.0
    precision, recall = _share_within(to_truth, tolerance), _share_within(to_prediction, tolerance)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def boundary_iou(depths: Bands, width: float) -> float:
    """Return the IoU of the bands of mask pixels nearer than `width` to their own border."""
    near_truth, near_prediction = depths.truth < width, depths.prediction < width
    union = int(np.count_nonzero(near_truth | near_prediction))
    return int(np.count_nonzero(near_truth & near_prediction)) / union if union else math.nan


def _share_within(distances: FloatArray, tolerance: float) -> float:
    """Return the share of distances up to a tolerance, which those that equal it may miss by their last digits."""
    return float(np.mean(distances <= tolerance * (1 + 1e-9)))


def _directions(distances: Surfaces) -> tuple[FloatArray, FloatArray]:
    return distances.truth_to_prediction, distances.prediction_to_truth
