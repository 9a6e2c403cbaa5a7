"""The pixel weights of the loss: class balance plus ridges between close objects (paper, section 3, equation 2).

    w(x) = w_c(x) + w0 * exp(-(d1(x) + d2(x))^2 / (2 sigma^2))

d1 and d2 are the distances from the background pixel x to the nearest and to the second nearest object, between the
middles of pixels: a pixel beside an object has distance 1. What the paper leaves open is chosen here: w_c is the
inverse frequency over the training pixels, the second term holds on the background only (but see `component_borders`),
and there is none with fewer than two objects.

Warp instances first, then `insert_ridges`, then compute the weights: a warped weight map would break its thin ridges.
Ignored pixels (negative labels) are no objects, and their weight is 0.
"""

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse.csgraph import connected_components
from skimage.measure import label

Labels = NDArray[np.int32]
Weights = NDArray[np.float32]

REACH_IN_SIGMAS = 6.0  # beyond, exp(-(d1 + d2)^2 / (2 sigma^2)) < 1.6e-8: nothing beside a class balance in float32
NARROW_GAP = 2  # pixels of background between objects of a mask without instances that nearly touch
SMOOTHING = 3.0  # standard deviation in pixels, over which the weights between components spread to both sides
LARGEST_RATIO = 100.0  # between two class weights: a few stray pixels of a rare class must not rule the loss
WHOLE_IN_FLOAT32 = 2**24  # ids below are exact in float32, which OpenCV's filters need
SQUARES = (4, 11)  # half sides of the squares in which a second object is looked for, before the whole reach
MOST_PARTS = 1000  # of objects that are told apart: every pair is compared


def insert_ridges(instances: Labels) -> Labels:
    """Return the instances with background wherever two of them touched.

    Every object pixel with a pixel of another object among its eight neighbours becomes background, so a ridge is two
    pixels wide and takes one from either side. An object that would vanish (all of its pixels touch) stays whole; then
    the ridge is one pixel wide and on the neighbour's side, and two such objects remain in touch.

    Parameters
    ----------
    instances : (H, W), one id > 0 per object, 0 background, negative ignored (kept, and nobody's neighbour).
    """
    with_zero, with_large = _numbers(instances)
    kernel = np.ones((3, 3), np.uint8)
    touching = (instances > 0) & (cv2.erode(with_large, kernel) < cv2.dilate(with_zero, kernel))
    if not touching.any():
        return instances.copy()
    ids = np.unique(instances[touching])
    vanishing = ids[~np.isin(ids, instances[(instances > 0) & ~touching])]
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
    reach = REACH_IN_SIGMAS * border_sigma
    sums = _sum_of_two_distances(*_objects_apart(instances, reach), instances == 0, reach)
    return _ridge(sums, border_weight, border_sigma)


def component_borders(
    target: Labels, *, border_weight: float = 10.0, border_sigma: float = 5.0, border_smoothing: float = SMOOTHING
) -> Weights:
    """Return border weights (H, W) for a mask without instances: between the components of one class.

    Components are 4-connected, so objects that meet at a corner count as two, as do an object and its mirror image, and
    the sides of one that ignored pixels cut in two. Objects of different classes are told apart by these.

    On the background alone, the weights of thick membranes would favor the background. So they are smoothed over both
    sides of a border, where they then hardly depend on the class, and probabilities stay what they are. Only gaps of at
    most `NARROW_GAP` pixels (``d1 + d2 <= NARROW_GAP + 1``), which hardly count in that, keep their full weight, as the
    ridges have that are drawn between instances.

    Parameters
    ----------
    target : (H, W) class indices, 0 background, negative ignored.
    border_weight, border_sigma : see `border_weights`.
    border_smoothing : standard deviation of the Gaussian in pixels; 0 leaves all weights on the background.
    """
    weights = np.zeros(target.shape, dtype=np.float32)
    for number in range(1, int(target.max(initial=0)) + 1):
        _, components, found, _ = cv2.connectedComponentsWithStats((target == number).view(np.uint8), connectivity=4)
        left, top, width, height = found[1:, : cv2.CC_STAT_AREA].T
        if len(left) < 2:
            continue
        boxes = np.stack([top, top + height, left, left + width], axis=1)
        sums = _sum_of_two_distances(components, boxes, target == 0, REACH_IN_SIGMAS * border_sigma)
        borders = _ridge(sums, border_weight, border_sigma)
        if border_smoothing:
            narrow = np.where(sums <= NARROW_GAP + 1, borders, np.float32(0))
            borders = np.maximum(narrow, cv2.GaussianBlur(borders, (0, 0), border_smoothing))
        np.maximum(weights, borders, out=weights)
    return weights


