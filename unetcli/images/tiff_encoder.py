"""TIFF files, written strip by strip while the strips are compressed in the background.

The directories come last, so that channels may grow side by side and nothing need be known in advance: not the
compressed size, not the largest value. Files that ImageJ can open have strips (it reads no tiles); larger ones are
BigTIFF with tiles.
"""

import struct
import threading
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO

import numpy as np

from unetcli.images.info import ImageInfo, PixelSize
from unetcli.images.palettes import Colormap
from unetcli.images.threads import compute_threads
from unetcli.images.tiff_descriptions import Shown, describe, imagej_ranges

_CLASSIC_LIMIT = (1 << 32) - (64 << 20)
_STRIP = 256 << 10  # bytes of a strip, uncompressed, about
_TILE = 256
_HEADER = 16
_BYTE, _ASCII, _SHORT, _LONG, _RATIONAL, _LONG8 = 1, 2, 3, 4, 5, 16
_FORMATS = {_SHORT: "H", _LONG: "I", _LONG8: "Q"}
_SAMPLE_FORMAT = {"u": 1, "i": 2, "f": 3}
_RESOLUTION_UNIT = {"inch": 2, "cm": 3}


@dataclass(frozen=True)
class _Block:
    """Segments of one plane that lie side by side, compressed, with the range of their values."""

    segments: tuple[bytes, ...]
    least: float
    largest: float


