"""Areas, centers and boxes of objects, added up from the runs of pixels that they have in each row."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Measures:
    """Sums over pixels; an entry per run, per part of an object, or per object.

    Parameters
    ----------
    number : what the entry belongs to.
    first : first pixel, counted row by row from the upper left of the page.
    area : pixels.
    y_sum, x_sum : of their coordinates.
    top, left : least row and column; `bottom` and `right` are one more than the largest.
    """

    number: Numbers
    first: Numbers
    area: Numbers
    y_sum: Numbers
    x_sum: Numbers
    top: Numbers
    left: Numbers
    bottom: Numbers
    right: Numbers

    @classmethod
    def joined(cls, parts: Sequence["Measures"]) -> "Measures":
        """Return the entries of all parts, one after the other."""
        return cls(*map(np.concatenate, zip(*(part._columns() for part in parts), strict=True)))

    @property
    def center(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean row and column."""
        return self.y_sum / self.area, self.x_sum / self.area

    def at(self, entries: Any) -> "Measures":
        """Return these entries."""
        return Measures(*(column[entries] for column in self._columns()))

    def of(self, owners: NDArray[Any]) -> "Measures":
        """Return one entry for each number that ``owners[number]`` gives, in order; those of owner 0 are left out."""
        number = owners[self.number].astype(np.int64)
        order = np.argsort(number, kind="stable")
        order = order[np.count_nonzero(number == 0) :]
        number = number[order]
        cuts = np.flatnonzero(np.diff(number, prepend=0))
        ordered = self.at(order)
        sums = (np.add.reduceat(column, cuts) for column in (ordered.area, ordered.y_sum, ordered.x_sum))
        least = (np.minimum.reduceat(column, cuts) for column in (ordered.top, ordered.left))
        most = (np.maximum.reduceat(column, cuts) for column in (ordered.bottom, ordered.right))
        return Measures(number[cuts], np.minimum.reduceat(ordered.first, cuts), *sums, *least, *most)

    def _columns(self) -> list[Numbers]:
        return [getattr(self, field.name) for field in fields(self)]


def measure(numbers: NDArray[np.int32], top: int) -> Measures:
    """Return the measures of each number but 0 in rows (h, W) of a page that begin at row `top`."""
    _, width = numbers.shape
    begins = np.ones(numbers.shape, np.bool_)
    np.not_equal(numbers[:, 1:], numbers[:, :-1], out=begins[:, 1:])
    starts = np.flatnonzero(begins)
    lengths = np.diff(starts, append=numbers.size)
    values = numbers.ravel()[starts].astype(np.int64)
    kept = values > 0
    starts, lengths, values = starts[kept], lengths[kept], values[kept]
    y, x = starts // width + top, starts % width
    x_sums = lengths * (2 * x + lengths - 1) // 2
    runs = Measures(values, starts + top * width, lengths, y * lengths, x_sums, y, x, y + 1, x + lengths)
    return runs.of(np.arange(int(values.max(initial=0)) + 1))