def class_balance(pixels: Sequence[int] | NDArray[np.int64], *, smallest_share: float = 1.0) -> Weights:
    """Return one weight per class, normalized to a mean of 1 over the training pixels.

    A class that has less than `smallest_share` of the pixels is weighted as if it had that share: 1 is the inverse
    frequency, 0 gives every class a weight of 1. Rarer than a hundredth of the most frequent class counts as that, so
    that no weight is more than 100 times another, or 10 times with a `smallest_share` of 0.1. A class without pixels
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
    border_smoothing: float = SMOOTHING,
) -> Weights:
    """Return the weight of every pixel (H, W): class balance plus border weights, 0 on ignore.

    Parameters
    ----------
    target : (H, W) class indices, negative ignored; made from the ridged instances where there are any.
    instances : (H, W) one id > 0 per object, or None for a mask without instances (then see `component_borders`).
    balance : one weight per class, see `class_balance`.
    border_weight : 0 leaves the class balance alone.
    border_smoothing : of the weights between components.
    """
    weights = np.asarray(balance, dtype=np.float32).take(target, mode="clip")
    if border_weight > 0:
        settings = {"border_weight": border_weight, "border_sigma": border_sigma}
        if instances is None:
            weights += component_borders(target, **settings, border_smoothing=border_smoothing)
        else:
            weights += border_weights(instances, **settings)
    weights[target < 0] = 0
    return weights


def _ridge(sums: Weights, border_weight: float, border_sigma: float) -> Weights:
    """Return ``border_weight * exp(-sums^2 / (2 border_sigma^2))``; 0 where the sum is infinite."""
    weights = np.zeros(sums.shape, dtype=np.float32)
    near = np.isfinite(sums)
    weights[near] = border_weight * np.exp(-np.square(sums[near]) / np.float32(2 * border_sigma**2))
    return weights


def _sum_of_two_distances(objects: Labels, boxes: NDArray[Any], background: NDArray[np.bool_], reach: float) -> Weights:
    """Return d1 + d2 (H, W) on the background where it is at most `reach`, infinity everywhere else.

    Each object's distances are computed in its bounding box, grown as far as the pixels there need it, and merged into
    the two smallest so far: exact, no stack of one map per object, and cheap because objects are small.

    Parameters
    ----------
    objects : (H, W) 1, 2, ... n, 0 elsewhere.
    boxes : (n, 4) of each: top, bottom, left, right.
    background : (H, W), none of it on an object.
    """
    sums = np.full(objects.shape, np.inf, dtype=np.float32)
    wanted = _wanted(objects, background, math.ceil(reach) - 1)  # d2 <= reach - d1 <= reach - 1
    if not wanted:
        return sums
    nearest, second = sums, sums.copy()
    for number, (top, bottom, left, right) in enumerate(boxes.tolist(), start=1):
        for grow, pixels in wanted:
            grown = np.s_[max(0, top - grow) : bottom + grow, max(0, left - grow) : right + grow]
            if cv2.countNonZero(pixels[grown]):
                others = (objects[grown] != number).view(np.uint8)
                distance = cv2.distanceTransform(others, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
                d1, d2 = nearest[grown], second[grown]
                np.minimum(d2, np.maximum(d1, distance), out=d2)
                np.minimum(d1, distance, out=d1)
                break
    # squares are whole: OpenCV's roots differ in the last bit with the alignment
    sums = np.sqrt(np.rint(np.square(nearest))) + np.sqrt(np.rint(np.square(second)))
    sums[(sums > reach) | ~background] = np.inf
    return sums


def _wanted(objects: Labels, background: NDArray[np.bool_], reach: int) -> list[tuple[int, NDArray[np.uint8]]]:
    """Return background pixels with two objects around, sorted by how far boxes must grow to hold both; largest first.

    Two objects within a square of ``2 * near + 1`` pixels are no farther than ``near * sqrt(2)``.
    """
    highest, lowest = _numbers(objects)
    found, rest, before = [], background.copy(), 0
    for near in [*(near for near in SQUARES if near < reach), reach]:
        kernel = np.ones((2 * (near - before) + 1,) * 2, np.uint8)
        highest, lowest, before = cv2.dilate(highest, kernel), cv2.erode(lowest, kernel), near
        pixels = rest & (lowest < highest)
        if pixels.any():
            found.append((min(math.isqrt(2 * near**2), reach), pixels.view(np.uint8)))
            rest &= ~pixels
    return found[::-1]


def _parts(objects: Labels) -> tuple[Labels, Labels]:
    """Return the connected parts of the objects as 1, 2, ... n (H, W), and the id of each (n + 1,), 0 first."""
    number, found = cv2.connectedComponents((objects > 0).view(np.uint8), connectivity=8)
    parts: Labels = np.asarray(found, dtype=np.int32)
    ids = np.zeros(number, dtype=np.int32)
    ids[parts] = objects
    if (ids.take(parts) != objects).any():  # where objects touch, a slower way tells them apart
        parts = label(objects, connectivity=2, background=0).astype(np.int32)  # type: ignore[no-untyped-call]
        ids = np.zeros(int(parts.max()) + 1, dtype=np.int32)
        ids[parts] = objects
    return parts, ids


def _numbers(objects: Labels) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the ids (H, W) for OpenCV's filters: with 0, and with a larger number, where there is no object.

    A filter's highest of the first and lowest of the second differ where it sees two objects.
    """
    ids = np.maximum(objects, 0)
    largest = int(ids.max(initial=0))
    if largest >= WHOLE_IN_FLOAT32:
        present, ids = np.unique(ids, return_inverse=True)
        ids, largest = ids.reshape(objects.shape) + int(present[0] > 0), present.size
    with_zero: NDArray[Any] = ids.astype(np.uint16 if largest < 2**16 - 1 else np.float32)
    return with_zero, np.where(with_zero == 0, with_zero.dtype.type(largest + 1), with_zero)


