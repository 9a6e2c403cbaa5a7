"""Read any region of an image, mirrored beyond its edges (paper, section 3.1: extrapolation by mirroring)."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Source(Protocol):
    """Pixels (H, W, C) that can be read by region: an array, a memory map, a page of a file, a zarr array."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Height, width and channels."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the pixels."""

    def __getitem__(self, key: Any) -> Any: ...


def mirrored_indices(start: int, stop: int, size: int) -> NDArray[np.intp]:
    """Return the pixel indices that stand for ``start .. stop - 1`` on an axis of `size` pixels.

    The axis is continued by reflection with period ``2 * (size - 1)``: the edge pixel is not repeated, and an image
    far smaller than the region is reflected as often as needed. An axis of one pixel repeats that pixel.
    """
    if size == 1:
        return np.zeros(stop - start, dtype=np.intp)
    period = 2 * (size - 1)
    positions = np.arange(start, stop, dtype=np.intp) % period
    return np.minimum(positions, period - positions)


def read_mirrored(source: Source, top: int, bottom: int, left: int, right: int) -> NDArray[Any]:
    """Return ``source[top:bottom, left:right]`` (h, w, C), mirrored where the region reaches outside the image.

    Only the rows and columns that the region needs are read from the source, in one piece.
    """
    rows = mirrored_indices(top, bottom, source.shape[0])
    columns = mirrored_indices(left, right, source.shape[1])
    first_row, first_column = int(rows.min()), int(columns.min())
    block = np.asarray(source[first_row : int(rows.max()) + 1, first_column : int(columns.max()) + 1])
    inside = top >= 0 and bottom <= source.shape[0] and left >= 0 and right <= source.shape[1]
    if inside:
        return block
    return block.take(columns - first_column, axis=1).take(rows - first_row, axis=0)
