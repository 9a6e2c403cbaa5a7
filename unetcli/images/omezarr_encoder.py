"""Writing OME-Zarr: chunks of the full resolution row by row or region by region, the reduced ones at the end."""

import json
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unetcli.errors import UsageError
from unetcli.images.info import ImageInfo
from unetcli.images.omezarr_metadata import ZARR_FORMATS, describe

CHUNK = 512  # pixels a side
_ORDER = "tczyx"  # of the axes, as NGFF wants it


@dataclass(frozen=True)
class Store:
    """How an OME-Zarr is stored.

    Parameters
    ----------
    version : of NGFF: "0.4" or "0.5".
    rows : of a chunk, so that several processes may each own whole chunks.
    folder : where to write, which the caller puts in its place, so that other processes may write there too; None
        is a folder of the writer's own.
    """

    version: str = "0.4"
    rows: int = CHUNK
    folder: Path | None = None


@dataclass(frozen=True)
class Level:
    """An array of an OME-Zarr, and where the pages of an image lie in it.

    Several processes may write to it, if each writes whole chunks: rows that begin at multiples of `rows`.

    Parameters
    ----------
    path, version : of the array.
    axes, shape : of the array, in the order of NGFF.
    page_axes, page_shape : of the image, slowest first; the axes are among `axes`.
    dtype, channels : of the rows.
    rows : of a chunk.
    """

    path: Path
    version: str
    axes: str
    shape: tuple[int, ...]
    page_axes: str
    page_shape: tuple[int, ...]
    dtype: np.dtype
    channels: int
    rows: int

    def create(self) -> None:
        """Make an array without pixels, unless there is one."""
        import zarr
        from numcodecs import Blosc
        from zarr.codecs import BloscCodec

        format = ZARR_FORMATS[self.version]
        if (self.path / (".zarray" if format == 2 else "zarr.json")).is_file():
            return
        last = (min(self.rows, self.shape[-2]), min(CHUNK, self.shape[-1]))
        codec: Any = Blosc("zstd", 3) if format == 2 else BloscCodec(cname="zstd", clevel=3)
        zarr.create_array(
            self.path,
            shape=self.shape,
            chunks=(1,) * (len(self.shape) - 2) + last,
            dtype=self.dtype,
            fill_value=0,
            compressors=[codec],
            zarr_format=format,  # type: ignore[arg-type]
            chunk_key_encoding={"name": "v2" if format == 2 else "default", "separator": "/"},
            dimension_names=None if format == 2 else list(self.axes),
        )

    def write(self, page: int, top: int, rows: np.ndarray) -> None:
        """Write rows (h, width, channels) of a page from row `top` on."""
        array, bottom = self._open("r+"), top + len(rows)
        for channel in range(self.channels):
            array[(*self._place(page, channel), slice(top, bottom))] = rows[:, :, channel]

    def read(self, page: int, channel: int, top: int, bottom: int) -> np.ndarray:
        """Return rows (h, width) of a channel of a page."""
        return np.asarray(self._open("r")[(*self._place(page, channel), slice(top, bottom))])

    def _open(self, mode: Any) -> Any:
        import zarr

        return zarr.open_array(self.path, mode=mode, zarr_format=ZARR_FORMATS[self.version])  # type: ignore[arg-type]

    def _place(self, page: int, channel: int) -> tuple[int, ...]:
        at = dict(zip(self.page_axes, map(int, np.unravel_index(page, self.page_shape or (1,))), strict=False))
        return tuple(channel if axis == "c" else at[axis] for axis in self.axes[:-2])


