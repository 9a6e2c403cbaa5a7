"""Which values a mask holds, how often, and in how many pieces: what its coding is told from."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetcli.dataset.labels import LARGEST_VALUE, Color, is_gray, packed, whole_numbers
from unetcli.errors import InputError

LARGEST_SIDE = 2048  # pixels; pieces are counted in one part of larger masks


@dataclass(frozen=True, eq=False)
class MaskValues:
    """The values of one mask.

    Parameters
    ----------
    path : its file, for messages.
    values : sorted; colors as 0xRRGGBB.
    counts : pixels of each.
    pieces : connected pieces (8 neighbours) of each; 0 for the value 0, and where none was looked at: of a mask larger
        than `LARGEST_SIDE`, only the part of that size where most is drawn.
    kind : "values" or "colors", as in `LabelCoding`.
    colormap : of a palette file, whose values are indices.
    lossy : whether the file was compressed with loss.
    """

    path: Path
    values: NDArray[np.int64]
    counts: NDArray[np.int64]
    pieces: NDArray[np.int64]
    kind: str = "values"
    colormap: tuple[Color, ...] | None = None
    lossy: bool = False

    @property
    def shares(self) -> Mapping[int, float]:
        """Share of the pixels of each value."""
        total = int(self.counts.sum())
        return {int(value): int(count) / total for value, count in zip(self.values, self.counts, strict=True)}

    def without(self, value: int | None) -> "MaskValues":
        """Return the same with one value left out."""
        kept = np.ones(len(self.values), bool) if value is None else self.values != value
        return self._replaced(self.values[kept], self.counts[kept], self.pieces[kept], self.kind)

    def as_colors(self) -> "MaskValues":
        """Return the same with colors in place of indices and gray values.

        Raises
        ------
        InputError : a gray value above 255.
        """
        if self.kind == "colors":
            return self
        if len(self.values) and not 0 <= self.values[0] <= self.values[-1] <= 255:
            raise InputError(
                f"has values up to {self.values[-1]}, other masks have colors",
                path=self.path,
                hint="save all masks the same way",
            )
        if self.colormap is None:
            colors = self.values * 0x010101
        else:
            table = np.array(self.colormap, dtype=np.int64)[self.values]
            colors = table[:, 0] << 16 | table[:, 1] << 8 | table[:, 2]
        unique, places = np.unique(colors, return_inverse=True)  # two indices may share a color
        counts = np.bincount(places, self.counts, len(unique)).astype(np.int64)
        pieces = np.bincount(places, self.pieces, len(unique)).astype(np.int64)
        return self._replaced(unique, counts, pieces, "colors")

    def _replaced(
        self, values: NDArray[np.int64], counts: NDArray[np.int64], pieces: NDArray[np.int64], kind: str
    ) -> "MaskValues":
        colormap = self.colormap if kind == self.kind else None
        return MaskValues(self.path, values, counts, pieces, kind, colormap, self.lossy)


def count_values(
    raw: NDArray[Any], path: Path, *, colormap: tuple[Color, ...] | None = None, lossy: bool = False
) -> MaskValues:
    """Return the values of a mask (H, W) or (H, W, C), read with palettes as indices.

    Raises
    ------
    InputError : not one whole number or color per pixel.
    """
    in_color = raw.ndim == 3 and raw.shape[2] == 3 and not is_gray(raw)
    numbers = packed(raw, path) if in_color else whole_numbers(raw, path)
    if numbers.dtype.kind == "u" and numbers.dtype.itemsize <= 2:
        histogram = np.bincount(numbers.ravel(), minlength=1)
        values = np.flatnonzero(histogram)
        counts = histogram[values]
    else:
        values, counts = np.unique(numbers, return_counts=True)
        if len(values) and values[-1] > LARGEST_VALUE:
            raise InputError(f"has values up to {values[-1]}", path=path, hint=f"labels go up to {LARGEST_VALUE}")
    values = values.astype(np.int64)
    if colormap is not None and len(values):
        colormap += ((0, 0, 0),) * (int(values[-1]) + 1 - len(colormap))  # beyond a short palette is black
    pieces = _count_pieces(numbers, values)
    return MaskValues(
        path, values, counts.astype(np.int64), pieces, "colors" if in_color else "values", colormap, lossy
    )


def _count_pieces(numbers: NDArray[Any], values: NDArray[np.int64]) -> NDArray[np.int64]:
    from skimage.measure import label

    if not (values != 0).any():
        return np.zeros(len(values), dtype=np.int64)
    part = max(_parts(numbers), key=_lines_drawn)
    if part.dtype.kind not in "iu" or part.dtype.itemsize > 4:
        part = part.astype(np.int64)
    pieces, count = label(part, background=0, connectivity=2, return_num=True)  # type: ignore[no-untyped-call]
    value_of = np.zeros(count + 1, dtype=np.int64)
    value_of[pieces.ravel()] = part.ravel()
    return np.bincount(np.searchsorted(values, value_of[1:]), minlength=len(values)).astype(np.int64)


def _parts(numbers: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield parts that cover a mask (H, W), each `LARGEST_SIDE` high and wide where the mask is as large."""
    rows, columns = map(_first_of_parts, numbers.shape)
    for y, x in product(rows, columns):
        yield numbers[y : y + LARGEST_SIDE, x : x + LARGEST_SIDE]


def _first_of_parts(side: int) -> list[int]:
    return [min(first, max(0, side - LARGEST_SIDE)) for first in range(0, side, LARGEST_SIDE)]


def _lines_drawn(part: NDArray[Any]) -> tuple[int, int]:
    """Return how often neighbours differ, whatever is background or ignored, then the pixels that are not 0."""
    changes = np.count_nonzero(part[1:] != part[:-1]) + np.count_nonzero(part[:, 1:] != part[:, :-1])
    return int(changes), int(np.count_nonzero(part))
