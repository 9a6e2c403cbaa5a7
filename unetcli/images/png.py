"""PNG files, written row by row."""

import struct
import zlib
from typing import BinaryIO

import numpy as np

from unetcli.images.info import ImageInfo
from unetcli.images.palettes import Colormap

_GRAY, _RGB, _PALETTE = 0, 2, 3
_METER = {"µm": 1e-6, "nm": 1e-9, "mm": 1e-3, "cm": 1e-2, "m": 1.0, "inch": 0.0254}


class PngEncoder:
    """Writes one page of 8 or 16 bits, gray, RGB or with a palette."""

    def __init__(
        self, file: BinaryIO, like: ImageInfo, dtype: np.dtype, channels: int, colormap: Colormap | None
    ) -> None:
        assert like.pages == 1
        self._file = file
        self._pack = zlib.compressobj(3)  # four times as fast as 6, files up to a tenth larger
        color = _PALETTE if colormap is not None else _RGB if channels == 3 else _GRAY
        header = struct.pack(">IIBBBBB", like.width, like.height, dtype.itemsize * 8, color, 0, 0, 0)
        file.write(b"\x89PNG\r\n\x1a\n")
        self._chunk(b"IHDR", header)
        if (density := _density(like)) is not None:
            self._chunk(b"pHYs", struct.pack(">IIB", *density, 1))
        if colormap is not None:
            self._chunk(b"PLTE", bytes(value for entry in colormap for value in entry))

    def write_rows(self, rows: np.ndarray) -> None:
        """Take the next rows (h, width, channels)."""
        rows = np.ascontiguousarray(rows, dtype=rows.dtype.newbyteorder(">"))
        data = rows.reshape(len(rows), -1).view(np.uint8)
        filtered = np.zeros((len(rows), 1 + data.shape[1]), np.uint8)  # each row begins with its filter: none
        filtered[:, 1:] = data
        self._data(self._pack.compress(filtered.tobytes()))

    def finish(self) -> None:
        """Write what is left."""
        self._data(self._pack.flush())
        self._chunk(b"IEND", b"")

    def abort(self) -> None:
        """Nothing runs in the background."""

    def _data(self, packed: bytes) -> None:
        if packed:
            self._chunk(b"IDAT", packed)

    def _chunk(self, kind: bytes, data: bytes) -> None:
        self._file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))


def _density(like: ImageInfo) -> tuple[int, int] | None:
    """Return pixels per meter along x and y; None where unknown or not expressible."""
    size = like.pixel_size
    if size is None or size.unit not in _METER:
        return None
    x, y = (int(1 / (value * _METER[size.unit]) + 0.5) for value in (size.x, size.y))
    return (x, y) if 0 < x < 1 << 31 and 0 < y < 1 << 31 else None