class TiffEncoder:
    """Writes pages as deflated TIFF.

    Parameters
    ----------
    overlay : whether the channels are red, green and blue in one plane; they are planes of their own otherwise.
    ome : whether OME metadata are wanted whatever the input had.
    shown : the values shown as black and white; by default the least and the largest written.
    """

    def __init__(
        self,
        file: BinaryIO,
        like: ImageInfo,
        dtype: np.dtype,
        channels: int,
        colormap: Colormap | None,
        *,
        overlay: bool,
        ome: bool,
        shown: tuple[float, float] | None,
    ) -> None:
        self._file = file
        self._like = like
        self._dtype = dtype.newbyteorder("<")
        self._samples = channels if overlay else 1
        self._planes = 1 if overlay else channels
        self._colormap = colormap
        self._ome = ome
        self._shown = shown
        pixel = dtype.itemsize * self._samples
        self._big = like.pages * self._planes * like.height * like.width * pixel > _CLASSIC_LIMIT
        self._tiled = self._big
        self._segment_rows = _TILE if self._tiled else min(like.height, max(1, _STRIP // (like.width * pixel)))
        self._level = 1 if dtype.kind == "f" else 6  # noise does not shrink however long one tries
        self._segments: list[list[tuple[int, int]]] = [[] for _ in range(like.pages * self._planes)]
        self._range = [np.inf, -np.inf]
        self._page = 0
        self._row = 0
        self._held: list[np.ndarray] = []
        self._error: BaseException | None = None
        self._start_threads()
        self._end = _HEADER
        file.seek(_HEADER)

    def _start_threads(self) -> None:
        workers = min(4, compute_threads())
        self._compressors = ThreadPoolExecutor(workers, thread_name_prefix="compress")
        self._storer = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._slots = threading.BoundedSemaphore(2 * workers + 2)

    def write_rows(self, rows: np.ndarray) -> None:
        """Take the next rows (h, width, channels) of the current page."""
        if self._error is not None:
            raise self._error
        height, start = self._like.height, 0
        while start < len(rows):
            held = sum(map(len, self._held))
            wanted = min(self._segment_rows, height - self._row) - held
            part = rows[start : start + wanted]
            self._held.append(part if len(part) == self._segment_rows else part.copy())
            start += len(part)
            if len(part) == wanted:
                block = self._held[0] if len(self._held) == 1 else np.concatenate(self._held)
                self._held = []
                self._submit(block.copy() if block.base is not None else block)
                self._row += len(block)
                if self._row == height:
                    self._page, self._row = self._page + 1, 0

    def _submit(self, block: np.ndarray) -> None:
        """Hand a row of segments, of all planes, to the threads; waits while too many are on their way."""
        for plane in range(self._planes):
            pixels = block if self._samples > 1 or self._planes == 1 else block[:, :, plane : plane + 1]
            self._slots.acquire()
            packed = self._compressors.submit(self._compress, pixels)
            stored = self._storer.submit(self._store, self._page * self._planes + plane, packed)
            stored.add_done_callback(lambda _: self._slots.release())

    def _compress(self, pixels: np.ndarray) -> _Block:
        parts = [pixels]
        if self._tiled:
            pad = -pixels.shape[1] % _TILE
            full = np.pad(pixels, ((0, _TILE - len(pixels)), (0, pad), (0, 0)))
            parts = [full[:, x : x + _TILE] for x in range(0, full.shape[1], _TILE)]
        packed = tuple(
            zlib.compress(np.ascontiguousarray(part, dtype=self._dtype).tobytes(), self._level) for part in parts
        )
        return _Block(packed, float(pixels.min()), float(pixels.max()))

    def _store(self, plane: int, packed: "Future[_Block]") -> None:
        """Append compressed segments to the file, in the order of submission."""
        if self._error is not None:
            return
        try:
            block = packed.result()
            for data in block.segments:
                self._file.write(data)
                self._segments[plane].append((self._end, len(data)))
                self._end += len(data)
            self._range = [min(self._range[0], block.least), max(self._range[1], block.largest)]
        except BaseException as error:
            self._error = error

    def finish(self) -> None:
        """Wait for the threads, then write the directories and the header."""
        self._compressors.shutdown()
        self._storer.shutdown()
        if self._error is not None:
            raise self._error
        self._big = self._big or self._end + 4096 * len(self._segments) > _CLASSIC_LIMIT
        first = self._write_directories()
        self._file.seek(0)
        if self._big:
            self._file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, first))
        else:
            self._file.write(struct.pack("<2sHI", b"II", 42, first))

    def abort(self) -> None:
        """Stop the threads; the file is of no use afterwards."""
        self._error = self._error or RuntimeError("writing was given up")
        self._compressors.shutdown(cancel_futures=True)
        self._storer.shutdown()

    def _write_directories(self) -> int:
        """Write the directory of every plane, each linked to the next; return where the first begins."""
        first = start = self._end + self._end % 2
        self._file.seek(start)
        parts: list[bytes] = [b"\0" * 0]
        for plane in range(len(self._segments)):
            last = plane == len(self._segments) - 1
            data = self._directory(plane, start, last)
            start += len(data)
            parts.append(data)
            if len(parts) > 256 or last:
                self._file.write(b"".join(parts))
                parts = []
        return first

    def _directory(self, plane: int, start: int, last: bool) -> bytes:
        tags = self._tags(plane)
        count_format, entry, offset_format = ("<Q", 20, "<Q") if self._big else ("<H", 12, "<I")
        inline = struct.calcsize(offset_format)
        fixed = struct.calcsize(count_format) + entry * len(tags) + inline
        head, extra = [struct.pack(count_format, len(tags))], b""
        for tag, kind, count, data in sorted(tags):
            if len(data) <= inline:
                value = data.ljust(inline, b"\0")
            else:
                value = struct.pack(offset_format, start + fixed + len(extra))
                extra += data + b"\0" * (len(data) % 2)
            head.append(struct.pack("<HHQ" if self._big else "<HHI", tag, kind, count) + value)
        if not last:
            extra += b"\0" * (-(fixed + len(extra)) % 8)
        following = 0 if last else start + fixed + len(extra)
        return b"".join(head) + struct.pack(offset_format, following) + extra

    def _tags(self, plane: int) -> list[tuple[int, int, int, bytes]]:
        """Return tag, type, count and bytes of each entry."""
        like, samples = self._like, self._samples
        where = _LONG8 if self._big else _LONG
        offsets = [offset for offset, _ in self._segments[plane]]
        counts = [count for _, count in self._segments[plane]]
        photometric = 3 if self._colormap is not None else 2 if samples == 3 else 1
        tags = [
            _numbers(254, _LONG, 0),
            _numbers(256, _LONG, like.width),
            _numbers(257, _LONG, like.height),
            _numbers(258, _SHORT, *(self._dtype.itemsize * 8,) * samples),
            _numbers(259, _SHORT, 8),
            _numbers(262, _SHORT, photometric),
            _numbers(324 if self._tiled else 273, where, *offsets),
            _numbers(277, _SHORT, samples),
            _numbers(325 if self._tiled else 279, where, *counts),
            _numbers(284, _SHORT, 1),
            _text(305, "unetcli"),
            _numbers(339, _SHORT, *(_SAMPLE_FORMAT[self._dtype.kind],) * samples),
        ]
        if self._tiled:
            tags += [_numbers(322, _LONG, _TILE), _numbers(323, _LONG, _TILE)]
        else:
            tags.append(_numbers(278, _LONG, self._segment_rows))
        if self._colormap is not None:
            tags.append(_numbers(320, _SHORT, *_color_table(self._colormap)))
        return tags + self._description(first=plane == 0)

    def _description(self, first: bool) -> list[tuple[int, int, int, bytes]]:
        """Return the entries on axes and pixel size; the text stands in the first directory only."""
        like, shown = self._like, self._display()
        text = describe(like, self._dtype, self._planes, self._samples, ome=self._ome, big=self._big, shown=shown)
        imagej = text.startswith("ImageJ")
        tags = _resolution(like.pixel_size, imagej)
        if first:
            tags.append(_text(270, text))
        if first and imagej and self._planes > 1 and shown is not None:
            data, sizes = imagej_ranges(self._planes, shown)
            tags += [_numbers(50838, _LONG, *sizes), (50839, _BYTE, len(data), data)]
        return tags

    def _display(self) -> Shown | None:
        """Return the values that a viewer should show as black and white."""
        if self._colormap is not None or self._samples > 1:
            return None
        if self._shown is not None:
            return self._shown
        least, largest = self._range
        return min(0.0, least), max(largest, 1.0)


