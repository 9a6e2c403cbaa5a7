"""Writing images: rows come in from top to bottom, a complete file comes out at the end."""

import contextlib
import io
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Literal, Protocol

import numpy as np

from unetcli.errors import UsageError
from unetcli.images.atomic import atomic_path, scratch_file, writing_failed
from unetcli.images.atomic_folder import atomic_folder
from unetcli.images.info import ImageInfo
from unetcli.images.omezarr_encoder import Level, OmeZarrEncoder, Store, check_omezarr
from unetcli.images.pictures import PIXEL_LIMIT
from unetcli.images.png import PngEncoder
from unetcli.images.tiff_encoder import TiffEncoder

Kind = Literal["mask", "probabilities", "overlay"]
TIFF_EXTENSIONS = (".tif", ".tiff")
DEFAULT_STORE = Store()
_LOSSY = (".jpg", ".jpeg", ".jfif", ".jp2", ".webp", ".gif")


class _Encoder(Protocol):
    def write_rows(self, rows: np.ndarray) -> None: ...

    def finish(self) -> None: ...

    def abort(self) -> None: ...


class ImageWriter:
    """Writes the pages of a result with the geometry of the image it belongs to.

    The file is written beside its final place and renamed when the ``with`` block ends well; on any error it is
    removed. Compression runs in background threads, and memory stays at a few rows of strips or tiles.

    Parameters
    ----------
    target : path, whose extension chooses the format (``.tif``, ``.ome.tif``, ``.png``, ``.nii``, ``.nii.gz``,
        ``.zarr``), or a stream for TIFF.
    like : the image whose pages, axes, size and pixel size the file gets.
    dtype : type of the rows that will be pushed.
    channels : values per pixel; they become axis C, or the colors of an overlay.
    colormap : red, green, blue (0 to 255) of each value of a uint8 mask.
    kind : "mask", "probabilities" (shown from 0 to 1) or "overlay" (channels are red, green, blue).
    store : how an OME-Zarr is stored.

    Raises
    ------
    UsageError : the format cannot hold this, see `check_format`.
    OutputError : on leaving, when the file cannot be written; the old file stays.
    """

    def __init__(
        self,
        target: Path | str | BinaryIO,
        *,
        like: ImageInfo,
        dtype: np.dtype | type,
        channels: int = 1,
        colormap: Sequence[tuple[int, int, int]] | None = None,
        kind: Kind = "mask",
        store: Store = DEFAULT_STORE,
    ) -> None:
        dtype = np.dtype(dtype)
        assert colormap is None or (dtype == np.uint8 and channels == 1 and len(colormap) <= 256)
        assert kind != "overlay" or (channels == 3 and dtype == np.uint8)
        self._target: Path | None = None
        self._stream: BinaryIO | None = None
        if isinstance(target, str | os.PathLike):
            self._target = Path(target)
        else:
            self._stream = target
        if self._target is not None:
            check_format(self._target, pages=like.pages, dtype=dtype, channels=1 if kind == "overlay" else channels)
            if self._target.suffix.lower() == ".png" and kind != "overlay" and like.height * like.width > PIXEL_LIMIT:
                raise UsageError(
                    f"PNG files of more than {PIXEL_LIMIT} pixels are not opened again",
                    path=self._target,
                    hint="use .tif",
                )
            if is_nifti(self._target):
                from unetcli.images.nifti import check_nifti

                check_nifti(like, dtype, channels)
        self._shape = (like.height, like.width, channels)
        self._dtype = dtype
        self._rows_left = like.pages * like.height
        self._needed = like.pages * like.height * like.width * channels * dtype.itemsize
        self._arguments = (like, dtype, channels, tuple(colormap) if colormap is not None else None, kind)
        self._store = store
        self._stack = contextlib.ExitStack()
        self._file: BinaryIO = io.BytesIO()  # of formats that are one file
        self._encoder: _Encoder | None = None

    def __enter__(self) -> "ImageWriter":
        if self._target is None:
            self._file = self._stack.enter_context(scratch_file())
        elif is_omezarr(self._target):
            temporary = self._store.folder or self._stack.enter_context(
                atomic_folder(self._target, needed=self._needed)
            )
        else:
            temporary = self._stack.enter_context(atomic_path(self._target, needed=self._needed))
            self._file = self._stack.enter_context(temporary.open("r+b"))
        try:
            with self._translated():
                if self._target is not None and is_omezarr(self._target):
                    self._encoder = OmeZarrEncoder(temporary, *self._arguments, self._store)
                else:
                    self._encoder = self._make_encoder()
        except BaseException:
            self._stack.__exit__(*_current_error())
            raise
        return self

    def _make_encoder(self) -> _Encoder:
        like, dtype, channels, colormap, kind = self._arguments
        if self._target is not None and self._target.suffix.lower() == ".png":
            return PngEncoder(self._file, like, dtype, channels, colormap)
        if self._target is not None and is_nifti(self._target):
            from unetcli.images.nifti import NiftiEncoder

            return NiftiEncoder(self._file, like, dtype, packed=self._target.name.lower().endswith(".gz"))
        ome = self._target is not None and is_ome(self._target)
        return TiffEncoder(
            self._file,
            like,
            dtype,
            channels,
            colormap,
            overlay=kind == "overlay",
            ome=ome,
            shown=(0.0, 1.0) if kind == "probabilities" else None,
        )

    @property
    def shared(self) -> Level | None:
        """The array that other processes may write to, in place of `write_rows`; None where there is none."""
        return self._encoder.full if isinstance(self._encoder, OmeZarrEncoder) and self._store.folder else None

    def skip_rows(self, count: int) -> None:
        """Take rows as written that another process has put into `shared`."""
        assert self.shared is not None
        self._rows_left -= count

    def write_rows(self, rows: np.ndarray) -> None:
        """Take the next rows, (h, width, channels) or (h, width); pages follow each other without a break.

        Raises
        ------
        OutputError : the disk is full, or the file cannot be written for another reason.
        """
        if rows.ndim == 2:
            rows = rows[:, :, None]
        assert self._encoder is not None
        assert rows.shape[1:] == self._shape[1:]
        assert rows.dtype == self._dtype
        assert len(rows) <= self._rows_left
        self._rows_left -= len(rows)
        height, start = self._shape[0], 0
        with self._translated():
            while start < len(rows):  # encoders see no rows of two pages together
                position = -(self._rows_left + len(rows) - start) % height
                stop = min(len(rows), start + height - position)
                self._encoder.write_rows(rows[start:stop])
                start = stop

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._encoder is not None
        try:
            if error is not None:
                self._encoder.abort()
            else:
                assert self._rows_left == 0, f"{self._rows_left} rows are missing"
                self._finish()
        except BaseException:
            self._encoder.abort()
            self._stack.__exit__(*_current_error())
            raise
        self._stack.__exit__(kind, error, trace)

    def _finish(self) -> None:
        assert self._encoder is not None
        with self._translated():
            self._encoder.finish()
            self._file.flush()
            if self._stream is not None:
                self._file.seek(0)
                shutil.copyfileobj(self._file, self._stream, 1 << 20)
                self._stream.flush()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn errors of the system into ours."""
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            raise writing_failed(error, self._target or Path("stdout"), self._needed) from error


def is_ome(path: Path) -> bool:
    """Whether a name asks for OME-TIFF."""
    return path.name.lower().endswith((".ome.tif", ".ome.tiff"))


def is_omezarr(path: Path) -> bool:
    """Whether a name asks for OME-Zarr."""
    return path.suffix.lower() == ".zarr"


def is_nifti(path: Path) -> bool:
    """Whether a name asks for NIfTI."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


