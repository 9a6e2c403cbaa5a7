"""A page that is read by region."""

from collections.abc import Callable
from typing import Any

import numpy as np

Read = Callable[[int, int, int, int], np.ndarray]


class PageSource:
    """One page of an image, decoded only where it is looked at.

    Parameters
    ----------
    shape : height, width, channels.
    dtype : type of the pixels.
    read : ``read(y0, y1, x0, x1)`` returns the region as (y1 - y0, x1 - x0, channels); bounds lie in the page.
    """

    def __init__(self, shape: tuple[int, int, int], dtype: np.dtype, read: Read) -> None:
        self.shape = shape
        self.dtype = dtype
        self._read = read

    @property
    def ndim(self) -> int:
        """Number of axes: 3."""
        return 3

    def __getitem__(self, key: Any) -> np.ndarray:
        """Return ``source[y0:y1, x0:x1]`` as a new array; steps and single rows work as in NumPy."""
        keys = key if isinstance(key, tuple) else (key,)
        if any(part is Ellipsis for part in keys):
            at = next(i for i, part in enumerate(keys) if part is Ellipsis)
            keys = keys[:at] + (slice(None),) * (4 - len(keys)) + keys[at + 1 :]
        keys += (slice(None),) * (3 - len(keys))
        bounds: list[int] = []
        rest: list[Any] = []
        for part, size in zip(keys[:2], self.shape[:2], strict=True):
            if isinstance(part, slice) and part.step in (None, 1):
                start, stop, _ = part.indices(size)
                bounds += [start, max(start, stop)]
                rest.append(slice(None))
            else:  # anything else is left to NumPy, on the whole axis
                bounds += [0, size]
                rest.append(part)
        y0, y1, x0, x1 = bounds
        if y0 == y1 or x0 == x1:
            region = np.empty((y1 - y0, x1 - x0, self.shape[2]), self.dtype)
        else:
            region = self._read(y0, y1, x0, x1)
        assert region.shape == (y1 - y0, x1 - x0, self.shape[2])
        rest.append(keys[2])
        return region if all(part == slice(None) for part in rest) else region[tuple(rest)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        whole = self[:]
        return whole if dtype is None else whole.astype(dtype, copy=False)


def array_source(pixels: np.ndarray) -> PageSource:
    """Return the source over an array (height, width, channels) that lies in memory."""
    height, width, channels = pixels.shape

    def read(y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        return pixels[y0:y1, x0:x1].copy()

    return PageSource((height, width, channels), pixels.dtype, read)
