"""Scores of the ISBI 2012 challenge: how well membranes part an image into cells.

The truth is a mask of the cells' inside, the prediction a mask or the probability of the inside. Everything counts
inside the true cells only ("foreground-restricted"), whose 4-connected components are the true segments. Before
scoring, the predicted membranes are thinned to lines by a watershed, so that their width costs nothing. A probability
map is scored at ten thresholds and the best counts; over the slices of a stack the threshold is common.

With p_ij the share of the pixels in true segment i and predicted segment j, t_i and s_j its sums, n the number of
pixels: predicted membrane inside a true cell counts as segments of one pixel each. Source: Arganda-Carreras 2015,
"Crowdsourcing the creation of image segmentation algorithms for connectomics", as in Fiji's Trainable_Segmentation.

Empty cases: neither has a cell -> nan; only one of them -> 0 (Fiji). One true cell alone: V_info is 0 even when the
prediction is perfect, because the truth carries no information (Fiji).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]
THRESHOLDS = tuple(level / 10 for level in range(10))  # the challenge's ten levels
MASK_THRESHOLDS = (0.5,)


@dataclass(frozen=True)
class Agreement:
    """How the parts of truth and prediction share pixels, at each threshold: arrays of one entry per threshold.

    Parameters
    ----------
    both, truth, prediction : sums of p_ij^2, t_i^2 and s_j^2; added up over slices.
    information : V_info; averaged over slices.
    rand_error : 1 - Rand index; averaged over slices.
    defined : whether truth or prediction has any cell.
    """

    both: FloatArray
    truth: FloatArray
    prediction: FloatArray
    information: FloatArray
    rand_error: FloatArray
    defined: BoolArray

    @property
    def rand(self) -> FloatArray:
        """V_rand at each threshold."""
        total = self.truth + self.prediction
        score = np.divide(2 * self.both, total, out=np.zeros_like(total), where=total > 0)
        return np.where(self.defined, score, np.nan)

    @classmethod
    def merged(cls, parts: Sequence[Self]) -> "Agreement":
        """Return the agreement over the slices of a stack."""
        defined = np.array([part.defined for part in parts])
        return Agreement(
            np.sum([part.both for part in parts], axis=0),
            np.sum([part.truth for part in parts], axis=0),
            np.sum([part.prediction for part in parts], axis=0),
            _mean_where(np.array([part.information for part in parts]), defined),
            _mean_where(np.array([part.rand_error for part in parts]), defined),
            np.asarray(defined.any(axis=0)),
        )


@dataclass(frozen=True)
class Partition:
    """Agreement with the thinned membranes, and with the membranes as they are."""

    thinned: Agreement
    unthinned: Agreement

    @classmethod
    def merged(cls, parts: Sequence[Self]) -> "Partition":
        """Return the agreement over the slices of a stack, whose probability maps share their thresholds."""
        return Partition(
            Agreement.merged([part.thinned for part in parts]),
            Agreement.merged([part.unthinned for part in parts]),
        )


def partition(
    truth: BoolArray,
    prediction: NDArray[Any],
    *,
    ignored: BoolArray | None = None,
    spacing: tuple[float, float] = (1.0, 1.0),
) -> Partition:
    """Return how the cells of a truth and of a prediction share pixels.

    Parameters
    ----------
    truth : boolean (H, W), true inside the cells.
    prediction : boolean, or probability of the inside between 0 and 1 (H, W).
    ignored : pixels that do not count; they lie outside the cells of both.
    spacing : has no influence; every basis is called alike.
    """
    if ignored is not None:
        truth, prediction = truth & ~ignored, np.where(ignored, np.zeros_like(prediction), prediction)
    inside = connected(truth)[truth]
    thinned, unthinned = [], []
    for threshold in thresholds_for(prediction):
        cells = prediction > threshold
        something = bool(cells.any() or inside.size)
        unthinned.append((*_compare(inside, connected(cells)[truth]), something))
        thinned.append((*_compare(inside, basins(cells)[truth]), something))
    return Partition(_agreement(thinned), _agreement(unthinned))


def thresholds_for(prediction: NDArray[Any]) -> tuple[float, ...]:
    """Return the challenge's ten thresholds for probabilities, one for a mask."""
    return MASK_THRESHOLDS if prediction.dtype == np.bool_ else THRESHOLDS


def connected(mask: BoolArray) -> NDArray[np.int32]:
    """Return the 4-connected components of a mask, numbered from 1."""
    from scipy.ndimage import label

    labels: NDArray[np.int32] = label(mask, output=np.int32)[0]
    return labels