def check_format(target: Path | str, *, pages: int = 1, dtype: np.dtype | type = np.uint8, channels: int = 1) -> None:
    """Raise unless the format that the extension names can hold this.

    Raises
    ------
    UsageError : JPEG and the like, which would damage labels; an unknown extension; more than PNG can hold; OME-Zarr
        without the package for it.
    """
    target = Path(target)
    suffix = target.suffix.lower()
    dtype = np.dtype(dtype)
    if suffix in _LOSSY:
        raise UsageError(
            f"{suffix[1:].upper().replace('JPG', 'JPEG')} would damage labels", path=target, hint="use .tif or .png"
        )
    if is_nifti(target):
        return
    if is_omezarr(target):
        check_omezarr()
        return
    if suffix not in (*TIFF_EXTENSIONS, ".png"):
        raise UsageError(
            f"unknown extension {suffix!r}" if suffix else "has no extension", path=target, hint="use .tif or .png"
        )
    if suffix != ".png":
        return
    if pages > 1:
        raise UsageError(f"{pages} pages do not fit a PNG", path=target, hint="use .tif")
    if channels > 1 or dtype not in (np.dtype(np.uint8), np.dtype(np.uint16)):
        raise UsageError(f"PNG cannot hold {channels} channels of {dtype}", path=target, hint="use .tif")


def _current_error() -> tuple[type[BaseException] | None, BaseException | None, TracebackType | None]:
    return sys.exc_info()