def _numbers(tag: int, kind: int, *values: int) -> tuple[int, int, int, bytes]:
    return tag, kind, len(values), struct.pack(f"<{len(values)}{_FORMATS[kind]}", *values)


def _text(tag: int, text: str) -> tuple[int, int, int, bytes]:
    data = text.encode() + b"\0"
    return tag, _ASCII, len(data), data


def _color_table(colormap: Colormap) -> list[int]:
    """Return 256 reds, greens and blues of 16 bits."""
    table = np.zeros((256, 3), np.int64)
    table[: len(colormap)] = colormap
    return (table.T.ravel() * 257).tolist()


def _resolution(size: PixelSize | None, imagej: bool) -> list[tuple[int, int, int, bytes]]:
    """Return the resolution tags; ImageJ takes the unit from the description, others know inch and centimeter."""
    unit, values = 1, (1.0, 1.0)
    if size is not None:
        unit, values = _RESOLUTION_UNIT.get(size.unit, 1), (size.x, size.y)
        micrometers = size.in_micrometers()
        if unit == 1 and not imagej and micrometers is not None:
            unit, values = 3, (micrometers.x / 1e4, micrometers.y / 1e4)
    tags = [_numbers(296, _SHORT, unit)]
    for tag, value in zip((282, 283), values, strict=True):
        numerator, denominator = _ratio(1 / value)
        tags.append((tag, _RATIONAL, 1, struct.pack("<II", numerator, denominator)))
    return tags


def _ratio(value: float) -> tuple[int, int]:
    """Return numerator and denominator, of 32 bits each, nearest to a positive number."""
    most = (1 << 32) - 1
    if value >= most:
        return most, 1
    if value <= 1 / most:
        return 1, most
    ratio = Fraction(value).limit_denominator(most if value < 1 else max(1, int(most / value)))
    return (ratio.numerator, ratio.denominator) if 0 < ratio.numerator <= most else (1, int(1 / value))
