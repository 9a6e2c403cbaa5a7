"""Gray values brought to one scale: percentiles 1 to 99.8 of each file and channel become 0 and 1."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from unetcli.errors import InputError, warn
from unetcli.images.reader import Image
from unetcli.images.source import PageSource, array_source

LOW_PERCENTILE, HIGH_PERCENTILE = 1.0, 99.8
_PERCENTILES = (LOW_PERCENTILE, 50.0, HIGH_PERCENTILE)
_BAND = 2 << 20  # values looked at together
_DIGIT = 16  # bits by which values are sorted in one pass
_LARGEST = 1e4  # far outliers end here, so that they stay finite in every precision


@dataclass(frozen=True)
class IntensityRange:
    """The values of one image that become 0 and 1.

    Parameters
    ----------
    low, high : per channel; equal where the channel is constant.
    median : per channel; takes the place of pixels that are not finite.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    median: tuple[float, ...]

    def __add__(self, other: "IntensityRange") -> "IntensityRange":
        """Return the range of an image whose channels are those of both, as channel files have it."""
        return IntensityRange(self.low + other.low, self.high + other.high, self.median + other.median)


def rule() -> dict[str, Any]:
    """Return the rule of normalization as plain data, for the model file."""
    return {
        "name": "percentile",
        "low": LOW_PERCENTILE,
        "high": HIGH_PERCENTILE,
        "per": "file and channel, all pages; RGB jointly",
        "clipped": False,
    }


def intensity_range(
    image: Image | Sequence[np.ndarray], *, joint: bool | None = None, without: Collection[int] = ()
) -> IntensityRange:
    """Return the percentiles 1 and 99.8 and the median of an image, over all its pages.

    Pixels that are not finite are left out. Where the percentiles coincide although the image is not constant, as
    with a few bright spots on black, the least and the largest value take their place. The image is read in bands
    (once for 8 and 16 bits, twice for 32, four times for 64), so that it need not fit the memory. Every percentile
    is the value of a pixel, so that the result for 257 * x is 257 times the result for x.

    Parameters
    ----------
    image : an open image, or its pages as arrays (height, width, channels) or (height, width).
    joint : whether the channels share one range, as the colors of an RGB image do; by default what the image says.
    without : pages that do not count.

    Raises
    ------
    InputError : a channel has no finite pixel.
    """
    path = image.info.path if isinstance(image, Image) else None
    if joint is None:
        joint = image.info.joint if isinstance(image, Image) else False
    pages = [page for number, page in enumerate(_sources(image)) if number not in without]
    channels = pages[0].shape[2]
    groups = [slice(0, channels)] if joint else [slice(c, c + 1) for c in range(channels)]
    selections = [_Selection() for _ in groups]
    bits = pages[0].dtype.itemsize * 8
    for shift in range(max(0, bits - _DIGIT), -1, -_DIGIT):
        for band in _bands(pages):
            for group, selection in zip(groups, selections, strict=True):
                selection.look(band[:, :, group], shift)
        for selection in selections:
            selection.narrow()
    _report(selections, path)
    ranges = [selection.values(pages[0].dtype) for selection in selections]
    low, median, high = zip(*(ranges * channels if joint else ranges), strict=True)
    return IntensityRange(low, high, median)


def normalize(pixels: np.ndarray, intensity: IntensityRange) -> np.ndarray:
    """Return pixels (height, width, channels) as float32 on a scale where `low` is 0 and `high` is 1.

    Values beyond are not clipped, short of 10,000. Pixels that are not finite take the median; a constant channel
    becomes 0.
    """
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    assert pixels.shape[2] == len(intensity.low)
    # Numbers of more than 16 bits lose their differences in float32; the largest would overflow when subtracted.
    kind = np.float64 if pixels.dtype.itemsize > 2 else np.float32
    halved = 0.5 if max(map(abs, intensity.low + intensity.high)) > 1e300 else 1.0
    low = np.array(intensity.low, np.float64) * halved
    span = np.array(intensity.high, np.float64) * halved - low
    scale = np.divide(1.0, span, out=np.zeros_like(span), where=span > 0)
    values: np.ndarray = pixels.astype(kind)
    if pixels.dtype.kind == "f":
        finite = np.isfinite(values)
        if not finite.all():
            values = np.where(finite, values, np.array(intensity.median, kind))
    if halved != 1.0:
        values = values * kind(halved)
    np.subtract(values, low.astype(kind), out=values)
    np.multiply(values, scale.astype(kind), out=values)
    if pixels.dtype.itemsize > 1:
        np.clip(values, -_LARGEST, _LARGEST, out=values)
    return values.astype(np.float32, copy=False)


def _sources(image: Image | Sequence[np.ndarray]) -> list[PageSource]:
    if isinstance(image, Image):
        return list(image.pages())
    return [array_source(page if page.ndim == 3 else page[:, :, None]) for page in image]


