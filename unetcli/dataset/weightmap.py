"""The pixel weights of the loss: class balance plus ridges between close objects (paper, section 3, equation 2).

    w(x) = w_c(x) + w0 * exp(-(d1(x) + d2(x))^2 / (2 sigma^2))

d1 and d2 are the distances from the background pixel x to the nearest and to the second nearest object, between the
middles of pixels: a pixel beside an object has distance 1. What the paper leaves open is chosen here: w_c is the
inverse frequency over the training pixels, the second term holds on the background only, and there is none with fewer
than two objects.

Warp instances first, then `insert_ridges`, then compute the weights: a warped weight map would break its thin ridges.
Ignored pixels (negative labels) are no objects, and their weight is 0.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Labels = NDArray[np.int32]
Weights = NDArray[np.float32]

REACH_IN_SIGMAS = 6.0  # beyond, exp(-(d1 + d2)^2 / (2 sigma^2)) < 1.6e-8: nothing beside a class balance in float32
NARROW_GAP = 2  # pixels of background between objects of a mask without instances that nearly touch
LARGEST_RATIO = 100.0  # between two class weights: a few stray pixels of a rare class must not rule the loss


def insert_ridges(instances: Labels) -> Labels:
    """Return the instances with background wherever two of them touched.

    Every object pixel with a pixel of another object among its eight neighbours becomes background, so a ridge is two
    pixels wide and takes one from either side. An object that would vanish (all of its pixels touch) stays whole; then
    the ridge is one pixel wide and on the neighbour's side, and two such objects remain in touch.

    Parameters
    ----------
    instances : (H, W), one id > 0 per object, 0 background, negative ignored (kept, and nobody's neighbour).
    """
    touching = np.zeros(instances.shape, dtype=bool)
    height, width = instances.shape
    for rows, columns in ((0, 1), (1, 0), (1, 1), (1, -1)):  # the other four neighbours are these, seen from there
        here = np.s_[: height - rows, max(0, -columns) : width - max(0, columns)]
        there = np.s_[rows:, max(0, columns) : width + min(0, columns)]
        first, second = instances[here], instances[there]
        pairs = (first != second) & (first > 0) & (second > 0)
        touching[here] |= pairs
        touching[there] |= pairs
    if not touching.any():
        return instances.copy()
    vanishing = np.setdiff1d(instances[touching], instances[(instances > 0) & ~touching])
    if vanishing.size:
        touching &= ~np.isin(instances, vanishing)
    return np.where(touching, np.int32(0), instances)


def border_weights(instances: Labels, *, border_weight: float = 10.0, border_sigma: float = 5.0) -> Weights:
    """Return the second term of equation 2 (H, W): on the background between objects, 0 elsewhere.

    It is exact where ``d1 + d2 <= 6 * border_sigma`` and 0 beyond, where it would be below 2e-8 of `border_weight`.
    Fewer than two objects give zeros.

    Parameters
    ----------
    instances : (H, W), one id > 0 per object, 0 background, negative ignored.
    border_weight : w0 of the paper.
    border_sigma : sigma of the paper, in pixels.
    """
    return _ridge(_sum_of_two_distances(instances, REACH_IN_SIGMAS * border_sigma), border_weight, border_sigma)


def nearly_touching(target: Labels, *, border_weight: float = 10.0, border_sigma: float = 5.0) -> Weights:
    """Return border weights (H, W) for a mask without instances: where two components of one class nearly touch.

    Components are 4-connected, so objects that meet at a corner count as two. They nearly touch where the background
    between them is at most `NARROW_GAP` pixels wide (``d1 + d2 <= NARROW_GAP + 1``), as the ridges are that are drawn
    between instances: membranes, which are thicker, and objects far from each other get nothing. Objects of different
    classes need no ridge, their classes tell them apart.

    Parameters
    ----------
    target : (H, W) class indices, 0 background, negative ignored.
    """
    weights = np.zeros(target.shape, dtype=np.float32)
    for label in range(1, int(target.max(initial=0)) + 1):
        components, number = ndimage.label(target == label)
        if number > 1:
            sums = _sum_of_two_distances(components.astype(np.int32), NARROW_GAP + 1)
            np.maximum(weights, _ridge(sums, border_weight, border_sigma), out=weights)
    weights[target != 0] = 0
    return weights


def class_balance(pixels: Sequence[int] | NDArray[np.int64], *, smallest_share: float = 1.0) -> Weights:
    """Return one weight per class, normalized to a mean of 1 over the training pixels.

    A class that has less than `smallest_share` of the pixels is weighted as if it had that share: 1 is the inverse
    frequency, 0 gives every class a weight of 1. No weight is more than 100 times another. A class without pixels
    gets 1.

    Parameters
    ----------
    pixels : number of training pixels of each class, ignored ones not counted.
    """
    counts = np.asarray(pixels, dtype=np.float64)
    present = counts > 0
    weights = np.ones(counts.shape)
    if present.any():
        shares = np.maximum(counts[present], counts.max() / LARGEST_RATIO) / counts.sum()
        raised = np.maximum(shares, smallest_share) / shares
        weights[present] = raised * counts.sum() / (raised * counts[present]).sum()
    return weights.astype(np.float32)


def weight_map(
    target: Labels,
    instances: Labels | None,
    balance: Sequence[float] | Weights,
    *,
    border_weight: float = 10.0,
    border_sigma: float = 5.0,
) -> Weights:
    """Return the weight of every pixel (H, W): class balance, plus border weights on the background, 0 on ignore.

    Parameters
    ----------
    target : (H, W) class indices, negative ignored; made from the ridged instances where there are any.
    instances : (H, W) one id > 0 per object, or None for a mask without instances (then see `nearly_touching`).
    balance : one weight per class, see `class_balance`.
    border_weight : 0 leaves the class balance alone.
    """
    weights = np.asarray(balance, dtype=np.float32)[np.maximum(target, 0)]
    if border_weight > 0:
        settings = {"border_weight": border_weight, "border_sigma": border_sigma}
        borders = nearly_touching(target, **settings) if instances is None else border_weights(instances, **settings)
        weights += np.where(target == 0, borders, np.float32(0))
    weights[target < 0] = 0
    return weights


def _ridge(sums: Weights, border_weight: float, border_sigma: float) -> Weights:
    """Return ``border_weight * exp(-sums^2 / (2 border_sigma^2))``; 0 where the sum is infinite."""
    weights = np.zeros(sums.shape, dtype=np.float32)
    near = np.isfinite(sums)
    weights[near] = border_weight * np.exp(-np.square(sums[near]) / np.float32(2 * border_sigma**2))
    return weights


def _sum_of_two_distances(instances: Labels, reach: float) -> Weights:
    """Return d1 + d2 (H, W) on background pixels where it is at most `reach`, infinity everywhere else.

    Each object's distances are computed in its bounding box grown by the reach and merged into the two smallest so far:
    exact, no stack of one map per object, and cheap because objects are small.
    """
    nearest = np.full(instances.shape, np.inf, dtype=np.float32)  # squared distances until the end
    second = nearest.copy()
    compact = _compact(instances)
    grow = int(np.ceil(reach))  # d2 <= reach - d1 <= reach - 1
    for label, box in enumerate(ndimage.find_objects(compact), start=1):
        rows, columns = (slice(max(0, side.start - grow), side.stop + grow) for side in box)
        others = (compact[rows, columns] != label).view(np.uint8)
        distance = cv2.distanceTransform(others, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        squared = np.rint(distance * distance)  # whole again: OpenCV's roots differ in the last bit with the alignment
        d1, d2 = nearest[rows, columns], second[rows, columns]
        np.minimum(d2, np.maximum(d1, squared), out=d2)
        np.minimum(d1, squared, out=d1)
    sums = np.sqrt(nearest) + np.sqrt(second)
    sums[(sums > reach) | (instances != 0)] = np.inf
    return sums


def _compact(instances: Labels) -> Labels:
    """Return the instances with ids 1, 2, ... n, and 0 for everything that is no object."""
    objects = np.maximum(instances, 0)
    ids = np.unique(objects)
    ids = ids[ids > 0]
    if ids.size and ids[-1] <= instances.size:  # a table is faster than a search, but ids may reach 2^31 - 1
        table = np.zeros(ids[-1] + 1, dtype=np.int32)
        table[ids] = np.arange(1, ids.size + 1)
        return table[objects]
    return np.where(objects > 0, np.searchsorted(ids, objects) + 1, 0).astype(np.int32)