class OmeZarrEncoder:
    """Writes pages as OME-Zarr into an empty folder, or goes on in one where the same was begun.

    Parameters
    ----------
    kind : "mask" marks the pixels as labels; others are "probabilities", or "overlay", which is a picture in color.
    """

    def __init__(
        self,
        folder: Path,
        like: ImageInfo,
        dtype: np.dtype,
        channels: int,
        colormap: Sequence[tuple[int, int, int]] | None,
        kind: str,
        store: Store,
    ) -> None:
        self._folder = folder
        self._like = like
        self._labels = (colormap or ()) if kind == "mask" else None
        self._picture = kind == "overlay"
        self._version = store.version
        page_axes, page_shape = _page_axes(like)
        multiple = "c" if kind != "mask" else ""
        axes = "".join(axis for axis in _ORDER if axis in page_axes + multiple + "yx")
        sizes = {**dict(zip(page_axes, page_shape, strict=True)), "c": channels, "y": like.height, "x": like.width}
        shape = tuple(sizes[axis] for axis in axes)
        self.full = Level(
            folder / "0",
            store.version,
            axes,
            shape,
            page_axes,
            page_shape,
            dtype.newbyteorder("="),
            channels,
            store.rows,
        )
        self.full.create()
        self._height = like.height
        self._row = 0  # of all pages, the next to come
        self._waiting: list[np.ndarray] = []  # rows of a chunk that is not full yet
        self._thread = ThreadPoolExecutor(1)
        self._written: Future[None] | None = None

    def write_rows(self, rows: np.ndarray) -> None:
        """Take the next rows (h, width, channels), of one page; whole rows of chunks are written meanwhile."""
        while len(rows):
            page, y = divmod(self._row, self._height)
            bottom = min(self._height, (y // self.full.rows + 1) * self.full.rows)
            self._waiting.append(rows[: bottom - y])
            self._row += len(self._waiting[-1])
            rows = rows[bottom - y :]
            if y + len(self._waiting[-1]) == bottom:
                block = np.concatenate(self._waiting)
                self._waiting = []
                self._wait()
                self._written = self._thread.submit(self.full.write, page, bottom - len(block), block)

    def finish(self) -> None:
        """Write what is left, the reduced images, and last the metadata that make the folder an image."""
        self._wait()
        self._thread.shutdown()
        levels = [self.full]
        while max(levels[-1].shape[-2:]) > CHUNK:
            levels.append(_reduced(levels[-1], self._folder / str(len(levels)), mean=self._labels is None))
        attributes = describe(
            self._like,
            self.full.axes,
            [1 << number for number in range(len(levels))],
            self._version,
            labels=self._labels,
            channels=0 if self._labels is not None else self.full.channels,
            picture=self._picture,
            centered=self._labels is None,
        )
        if ZARR_FORMATS[self._version] == 2:
            (self._folder / ".zgroup").write_text(json.dumps({"zarr_format": 2}))
            (self._folder / ".zattrs").write_text(json.dumps(attributes, indent=2, ensure_ascii=False), "utf-8")
        else:
            group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
            (self._folder / "zarr.json").write_text(json.dumps(group, indent=2, ensure_ascii=False), "utf-8")

    def abort(self) -> None:
        """Stop after the chunks that are being written."""
        self._thread.shutdown(cancel_futures=True)

    def _wait(self) -> None:
        if self._written is not None:
            written, self._written = self._written, None
            written.result()


def _page_axes(like: ImageInfo) -> tuple[str, tuple[int, ...]]:
    """Return how NGFF calls the page axes, which may only be time and depth; others become depth."""
    named = like.page_axes.lower()
    if named in ("", "t", "z", "tz", "zt"):
        return named, like.page_shape
    return "z", (like.pages,)


def _reduced(level: Level, path: Path, *, mean: bool) -> Level:
    """Write and return an array of half the height and width: every other pixel, or the mean of four."""
    *leading, height, width = level.shape
    shape = (*leading, -(-height // 2), -(-width // 2))
    reduced = Level(
        path, level.version, level.axes, shape, level.page_axes, level.page_shape, level.dtype, level.channels, CHUNK
    )
    reduced.create()
    for page in range(int(np.prod(level.page_shape))):
        for top in range(0, shape[-2], CHUNK):
            bottom = min(shape[-2], top + CHUNK)
            parts = [level.read(page, c, 2 * top, min(height, 2 * bottom)) for c in range(level.channels)]
            half = [_mean_of_four(part) if mean else part[::2, ::2] for part in parts]
            reduced.write(page, top, np.stack(half, axis=2))
    return reduced


def _mean_of_four(pixels: np.ndarray) -> np.ndarray:
    """Return the means of 2x2 pixels (h, w); a last row or column without partner stands for itself."""
    odd = [(0, size % 2) for size in pixels.shape]
    even = np.pad(pixels, odd, mode="edge").astype(np.float32, copy=False)
    mean: np.ndarray = (even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]) / 4
    return mean.astype(pixels.dtype)


def check_omezarr() -> None:
    """Raise unless OME-Zarr can be written.

    Raises
    ------
    UsageError : zarr is absent.
    """
    try:
        import zarr  # noqa: F401
    except ImportError:
        raise UsageError("writing OME-Zarr needs zarr", hint="pip install 'unetcli[zarr]', or use .tif") from None