def basins(cells: BoolArray) -> NDArray[np.int32]:
    """Return the cells grown by a watershed until lines one pixel wide (0) part them: thinned membranes."""
    from skimage import segmentation

    if not cells.any():
        return np.ones(cells.shape, np.int32)  # a flat image is one basin
    watershed: Callable[..., NDArray[np.int32]] = segmentation.watershed
    return watershed((~cells).astype(np.uint8), connected(cells), connectivity=1, watershed_line=True)


def _compare(truth: NDArray[np.int32], prediction: NDArray[np.int32]) -> tuple[float, ...]:
    """Return sums of p_ij^2, t_i^2, s_j^2, V_info and the Rand error of the pixels inside the true cells."""
    size = truth.size
    if not size:
        return 0.0, 0.0, 0.0, 0.0, math.nan
    singles = int(np.count_nonzero(prediction == 0))
    width = int(prediction.max()) + 1
    pairs, counts = np.unique(truth.astype(np.int64) * width + prediction, return_counts=True)
    shared = counts[pairs % width > 0].astype(np.float64)
    of_truth = np.bincount(truth)[1:].astype(np.float64)
    of_prediction = np.bincount(prediction)[1:].astype(np.float64)
    both, true, predicted = (float(np.sum(np.square(part))) for part in (shared, of_truth, of_prediction))
    truth_entropy = _entropy(of_truth, 0, size)
    prediction_entropy = _entropy(of_prediction, singles, size)
    mutual = truth_entropy + prediction_entropy - _entropy(shared, singles, size)
    carries = truth_entropy > 0 and prediction_entropy > 0
    information = 2 * mutual / (truth_entropy + prediction_entropy) if carries else 0.0
    unlike = true + predicted - 2 * both - singles  # ordered pairs of pixels together in one and apart in the other
    rand_error = unlike / (size * (size - 1)) if size > 1 else 0.0
    share = 1 / size**2
    return (both + singles) * share, true * share, (predicted + singles) * share, information, rand_error


def _entropy(counts: FloatArray, singles: int, size: int) -> float:
    """Return the entropy in nats of segments of these sizes and of `singles` segments of one pixel."""
    shares = counts[counts > 0] / size
    return max(0.0, float(-np.sum(shares * np.log(shares)))) + singles / size * math.log(size)


def _agreement(rows: Sequence[tuple[float, ...]]) -> Agreement:
    both, truth, prediction, information, rand_error, defined = np.array(rows, np.float64).T
    return Agreement(both, truth, prediction, information, rand_error, defined > 0)


def _mean_where(values: FloatArray, defined: BoolArray) -> FloatArray:
    counted = defined & np.isfinite(values)
    number = counted.sum(axis=0)
    total = np.where(counted, values, 0).sum(axis=0)
    mean: FloatArray = np.divide(total, number, out=np.full(number.shape, np.nan), where=number > 0)
    return mean


def _best(agreement: Agreement) -> int | None:
    rand = agreement.rand
    return int(np.nanargmax(rand)) if np.isfinite(rand).any() else None


def _part(agreement: Agreement, total: FloatArray) -> float:
    best = _best(agreement)
    return math.nan if best is None or not total[best] else float(agreement.both[best] / total[best])


def v_rand(parts: Partition) -> float:
    """Return the foreground-restricted Rand F-score of the thinned membranes at its best threshold."""
    best = _best(parts.thinned)
    return math.nan if best is None else float(parts.thinned.rand[best])


def v_rand_split(parts: Partition) -> float:
    """Return sum p_ij^2 / sum t_i^2 at the threshold of `v_rand`: 1 when no cell is split."""
    return _part(parts.thinned, parts.thinned.truth)


def v_rand_merge(parts: Partition) -> float:
    """Return sum p_ij^2 / sum s_j^2 at the threshold of `v_rand`: 1 when no cells are merged."""
    return _part(parts.thinned, parts.thinned.prediction)


def v_info(parts: Partition) -> float:
    """Return the foreground-restricted information score of the thinned membranes at its best threshold."""
    return _largest(parts.thinned)


def v_rand_unthinned(parts: Partition) -> float:
    """Return the Rand F-score of the membranes as they are at its best threshold."""
    best = _best(parts.unthinned)
    return math.nan if best is None else float(parts.unthinned.rand[best])


def v_info_unthinned(parts: Partition) -> float:
    """Return the information score of the membranes as they are at its best threshold."""
    return _largest(parts.unthinned)


def _largest(agreement: Agreement) -> float:
    scores = np.where(agreement.defined, agreement.information, np.nan)
    return float(np.nanmax(scores)) if np.isfinite(scores).any() else math.nan


def rand_error(parts: Partition) -> float:
    """Return 1 - Rand index over all pairs of pixels inside the true cells, not thinned, at its best threshold."""
    errors = parts.unthinned.rand_error
    return float(np.nanmin(errors)) if np.isfinite(errors).any() else math.nan
