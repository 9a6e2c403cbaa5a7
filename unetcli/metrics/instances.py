"""Scores of objects: which true and which predicted objects belong together, and how well they overlap.

Everything follows from a sparse table of overlaps, so that ten thousand objects in an image are no problem. Empty
cases: no object in either -> nan (undefined); objects in only one of them -> 0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
MAP_THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))
DENSE_CELLS = 1 << 20  # tables up to this size are counted directly, larger ones by sorting runs


@dataclass(frozen=True)
class Overlaps:
    """Areas of the objects and of their overlaps, in pixels.

    Entry k says that `intersections[k]` pixels lie in both the true object `rows[k]` and the predicted object
    `columns[k]`; objects are numbered from 0 in the order of their ids.
    """

    truth_areas: IntArray
    prediction_areas: IntArray
    rows: IntArray
    columns: IntArray
    intersections: IntArray

    @property
    def unions(self) -> IntArray:
        """Area of the union of each overlapping pair."""
        return self.truth_areas[self.rows] + self.prediction_areas[self.columns] - self.intersections

    @property
    def ious(self) -> FloatArray:
        """Intersection over union of each overlapping pair."""
        return self.intersections / self.unions

    @property
    def is_empty(self) -> bool:
        """Whether there is no object at all."""
        return not self.truth_areas.size and not self.prediction_areas.size

    @classmethod
    def merged(cls, parts: Sequence[Self]) -> "Overlaps":
        """Return the objects of several images in one table."""
        row_shifts = np.cumsum([0, *(part.truth_areas.size for part in parts)])
        column_shifts = np.cumsum([0, *(part.prediction_areas.size for part in parts)])
        return Overlaps(
            np.concatenate([part.truth_areas for part in parts]),
            np.concatenate([part.prediction_areas for part in parts]),
            np.concatenate([part.rows + shift for part, shift in zip(parts, row_shifts, strict=False)]),
            np.concatenate([part.columns + shift for part, shift in zip(parts, column_shifts, strict=False)]),
            np.concatenate([part.intersections for part in parts]),
        )


@dataclass(frozen=True)
class Matches:
    """Objects matched one to one: the IoU of each match, and what was left."""

    ious: FloatArray
    false_positives: int
    false_negatives: int

    @property
    def true_positives(self) -> int:
        """Number of matches."""
        return self.ious.size


def overlaps(
    truth: NDArray[np.integer],
    prediction: NDArray[np.integer],
    *,
    ignored: NDArray[np.bool_] | None = None,
    spacing: tuple[float, float] = (1.0, 1.0),
) -> Overlaps:
    """Return the areas of all objects and of all overlaps.

    Parameters
    ----------
    truth, prediction : ids (H, W); 0 and below is background.
    ignored : pixels that become background in both; an object that lies there wholly is gone.
    spacing : has no influence; every basis is called alike.
    """
    assert truth.shape == prediction.shape
    true_ids, predicted_ids = truth.ravel(), prediction.ravel()
    if ignored is not None:
        counted = ~ignored.ravel()
        true_ids, predicted_ids = true_ids * counted, predicted_ids * counted
    true_ids, rows = _compact(true_ids)
    predicted_ids, columns = _compact(predicted_ids)
    if rows * columns <= DENSE_CELLS:
        table = np.bincount(true_ids * columns + predicted_ids, minlength=rows * columns).reshape(rows, columns)
        true_areas, predicted_areas = table.sum(axis=1)[1:], table.sum(axis=0)[1:]
        row, column = np.nonzero(table[1:, 1:])
        counts = table[1:, 1:][row, column]
    else:
        true_areas = np.bincount(true_ids, minlength=rows)[1:]
        predicted_areas = np.bincount(predicted_ids, minlength=columns)[1:]
        both = (true_ids > 0) & (predicted_ids > 0)
        keys, counts = np.unique(true_ids[both] * columns + predicted_ids[both], return_counts=True)
        row, column = np.divmod(keys, columns)
        row, column = row - 1, column - 1
    seen_row, seen_column = true_areas > 0, predicted_areas > 0  # ids may have gaps
    return Overlaps(
        true_areas[seen_row],
        predicted_areas[seen_column],
        (np.cumsum(seen_row) - 1)[row],
        (np.cumsum(seen_column) - 1)[column],
        counts,
    )


def _compact(ids: NDArray[np.integer]) -> tuple[IntArray, int]:
    """Return ids as non-negative int64 below a limit near the number of pixels, and that limit."""
    if ids.size == 0:
        return ids.astype(np.int64), 1
    numbers: IntArray = ids.astype(np.int64)
    if numbers.min() < 0:
        numbers = np.maximum(numbers, 0)
    largest = int(numbers.max())
    if largest <= max(1 << 10, numbers.size):
        return numbers, largest + 1
    values, inverse = np.unique(np.append(numbers, 0), return_inverse=True)  # the 0 keeps background at 0
    return inverse[:-1], values.size


def match(table: Overlaps, threshold: float, *, strict: bool = False) -> Matches:
    """Return the one-to-one matching with the most pairs at IoU >= `threshold` (> when `strict`), then the largest IoU.

    Notes
    -----
    Above 0.5 every pair is the only one of both objects and nothing is left to assign.
    """
    ious = table.ious
    able = ious > threshold if strict else ious >= threshold
    chosen = _assign(table.rows[able], table.columns[able], ious[able], prefer_many=True)
    return Matches(
        ious[able][chosen],
        table.prediction_areas.size - chosen.size,
        table.truth_areas.size - chosen.size,
    )


def _assign(rows: IntArray, columns: IntArray, gains: FloatArray, *, prefer_many: bool) -> IntArray:
    """Return which entries an optimal one-to-one assignment takes: the most pairs first, or the largest total gain.

    Entries whose row and column occur once are taken at once. The others go to a sparse shortest-augmenting-path
    solver; each row gets a private column that means "unmatched", so that a full matching always exists.
    """
    if rows.size == 0:
        return np.zeros(0, np.int64)
    alone = (np.bincount(rows)[rows] == 1) & (np.bincount(columns)[columns] == 1)
    if alone.all():
        return np.flatnonzero(alone)
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    open_entries = np.flatnonzero(~alone)
    _, row = np.unique(rows[open_entries], return_inverse=True)
    _, column = np.unique(columns[open_entries], return_inverse=True)
    height, width = int(row.max()) + 1, int(column.max()) + 1
    gain = gains[open_entries]
    if prefer_many:
        gain = 1 + gain / (2 * min(height, width))  # all the IoU of a matching weighs less than one more pair
    unmatched = np.arange(height)
    costs = csr_matrix(
        (
            np.concatenate([3 - gain, np.full(height, 3.0)]),  # all above 0: a sparse matrix would drop zeros
            (np.concatenate([row, unmatched]), np.concatenate([column, width + unmatched])),
        ),
        shape=(height, width + height),
    )
    chosen_row, chosen_column = min_weight_full_bipartite_matching(costs)
    taken = np.isin(row * width + column, (chosen_row * width + chosen_column)[chosen_column < width])
    return np.sort(np.concatenate([np.flatnonzero(alone), open_entries[taken]]))


def _score(table: Overlaps, right: float, total: float) -> float:
    if table.is_empty:
        return math.nan
    return right / total if total else 0.0


def object_precision(table: Overlaps, threshold: float) -> float:
    """Return TP / (TP + FP)."""
    matches = match(table, threshold)
    return _score(table, matches.true_positives, table.prediction_areas.size)


def object_recall(table: Overlaps, threshold: float) -> float:
    """Return TP / (TP + FN)."""
    matches = match(table, threshold)
    return _score(table, matches.true_positives, table.truth_areas.size)


def f1(table: Overlaps, threshold: float) -> float:
    """Return 2 TP / (2 TP + FP + FN)."""
    matches = match(table, threshold)
    return _score(table, 2 * matches.true_positives, table.truth_areas.size + table.prediction_areas.size)


def ap(table: Overlaps, threshold: float) -> float:
    """Return TP / (TP + FP + FN), the average precision of stardist, cellpose and the Data Science Bowl."""
    matches = match(table, threshold)
    hits = matches.true_positives
    return _score(table, hits, hits + matches.false_positives + matches.false_negatives)


def map(table: Overlaps) -> float:
    """Return the mean of `ap` over the IoU thresholds 0.50, 0.55, ... 0.95."""
    return float(np.mean([ap(table, threshold) for threshold in MAP_THRESHOLDS]))


def mean_matched_iou(table: Overlaps, threshold: float) -> float:
    """Return the mean IoU of the matches; 0 when there is none."""
    matches = match(table, threshold)
    return _score(table, float(matches.ious.sum()), matches.true_positives)


def mean_true_iou(table: Overlaps, threshold: float) -> float:
    """Return the summed IoU of the matches divided by the number of true objects (stardist's mean_true_score)."""
    return _score(table, float(match(table, threshold).ious.sum()), table.truth_areas.size)


def pq(table: Overlaps) -> float:
    """Return panoptic quality (Kirillov 2019, equation 1)."""
    total = (table.truth_areas.size + table.prediction_areas.size) / 2  # = TP + FP/2 + FN/2
    return _score(table, float(match(table, 0.5, strict=True).ious.sum()), total)


def sq(table: Overlaps) -> float:
    """Return the segmentation part of panoptic quality."""
    matches = match(table, 0.5, strict=True)
    return _score(table, float(matches.ious.sum()), matches.true_positives)


def rq(table: Overlaps) -> float:
    """Return the detection part of panoptic quality."""
    total = (table.truth_areas.size + table.prediction_areas.size) / 2
    return _score(table, match(table, 0.5, strict=True).true_positives, total)


def aji(table: Overlaps) -> float:
    """Return the aggregated Jaccard index: each true object with its best prediction, which may serve twice."""
    order = np.lexsort((table.columns, -table.ious, table.rows))
    rows, first = np.unique(table.rows[order], return_index=True)
    best = order[first]
    return _aggregated(table, best, np.isin(np.arange(table.truth_areas.size), rows, invert=True))


def aji_plus(table: Overlaps) -> float:
    """Return the aggregated Jaccard index with objects matched one to one at the largest total IoU."""
    pairs = _assign(table.rows, table.columns, table.ious, prefer_many=False)
    return _aggregated(table, pairs, np.isin(np.arange(table.truth_areas.size), table.rows[pairs], invert=True))


def _aggregated(table: Overlaps, pairs: IntArray, unpaired: NDArray[np.bool_]) -> float:
    unused = np.isin(np.arange(table.prediction_areas.size), table.columns[pairs], invert=True)
    union = table.unions[pairs].sum() + table.truth_areas[unpaired].sum() + table.prediction_areas[unused].sum()
    return _score(table, float(table.intersections[pairs].sum()), float(union))


def _covering(table: Overlaps) -> NDArray[np.bool_]:
    """Return which entries are predictions covering more than half of a true object (one per object at most)."""
    return 2 * table.intersections > table.truth_areas[table.rows]


def seg(table: Overlaps) -> float:
    """Return the Cell Tracking Challenge's SEG; false positives cost nothing, so read it beside `det`."""
    return _score(table, float(table.ious[_covering(table)].sum()), table.truth_areas.size)


def det(table: Overlaps) -> float:
    """Return the Cell Tracking Challenge's DET: a merge of two objects costs 5, a miss 10, an extra object 1."""
    covering = _covering(table)
    found, used = int(np.count_nonzero(covering)), np.unique(table.columns[covering]).size
    misses, extra, merges = table.truth_areas.size - found, table.prediction_areas.size - used, found - used
    everything = 10 * table.truth_areas.size
    return _score(table, everything - min(5 * merges + 10 * misses + extra, everything), everything)
