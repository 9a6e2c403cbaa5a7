"""The planes of a TIFF file, read by region: rows of uncompressed data, or decoded strips and tiles."""

import re
import struct
import threading
from collections import OrderedDict
from collections.abc import Callable
from math import prod
from typing import Any, Protocol

import numpy as np

from unetcli.errors import InputError, ResourceError
from unetcli.images.axes import CHANNEL_AXES, Layout
from unetcli.images.files import InputFile
from unetcli.images.memory import check_memory, readable_size

_CACHE = 96 << 20  # bytes of decoded strips and tiles that one open file keeps
_PART = 16 << 20  # bytes of uncompressed rows read at once
_JPEG_2000, _PNG = (33003, 33004, 33005, 34712), 34933  # compressions of TIFF
_FEW_COLUMNS = 8  # below this share of the width, rows are read one by one


class Plane(Protocol):
    """A plane (height, width, samples) that is read by region."""

    shape: tuple[int, int, int]

    def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        """Return the region as (y1 - y0, x1 - x0, samples), in the byte order of the machine."""
        ...


class RawPlane:
    """A plane whose rows lie uncompressed in the file.

    Parameters
    ----------
    offsets : where each strip begins; with separate samples, all strips of the first sample come first.
    rows_per_strip : rows of each strip but the last.
    dtype : as in the file, with its byte order.
    separate : whether each sample has its own strips.
    """

    def __init__(
        self,
        file: InputFile,
        shape: tuple[int, int, int],
        dtype: np.dtype,
        offsets: tuple[int, ...],
        rows_per_strip: int,
        separate: bool,
    ) -> None:
        self.shape = shape
        self._file = file
        self._dtype = dtype
        self._offsets = offsets
        self._rows_per_strip = rows_per_strip
        self._separate = separate and shape[2] > 1

    def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        """Return the region; only its rows are read, and only its columns where they are few."""
        samples = self.shape[2]
        region = np.empty((y1 - y0, x1 - x0, samples), self._dtype.newbyteorder("="))
        if not self._separate:
            self._read_into(region, 0, y0, y1, x0, x1)
        else:
            for sample in range(samples):
                self._read_into(region[:, :, sample : sample + 1], sample, y0, y1, x0, x1)
        return region

    def _read_into(self, region: np.ndarray, sample: int, y0: int, y1: int, x0: int, x1: int) -> None:
        height, width, _ = self.shape
        pixel = self._dtype.itemsize * region.shape[2]
        strips = -(-height // self._rows_per_strip)
        few = (x1 - x0) * _FEW_COLUMNS < width
        at_once = 1 if few else max(1, _PART // (width * pixel))
        left, right = (x0, x1) if few else (0, width)
        y = y0
        while y < y1:
            strip, row = divmod(y, self._rows_per_strip)
            rows = min(at_once, y1 - y, self._rows_per_strip - row)
            start = self._offsets[sample * strips + strip] + (row * width + left) * pixel
            data = self._file.read(start, (rows * width if not few else right - left) * pixel)
            block = np.frombuffer(data, self._dtype).reshape(rows, right - left, -1)
            region[y - y0 : y - y0 + rows] = block[:, x0 - left : x1 - left]
            y += rows


class SegmentCache:
    """The last decoded strips, tiles or chunks of one file, for all its planes and threads."""

    def __init__(self, budget: int = _CACHE) -> None:
        self._budget = budget
        self._kept: OrderedDict[tuple[int, ...], np.ndarray] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: tuple[int, ...], decode: Callable[[], np.ndarray]) -> np.ndarray:
        """Return the segment of that key, decoded now unless it is kept."""
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
                return found
        segment = decode()  # outside the lock: threads decode side by side
        with self._lock:
            if key not in self._kept:
                self._kept[key] = segment
                self._bytes += segment.nbytes
            while self._bytes > self._budget and len(self._kept) > 1:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return segment


class SegmentPlane:
    """A plane made of strips or tiles that are decoded one by one.

    Parameters
    ----------
    page : the page or frame of tifffile.
    number : distinguishes the planes of one file in the cache.
    """

    def __init__(self, file: InputFile, page: Any, number: int, cache: SegmentCache) -> None:
        key = page.keyframe
        self._file = file
        self._page = page
        self._number = number
        self._cache = cache
        self._separate = key.planarconfig == 2 and key.samplesperpixel > 1
        self.shape: tuple[int, int, int] = (key.imagelength, key.imagewidth, key.samplesperpixel)
        self._rows, self._columns = segment_size(key)
        self._across = -(-key.imagewidth // self._columns)
        self._down = -(-key.imagelength // self._rows)
        self._dtype = np.dtype(key.dtype).newbyteorder("=")

    def check_memory(self) -> None:
        """Raise `ResourceError` unless one strip or tile can be decoded in the memory there is."""
        contiguous = 1 if self._separate else self.shape[2]
        needed = self._rows * self._columns * contiguous * self._dtype.itemsize
        height, width, _ = self.shape
        check_memory(2 * needed, f"a strip of {width}x{height} pixels, decoded as a whole,", path=self._file.path)

    def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        """Return the region; only the strips or tiles that it touches are decoded."""
        samples = self.shape[2]
        region = np.empty((y1 - y0, x1 - x0, samples), self._dtype)
        for sample in range(samples if self._separate else 1):
            target = region[:, :, sample : sample + 1] if self._separate else region
            for down in range(y0 // self._rows, -(-y1 // self._rows)):
                for across in range(x0 // self._columns, -(-x1 // self._columns)):
                    top, left = down * self._rows, across * self._columns
                    a, b = max(y0, top), min(y1, top + self._rows)
                    c, d = max(x0, left), min(x1, left + self._columns)
                    index = (sample * self._down + down) * self._across + across
                    segment = self._cache.get((self._number, index), lambda index=index: self._decode(index))  # type: ignore[misc]
                    target[a - y0 : b - y0, c - x0 : d - x0] = segment[a - top : b - top, c - left : d - left]
        return region

    def _decode(self, index: int) -> np.ndarray:
        page, key = self._page, self._page.keyframe
        offset, count = page.dataoffsets[index], page.databytecounts[index]
        kind = "tile" if key.is_tiled else "strip"
        if count == 0:  # sparse: a tile that was never written
            samples = 1 if self._separate else self.shape[2]
            return np.full((self._rows, self._columns, samples), key.nodata, self._dtype)
        data = bytes(self._file.read(offset, count))
        tables = {"jpegtables": page.jpegtables, "jpegheader": key.jpegheader} if is_jpeg(key.compression) else {}
        name = compression_name(key.compression)
        try:
            check_stream(key.compression, data, self._rows, self._columns)
            segment = key.decode(data, index, **tables)[0]
        except MemoryError as error:
            declared = self._rows * self._columns * self.shape[2] * self._dtype.itemsize
            if declared > _CACHE:
                raise ResourceError(
                    f"no memory left to decode {kind} {index} of {readable_size(declared)}",
                    path=self._file.path,
                    hint="save the image as a tiled TIFF, which is read in parts",
                ) from error
            raise self._damaged(kind, index, "it asks for more memory than declared") from error
        except Exception as error:  # codecs raise their own types
            if "imagecodecs" in str(error) and "requires" in str(error):
                raise missing_codec(self._file, f"{name} compression of {key.bitspersample} bits") from error
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise self._damaged(kind, index, reason) from error
        pixels: np.ndarray = segment[0] if segment.ndim == 4 else segment
        return np.asarray(pixels, dtype=self._dtype)

    def _damaged(self, kind: str, index: int, reason: str) -> InputError:
        name = compression_name(self._page.keyframe.compression)
        return InputError(
            f"cannot decode {kind} {index} ({name}): data damaged ({reason})",
            path=self._file.path,
            hint="copy the file again from its source, or save it again",
        )


def plane_numbers(layout: Layout, page: int, leading: str) -> list[int]:
    """Return which planes of the file, counted along the `leading` axes, are the channels of a page."""
    sizes = [layout.size(letter) for letter in leading]
    place = dict(zip(layout.page_axes, np.unravel_index(page, layout.page_shape or (1,)), strict=False))
    channel_axes = [letter for letter in leading if letter in CHANNEL_AXES]
    numbers = []
    for channel in np.ndindex(*(layout.size(letter) for letter in channel_axes)):
        here = {**place, **dict(zip(channel_axes, channel, strict=True))}
        numbers.append(int(np.ravel_multi_index([int(here[a]) for a in leading], sizes)) if leading else 0)
    return numbers


def segment_size(key: Any) -> tuple[int, int]:
    """Return rows and columns of the strips or tiles of a tifffile page."""
    if key.is_tiled:
        return key.tilelength, key.tilewidth
    return max(1, min(key.rowsperstrip, key.imagelength)), key.imagewidth


def check_stream(compression: int, data: bytes, rows: int, columns: int) -> None:
    """Raise where an image within a strip or tile is cut off, or larger than that.

    Codecs fill what is missing with gray, and allocate whatever size the image within declares.

    Raises
    ------
    ValueError : says what is wrong.
    """
    size = None
    if compression == 7:
        if b"\xff\xd9" not in data:
            raise ValueError("end mark missing")
        frame = re.search(rb"\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf]..\x08(....)", data, re.DOTALL)
        size = None if frame is None else struct.unpack(">HH", frame[1])
    elif compression in _JPEG_2000 and (start := data.find(b"\xff\x4f\xff\x51")) >= 0:
        size = struct.unpack(">II", data[start + 8 : start + 16].ljust(8, b"\0"))[::-1]
    elif compression == _PNG and data.startswith(b"\x89PNG"):
        size = struct.unpack(">II", data[16:24].ljust(8, b"\0"))[::-1]
    if size is not None and size[0] * size[1] > 4 * rows * columns + 4096:
        raise ValueError(f"it declares {size[1]}x{size[0]} pixels in a part of {columns}x{rows}")


def is_jpeg(compression: int) -> bool:
    """Whether a compression is one of the JPEG kinds that need shared tables."""
    return compression in (6, 7, 33007, 34892)


def compression_name(compression: int) -> str:
    """Return the usual name of a TIFF compression."""
    import tifffile

    try:
        name = tifffile.COMPRESSION(compression).name
    except ValueError:
        return str(compression)
    return {"ADOBE_DEFLATE": "zlib", "DEFLATE": "zlib", "NONE": "uncompressed"}.get(name, name)


def missing_codec(file: InputFile, what: str) -> InputError:
    """Return the error of data that only imagecodecs can decode."""
    return InputError(f"{what} needs imagecodecs", path=file.path, hint="pip install imagecodecs")


def is_raw(key: Any) -> bool:
    """Whether the rows of a tifffile page lie in the file as they are."""
    return (
        key.compression == 1
        and key.predictor == 1
        and not key.is_tiled
        and key.fillorder == 1
        and key.bitspersample in (8, 16, 32, 64)
        and np.dtype(key.dtype).itemsize * 8 == key.bitspersample
    )


def decoded_bytes(key: Any) -> int:
    """Return the bytes of a page's pixels, packed bits packed, as the directory declares them."""
    bits = sum(key.bitspersample) if isinstance(key.bitspersample, tuple) else key.bitspersample * key.samplesperpixel
    return prod((key.imagelength, -(-key.imagewidth * bits // 8)))
