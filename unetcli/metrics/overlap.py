"""Scores of overlap from the four counts of a confusion table.

Empty cases: neither truth nor prediction contains what the score is about -> nan (undefined); only one of them -> 0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Confusion:
    """Numbers of pixels: true and false, positive and negative."""

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int

    @property
    def size(self) -> int:
        """Number of pixels."""
        return self.true_positive + self.false_positive + self.false_negative + self.true_negative

    @classmethod
    def merged(cls, parts: Sequence[Self]) -> "Confusion":
        """Return the counts of several images together."""
        return Confusion(
            sum(part.true_positive for part in parts),
            sum(part.false_positive for part in parts),
            sum(part.false_negative for part in parts),
            sum(part.true_negative for part in parts),
        )


def confusion(
    truth: NDArray[np.bool_],
    prediction: NDArray[np.bool_],
    *,
    ignored: NDArray[np.bool_] | None = None,
    spacing: tuple[float, float] = (1.0, 1.0),
) -> Confusion:
    """Return how many pixels are true and false positives and negatives.

    Parameters
    ----------
    truth, prediction : boolean arrays of one shape.
    ignored : pixels that do not count.
    spacing : has no influence; every basis is called alike.
    """
    assert truth.shape == prediction.shape
    both = truth & prediction
    if ignored is None:
        size, hits = truth.size, int(np.count_nonzero(both))
        positives, predicted = int(np.count_nonzero(truth)), int(np.count_nonzero(prediction))
    else:
        counted = ~ignored
        size, hits = int(np.count_nonzero(counted)), int(np.count_nonzero(both & counted))
        positives = int(np.count_nonzero(truth & counted))
        predicted = int(np.count_nonzero(prediction & counted))
    return Confusion(hits, predicted - hits, positives - hits, size - positives - predicted + hits)


def pixel_error(counts: Confusion) -> float:
    """Return (FP + FN) / N; nan without pixels."""
    wrong = counts.false_positive + counts.false_negative
    return wrong / counts.size if counts.size else math.nan


def iou(counts: Confusion) -> float:
    """Return TP / (TP + FP + FN)."""
    union = counts.true_positive + counts.false_positive + counts.false_negative
    return counts.true_positive / union if union else math.nan


def dice(counts: Confusion) -> float:
    """Return 2 TP / (2 TP + FP + FN)."""
    total = 2 * counts.true_positive + counts.false_positive + counts.false_negative
    return 2 * counts.true_positive / total if total else math.nan


def precision(counts: Confusion) -> float:
    """Return TP / (TP + FP); 0 when nothing is predicted although something is there."""
    return _share(counts.true_positive, counts.false_positive, counts.false_negative)


def recall(counts: Confusion) -> float:
    """Return TP / (TP + FN); 0 when something is predicted although nothing is there."""
    return _share(counts.true_positive, counts.false_negative, counts.false_positive)


def specificity(counts: Confusion) -> float:
    """Return TN / (TN + FP); 0 when background is predicted although there is none."""
    return _share(counts.true_negative, counts.false_positive, counts.false_negative)


def _share(right: int, wrong: int, elsewhere: int) -> float:
    """Return right / (right + wrong): 0 when only `elsewhere` is left, nan when nothing is."""
    if right + wrong:
        return right / (right + wrong)
    return 0.0 if elsewhere else math.nan
