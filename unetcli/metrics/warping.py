"""Warping error (Jain 2010): topology that differs, wherever the borders may lie.

The truth is warped towards the prediction by flipping pixels whose flip changes no topology ("simple points", with
4-connected cells and 8-connected membranes). What still differs at the end are splits, merges, holes and lost cells.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from unetcli.metrics.partition import thresholds_for

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Warped:
    """Share of the counted pixels that still differ after warping, at each threshold of the prediction."""

    errors: NDArray[np.float64]

    @classmethod
    def merged(cls, parts: Sequence[Self]) -> "Warped":
        """Return the mean over the slices of a stack, those without a counted pixel left out."""
        counted = [part.errors for part in parts if not np.isnan(part.errors).any()]
        return Warped(np.mean(counted, axis=0)) if counted else parts[0]


def warped(
    truth: BoolArray,
    prediction: NDArray[Any],
    *,
    ignored: BoolArray | None = None,
    spacing: tuple[float, float] = (1.0, 1.0),
) -> Warped:
    """Return what differs after warping the truth; arguments as for the other bases of membranes."""
    confidence = prediction.astype(np.float64)
    counted = np.ones(truth.shape, np.bool_) if ignored is None else ~ignored
    truth, size = truth & counted, int(np.count_nonzero(counted))
    errors = []
    for threshold in thresholds_for(prediction):
        target = (confidence > threshold) & counted
        differing = np.count_nonzero(warp(truth, target, np.abs(confidence - threshold)) != target)
        errors.append(differing / size if size else math.nan)
    return Warped(np.array(errors))


def warping_error(result: Warped) -> float:
    """Return the smallest warping error over the thresholds."""
    return float(result.errors.min())


def warp(truth: BoolArray, target: BoolArray, urgency: NDArray[np.float64]) -> BoolArray:
    """Return the truth warped towards `target`; pixels with the largest `urgency` are flipped first.

    A sweep visits all differing pixels, flips take effect at once, and sweeps end when one changes nothing.
    """
    height, width = truth.shape
    stride = width + 2
    pixels = bytearray(np.pad(truth, 1).tobytes())
    columns, rows = np.nonzero((truth != target).T)  # Fiji's order: x outside, y inside
    order = np.argsort(-urgency[rows, columns], kind="stable")
    waiting = ((rows[order] + 1) * stride + columns[order] + 1).tolist()
    around = (-stride - 1, -stride, -stride + 1, -1, 1, stride - 1, stride, stride + 1)
    simple = simple_points()
    while True:
        left = []
        for place in waiting:
            code = 0
            for bit, shift in enumerate(around):
                code |= pixels[place + shift] << bit
            if simple[code]:
                pixels[place] ^= 1
            else:
                left.append(place)
        if len(left) == len(waiting):
            break
        waiting = left
    grid = np.frombuffer(bytes(pixels), np.bool_).reshape(height + 2, stride)
    return grid[1:-1, 1:-1]


@functools.cache
def simple_points() -> tuple[bool, ...]:
    """Return, for each of the 256 neighborhoods, whether flipping its center changes no topology.

    The bits of a code are the eight neighbors row by row. The flip is simple when exactly one 4-connected piece of
    foreground touches the center along an edge, and the background around it is one 8-connected piece.
    """
    from scipy.ndimage import label

    answers = []
    for code in range(256):
        bits = [bool(code >> bit & 1) for bit in range(8)]
        patch = np.array([*bits[:4], False, *bits[4:]]).reshape(3, 3)
        pieces, _ = label(patch)
        touching = {int(pieces[place]) for place in ((0, 1), (1, 0), (1, 2), (2, 1))} - {0}
        outside = ~patch
        outside[1, 1] = False
        answers.append(len(touching) == 1 and label(outside, np.ones((3, 3)))[1] == 1)
    return tuple(answers)