def _bands(pages: Sequence[PageSource]) -> Iterator[np.ndarray]:
    """Yield the pixels of all pages as arrays (rows, width, channels)."""
    for page in pages:
        height, width, channels = page.shape
        rows = max(1, _BAND // (width * channels))
        for y in range(0, height, rows):
            yield page[y : min(height, y + rows), 0:width]


class _Selection:
    """The values at three ranks among numbers that pass by several times: a radix selection.

    Numbers are mapped to unsigned integers that sort alike. Each pass counts one digit of those that begin with a
    digit sequence found so far.
    """

    def __init__(self) -> None:
        self.count = 0
        self.nonfinite = 0
        self.least, self.largest = np.inf, -np.inf
        self._ranks: list[int] = []
        self._prefixes = [0, 0, 0]
        self._counts: dict[int, np.ndarray] = {}
        self._first = True

    def look(self, pixels: np.ndarray, shift: int) -> None:
        """Count the digit at `shift` of all pixels."""
        values = pixels.ravel()
        if values.dtype.kind == "f":
            finite = np.isfinite(values)
            if not finite.all():
                self.nonfinite += 0 if not self._first else int(values.size - np.count_nonzero(finite))
                values = values[finite]
        if values.size == 0:
            return
        if self._first:
            self.count += values.size
            self.least = min(self.least, values.min().item())
            self.largest = max(self.largest, values.max().item())
        keys = _sortable(values)
        above = shift + _DIGIT
        bits = min(_DIGIT, keys.dtype.itemsize * 8)
        for prefix in set(self._prefixes):
            chosen = keys if self._first else keys[keys >> keys.dtype.type(above) == prefix]
            digits = (chosen >> keys.dtype.type(shift)) & keys.dtype.type((1 << bits) - 1)
            counts = np.bincount(digits.astype(np.intp, copy=False), minlength=1 << bits)
            self._counts[prefix] = self._counts[prefix] + counts if prefix in self._counts else counts

    def narrow(self) -> None:
        """Fix the next digit of each rank's value."""
        if self.count == 0:
            return
        if self._first:
            self._ranks = [min(self.count, max(1, ceil(p / 100 * self.count))) - 1 for p in _PERCENTILES]
        sums = {prefix: np.cumsum(counts) for prefix, counts in self._counts.items()}
        for i, (prefix, rank) in enumerate(zip(self._prefixes, self._ranks, strict=True)):
            digit = int(np.searchsorted(sums[prefix], rank, side="right"))
            self._ranks[i] = rank - (int(sums[prefix][digit - 1]) if digit else 0)
            self._prefixes[i] = prefix << _DIGIT | digit
        self._counts = {}
        self._first = False

    def values(self, dtype: np.dtype) -> tuple[float, float, float]:
        """Return low, median and high."""
        low, median, high = (float(_original(prefix, dtype)) for prefix in self._prefixes)
        if low == high:
            low, high = float(self.least), float(self.largest)
        return low, median, high


def _sortable(values: np.ndarray) -> np.ndarray:
    """Return unsigned integers in the order of the values."""
    size = values.dtype.itemsize
    unsigned = np.dtype(f"u{size}")
    sign = unsigned.type(1 << (8 * size - 1))
    if values.dtype.kind == "u":
        return values
    keys: np.ndarray = np.ascontiguousarray(values).view(unsigned)
    if values.dtype.kind == "i":
        keys = keys ^ sign
        return keys
    return np.where(keys & sign, ~keys, keys | sign)  # negative floats sort backwards by their bits


def _original(key: int, dtype: np.dtype) -> Any:
    """Return the value whose `_sortable` is the key."""
    size = dtype.itemsize
    sign = 1 << (8 * size - 1)
    if dtype.kind == "i":
        key ^= sign
    elif dtype.kind == "f":
        key = key ^ sign if key & sign else ~key & ((1 << 8 * size) - 1)
    return np.array(key, dtype=f"u{size}").view(dtype.newbyteorder("=")).item()


def _report(selections: Sequence[_Selection], path: Path | None) -> None:
    """Refuse channels without a finite pixel; warn of pixels that are not finite and of constant channels."""
    for channel, selection in enumerate(selections):
        if selection.count == 0:
            where = f" of channel {channel}" if len(selections) > 1 else ""
            raise InputError(f"all pixels{where} are NaN or infinite", path=path, hint="save the image again")
    lost = sum(selection.nonfinite for selection in selections)
    if lost:
        total = lost + sum(selection.count for selection in selections)
        warn(f"{lost} of {total} pixels ({100 * lost / total:.2g} %) are not finite; they take the median", path=path)
    constant = [selection.least for selection in selections if selection.least == selection.largest]
    if len(constant) == len(selections):
        warn(f"constant image (value {constant[0]:g})", path=path)
    elif constant:
        warn(f"{len(constant)} of {len(selections)} channels are constant (value {constant[0]:g})", path=path)
