"""Scores for thin structures, where being connected matters more than being wide."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Skeletons:
    """Lengths in pixels of both skeletons, and of their parts inside the other mask."""

    truth: int
    truth_inside: int
    prediction: int
    prediction_inside: int

    @classmethod
    def merged(cls, parts: Sequence[Self]) -> "Skeletons":
        """Return the lengths of several images together."""
        return Skeletons(
            sum(part.truth for part in parts),
            sum(part.truth_inside for part in parts),
            sum(part.prediction for part in parts),
            sum(part.prediction_inside for part in parts),
        )


def skeletons(
    truth: NDArray[np.bool_],
    prediction: NDArray[np.bool_],
    *,
    ignored: NDArray[np.bool_] | None = None,
    spacing: tuple[float, float] = (1.0, 1.0),
) -> Skeletons:
    """Return the lengths of the skeletons of two masks; ignored pixels are background in both."""
    from skimage import morphology

    if ignored is not None:
        truth, prediction = truth & ~ignored, prediction & ~ignored
    skeletonize: Callable[[NDArray[np.bool_]], NDArray[np.bool_]] = morphology.skeletonize
    of_truth, of_prediction = skeletonize(truth), skeletonize(prediction)
    return Skeletons(
        int(np.count_nonzero(of_truth)),
        int(np.count_nonzero(of_truth & prediction)),
        int(np.count_nonzero(of_prediction)),
        int(np.count_nonzero(of_prediction & truth)),
    )


def cldice(lengths: Skeletons) -> float:
    """Return the harmonic mean of topology precision and sensitivity (Shit 2021, equation 2)."""
    if not lengths.truth and not lengths.prediction:
        return math.nan
    if not lengths.truth_inside or not lengths.prediction_inside:
        return 0.0
    sensitivity = lengths.truth_inside / lengths.truth
    precision = lengths.prediction_inside / lengths.prediction
    return 2 * precision * sensitivity / (precision + sensitivity)