def _objects_apart(instances: Labels, reach: float) -> tuple[Labels, NDArray[np.intp]]:
    """Return the objects as 1, 2, ... n (H, W), and their boxes (n, 4): top, bottom, left, right.

    Parts of one object that lie farther apart than the reach stand for themselves: no pixel has both within the reach.
    Where a patch shows an object and its mirror image, one box around both would be large.
    """
    parts, ids = _parts(np.maximum(instances, 0))
    number = ids.size - 1
    boxes = np.array([[side.start, side.stop] for box in ndimage.find_objects(parts) for side in box]).reshape(-1, 2, 2)
    _, object_of_part = np.unique(ids[1:], return_inverse=True)
    shared = np.flatnonzero(np.bincount(object_of_part)[object_of_part] > 1)  # parts of objects that have several
    if not shared.size:
        return parts, boxes.reshape(-1, 4)
    group = np.arange(number)
    if shared.size > MOST_PARTS:
        group = object_of_part
    else:
        gaps = boxes[shared, None, :, 0] - boxes[shared, :, 1]  # (k, k, 2), negative where intervals overlap
        near = np.maximum(gaps, gaps.swapaxes(0, 1)).max(axis=2) < reach
        same = object_of_part[shared]
        _, together = connected_components(near & (same[:, None] == same))
        group[shared] = number + together
        _, group = np.unique(group, return_inverse=True)
    joined = np.empty((int(group.max()) + 1, 4), np.intp)
    joined[:, ::2] = np.iinfo(np.intp).max
    joined[:, 1::2] = 0
    for axis in (0, 1):
        np.minimum.at(joined[:, 2 * axis], group, boxes[:, axis, 0])
        np.maximum.at(joined[:, 2 * axis + 1], group, boxes[:, axis, 1])
    return np.concatenate([[0], group + 1]).astype(np.int32).take(parts), joined
