"""DICOM images: a file, or a folder with the slices of one series."""

import os
import re
from collections.abc import Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from unetcli.errors import InputError, UnetError
from unetcli.images.axes import Layout, apply_axes, check_layout
from unetcli.images.dicom_frames import Frame, affine, frames_of, in_order, pixel_size
from unetcli.images.files import EXTENSIONS, InputFile, open_input
from unetcli.images.info import ImageInfo
from unetcli.images.medical import needed_package
from unetcli.images.memory import check_memory
from unetcli.images.source import PageSource

_COLORS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "PALETTE COLOR")
_GRAY = ("MONOCHROME1", "MONOCHROME2")
_MAGIC, _HEAD = b"DICM", 132  # the bytes that end the head of a file
_NO_SLICES = ("dicomdir", "thumbs.db", "desktop.ini")
_FOREIGN = 8  # files that may stand before the first slice or behind the last
_OTHER_IMAGES = (*EXTENSIONS, ".nii", ".gz")


class DicomImage:
    """Slices of one series, each decoded as a whole when it is looked at.

    Parameters
    ----------
    slices : the open file, or the files of a folder, each with its header.
    path : what the user named.
    """

    def __init__(self, slices: Sequence[tuple[InputFile | Path, Any]], path: Path, axes: str | None) -> None:
        self._path = path
        self._decoded: tuple[int, np.ndarray] | None = None
        try:
            self._understand(slices, axes)
        except UnetError:
            raise
        except Exception as error:  # pydicom returns what stands there: several values for one, text for numbers
            raise InputError(
                f"has a damaged DICOM header ({error})", path=path, hint="copy the file again from its source"
            ) from error

    def _understand(self, slices: Sequence[tuple[InputFile | Path, Any]], axes: str | None) -> None:
        path = self._path
        headers = [header for _, header in slices]
        _check_series(headers, path)
        _check_alike(headers, path)
        self._slices = slices
        frames = [
            frame
            for number, (source, header) in enumerate(slices)
            for frame in frames_of(header, number, _size_of(source))
        ]
        self._frames, self._times = in_order(frames, path)
        first = headers[0]
        self._photometric = str(first.PhotometricInterpretation)
        if self._photometric not in _COLORS + _GRAY:
            raise InputError(f"has {self._photometric} colors", path=path, hint="convert to RGB and save again")
        self._scaled = any((frame.slope, frame.intercept) != (1.0, 0.0) for frame in self._frames)
        self.info = self._make_info(axes)

    def _make_info(self, axes: str | None) -> ImageInfo:
        first = self._slices[0][1]
        colors = self._photometric in _COLORS
        height, width = int(first.Rows), int(first.Columns)
        pages = len(self._frames)
        leading = {"T": self._times, "Z": pages // self._times}
        leading = {letter: size for letter, size in leading.items() if size > 1}
        shape = (*leading.values(), height, width, *([3] if colors else []))
        layout = Layout("".join(leading) + "YX" + ("S" if colors else ""), shape, stated=True)
        if axes is not None:
            named = apply_axes(axes, layout, self._path)
            if re.sub("[TQ]", "Z", named.axes) != layout.axes.replace("T", "Z"):
                raise InputError(f"has the axes {layout.axes}, not {axes}", path=self._path, hint="leave --axes out")
            layout = named
        check_layout(layout, self._path)
        kind = "i" if int(first.PixelRepresentation) and not colors else "u"
        dtype = np.dtype(f"{kind}{-(-int(first.BitsAllocated) // 8)}")
        if self._photometric == "PALETTE COLOR":
            dtype = np.dtype(np.uint8)
        if self._scaled:
            dtype = np.dtype(np.float32)
        notes = list(layout.described())
        if self._photometric == "MONOCHROME1":
            notes.append("inverted (MONOCHROME1: white is stored as the smallest value)")
        if self._scaled:
            notes.append("values rescaled as the header says")
        size = pixel_size(self._frames, self._times)
        return ImageInfo(
            path=self._path,
            format="dicom",
            axes=layout.axes,
            file_shape=layout.shape,
            pages=pages,
            height=height,
            width=width,
            channels=3 if colors else 1,
            dtype=dtype,
            bits=int(first.BitsStored),
            pixel_size=size,
            page_axes=layout.page_axes,
            page_shape=layout.page_shape,
            joint=colors,
            notes=tuple(notes),
            orientation=affine(self._frames, self._times, size),
        )

    def page(self, index: int) -> PageSource:
        """Return a slice as a source."""

        def read(y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
            return self._pixels(index)[y0:y1, x0:x1].copy()

        return PageSource(self.info.shape, self.info.dtype, read)

    def _pixels(self, index: int) -> np.ndarray:
        kept = self._decoded
        if kept is not None and kept[0] == index:
            return kept[1]
        info = self.info
        needed = info.height * info.width * info.channels * 8
        check_memory(3 * needed, f"a slice of {info.width}x{info.height} pixels", path=self._path)
        frame = self._frames[index]
        source = self._slices[frame.file][0]
        path = source if isinstance(source, Path) else source.path
        try:
            pixels = self._decode(frame)
        except (UnetError, MemoryError):
            raise
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(
                f"cannot be decoded: {reason}", path=path, hint="save it uncompressed, or copy it again"
            ) from error
        if pixels.shape != info.shape:
            raise InputError(
                f"has slices of the shape {pixels.shape}, its header says {info.shape}",
                path=path,
                hint="copy the file again from its source",
            )
        self._decoded = (index, pixels)
        return pixels

    def _decode(self, frame: Frame) -> np.ndarray:
        from pydicom.pixels.processing import apply_color_lut
        from pydicom.pixels.utils import pixel_array

        source, header = self._slices[frame.file]
        with nullcontext(source) if isinstance(source, InputFile) else closing(open_input(source)) as file:
            pixels: np.ndarray = pixel_array(file.stream(), index=frame.number)  # color spaces come back as RGB
        if self._photometric == "PALETTE COLOR":
            pixels = apply_color_lut(pixels, header)
            if pixels.dtype == np.uint16:
                pixels = (pixels >> 8).astype(np.uint8)
        if pixels.ndim == 2:
            pixels = pixels[:, :, None]
        if self._photometric == "MONOCHROME1":
            low, high = _limits(header)
            pixels = (low + high - pixels.astype(np.int64)).astype(pixels.dtype)
        if self._scaled:
            pixels = pixels * np.float64(frame.slope) + np.float64(frame.intercept)
        return np.ascontiguousarray(pixels, dtype=self.info.dtype)

    def close(self) -> None:
        """Forget what was decoded."""
        self._decoded = None


def open_series(folder: Path, axes: str | None) -> DicomImage | None:
    """Return the one series that a folder holds; None where the folder has no DICOM file.

    Raises
    ------
    InputError : several series, or slices that differ.
    """
    found = []
    for path in _candidates(folder):
        file = open_input(path)
        try:
            if bytes(file.read(_HEAD - 4, 4)) == _MAGIC:
                found.append((file.path, _read_header(file)))
        finally:
            file.close()
    return DicomImage(found, folder, axes) if found else None


def holds_series(folder: Path) -> bool:
    """Whether the files of a folder are slices of one DICOM series, as far as the first and the last of them tell."""
    try:
        paths = _candidates(folder)
        ends = [path for path in (_first_slice(paths), _first_slice(paths[::-1])) if path is not None]
        if len(ends) < 2:
            return False
        from pydicom import dcmread

        series = [dcmread(path, stop_before_pixels=True).get("SeriesInstanceUID", path.name) for path in ends]
    except ImportError:
        return True  # opening it says what is missing
    except Exception:  # an empty folder; damaged files, which are reported when they are opened
        return False
    return bool(series[0] == series[1])


def _first_slice(paths: Sequence[Path]) -> Path | None:
    """Return the first DICOM file; None where an image of another kind, or many other files, come before it."""
    for path in paths[:_FOREIGN]:
        with path.open("rb") as file:
            if file.read(_HEAD)[-4:] == _MAGIC:
                return path
        if path.suffix.lower() in _OTHER_IMAGES:
            return None
    return None


def _candidates(folder: Path) -> list[Path]:
    """Return the files of a folder that may be slices, by name: not hidden, no list of them, and long enough."""
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    return [
        Path(entry.path)
        for entry in entries
        if not entry.name.startswith((".", "~$"))
        and entry.name.lower() not in _NO_SLICES
        and entry.is_file()
        and entry.stat().st_size > _HEAD
    ]


def open_single(file: InputFile, axes: str | None) -> DicomImage:
    """Return the image in one DICOM file."""
    return DicomImage([(file, _read_header(file))], file.path, axes)


def _size_of(source: InputFile | Path) -> int:
    return source.size if isinstance(source, InputFile) else source.stat().st_size


def _read_header(file: InputFile) -> Any:
    try:
        import pydicom
    except ImportError:
        raise needed_package(file.path, "DICOM", "pydicom") from None
    try:
        header = pydicom.dcmread(file.stream(), stop_before_pixels=True)
        needed = ("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation", "PhotometricInterpretation")
        absent = [name for name in needed if name not in header]
    except Exception as error:
        raise InputError(
            f"is a damaged DICOM file ({error})", path=file.path, hint="copy the file again from its source"
        ) from error
    if absent:
        raise InputError(f"is DICOM without an image ({absent[0]} is absent)", path=file.path, hint="name an image")
    return header


def _check_series(headers: Sequence[Any], path: Path) -> None:
    series = {str(getattr(header, "SeriesInstanceUID", "")) for header in headers}
    if len(series) > 1:
        raise InputError(
            f"holds {len(series)} DICOM series", path=path, hint="put each series into a folder of its own"
        )


def _check_alike(headers: Sequence[Any], path: Path) -> None:
    kinds = list(
        dict.fromkeys((int(h.Columns), int(h.Rows), int(h.BitsAllocated), int(h.PixelRepresentation)) for h in headers)
    )
    if len(kinds) > 1:
        told = ", ".join(
            f"{width}x{height} of {bits} bits" + (" with sign" if sign else "")
            for width, height, bits, sign in kinds[:4]
        )
        raise InputError(f"slices differ: {told}", path=path, hint="put slices that are alike into one folder")


def _limits(header: Any) -> tuple[int, int]:
    bits = int(header.BitsStored)
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if int(header.PixelRepresentation) else (0, (1 << bits) - 1)
