"""From classes to objects: connected components that get their ridges back."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

RIDGE_RADIUS = 2  # pixels: training parts touching cells by ridges two pixels wide, one from either side


def find_objects(
    classes: NDArray[np.uint8], *, min_size: int = 0, fill_holes: bool = False, give_back_ridges: bool = True
) -> NDArray[np.int32]:
    """Return one id per object (H, W), 1 to n in the order of their first pixels, 0 elsewhere.

    Objects are the 4-connected components of each foreground class: a ridge may run diagonally.

    Parameters
    ----------
    classes : class index of each pixel (H, W).
    min_size : components of fewer pixels are left out.
    fill_holes : whether background that an object encloses becomes a part of it.
    give_back_ridges : whether background pixels that lie between two objects, within `RIDGE_RADIUS` pixels of both,
        go to the nearest of them, as training took such ridges away.
    """
    objects = np.zeros(classes.shape, dtype=np.int32)
    count = 0
    for label in range(1, int(classes.max(initial=0)) + 1):
        components, number = ndimage.label(classes == label)
        objects += np.where(components > 0, components + count, 0).astype(np.int32)
        count += number
    if min_size > 1 and count:
        areas = np.bincount(objects.ravel())
        objects[(areas < min_size)[objects]] = 0
    if give_back_ridges:
        objects = with_ridges(objects)
    if fill_holes:
        objects = with_holes_filled(objects)
    return renumbered(objects)


def renumbered(objects: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the objects with ids 1 to n in the order of their first pixels."""
    ids, first, inverse = np.unique(objects, return_index=True, return_inverse=True)
    background = ids == 0
    order = np.argsort(np.where(background, -1, first), kind="stable")
    rank = np.empty(len(ids), dtype=np.int32)
    rank[order] = np.arange(len(ids)) + (0 if background.any() else 1)
    return rank[inverse].reshape(objects.shape)


def with_ridges(objects: NDArray[np.int32], radius: int = RIDGE_RADIUS) -> NDArray[np.int32]:
    """Return the objects grown into the background that lies within `radius` pixels of two of them.

    Each such pixel goes to the nearest object, so outlines towards open background stay where they are.
    """
    if int(objects.max(initial=0)) < 2:
        return objects
    near = np.zeros(objects.shape, dtype=bool)
    disc = np.hypot(*np.mgrid[-radius : radius + 1, -radius : radius + 1]) <= radius
    largest = ndimage.maximum_filter(objects, footprint=disc)
    absent = np.iinfo(np.int32).max
    smallest = ndimage.minimum_filter(np.where(objects > 0, objects, absent), footprint=disc)
    near = (objects == 0) & (largest > 0) & (smallest < largest)  # two different objects within the disc
    if not near.any():
        return objects
    rows, columns = ndimage.distance_transform_edt(objects == 0, return_distances=False, return_indices=True)
    return np.where(near, objects[rows, columns], objects)


def with_holes_filled(objects: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the objects with background that one of them alone encloses."""
    filled = objects.copy()
    for number, box in enumerate(ndimage.find_objects(objects), start=1):
        if box is None:
            continue
        inside = ndimage.binary_fill_holes(objects[box] == number) & (objects[box] == 0)
        filled[box][inside] = number
    return filled
