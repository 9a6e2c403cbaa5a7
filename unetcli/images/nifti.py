"""NIfTI volumes (.nii, .nii.gz), slice by slice.

A NIfTI array is (x, y, z, t, vector) with x fastest, so that its bytes in order are pages (height, width) of slices:
they are read like the rows of an uncompressed TIFF and written like any other rows.
"""

import gzip
import io
import logging
import zlib
from math import inf, prod
from typing import Any, BinaryIO

import numpy as np

from unetcli.errors import InputError, UsageError, warn
from unetcli.images.axes import Layout, apply_axes, check_layout
from unetcli.images.files import InputFile, truncated
from unetcli.images.info import ImageInfo, PixelSize
from unetcli.images.medical import needed_package
from unetcli.images.memory import check_memory, readable_size
from unetcli.images.planes import RawPlane, plane_numbers
from unetcli.images.source import PageSource

_UNITS = {"meter": "m", "mm": "mm", "micron": "µm"}
_SECONDS = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}
_MILLIMETERS = {"m": 1e3, "mm": 1.0, "cm": 10.0, "µm": 1e-3, "nm": 1e-6, "inch": 25.4, "Å": 1e-7}
_SILENT = logging.Logger("silent")  # nibabel would report to the terminal
_SILENT.disabled = True
_FLAT = 1e-6  # volume that the axes of an affine span, each of length 1
_HEADER = 540  # bytes of the longer of the two headers


class NiftiImage:
    """An open NIfTI file; a compressed one is unpacked into memory."""

    def __init__(self, file: InputFile, axes: str | None) -> None:
        self._file = _unpacked(file)
        self._header = header = _read_header(self._file)
        shape = tuple(int(size) for size in header.get_data_shape()) or (0,)
        shape = (*shape, 1, 1)[: max(2, len(shape))]
        self._stored = np.dtype(header.get_data_dtype())
        self._colors = self._stored.names is not None
        self._check(shape)
        found = Layout("CTZYX"[-len(shape) :], shape[::-1], stated=True)
        kept = [i for i, size in enumerate(found.shape) if size > 1 or found.axes[i] in "YX"]
        found = Layout("".join(found.axes[i] for i in kept), tuple(found.shape[i] for i in kept), stated=True)
        self._layout = found if axes is None else apply_axes(axes, found, file.path)
        self._timed = "T" in found.axes and self._layout.axes == found.axes
        check_layout(self._layout, file.path)
        if self._layout.axes[-2:] != "YX":
            raise InputError(f"has slices with the axes YX, not {axes}", path=file.path, hint="let --axes end with YX")
        slope, intercept = header.get_slope_inter()
        self._scale = None if slope in (None, 1.0) and intercept in (None, 0.0) else (slope, intercept or 0.0)
        self.info = self._make_info()

    def _check(self, shape: tuple[int, ...]) -> None:
        path, dtype = self._file.path, self._stored
        if len(shape) > 5 or min(shape) < 1:
            raise InputError(f"has the shape {shape}", path=path, hint="save a volume of two to four axes")
        if self._colors and dtype.names[:3] != ("R", "G", "B"):
            raise InputError(f"has pixels of kind {dtype}", path=path, hint="save it as numbers or RGB")
        if dtype.kind == "c" or dtype.itemsize > 8:
            raise InputError(f"has {dtype} pixels", path=path, hint="save the magnitude as float32")
        expected = int(self._header.get_data_offset()) + prod(shape) * dtype.itemsize
        if expected > self._file.size:
            raise truncated(path, expected, self._file.size)

    def _make_info(self) -> ImageInfo:
        layout, header = self._layout, self._header
        samples = 3 if self._colors else 1
        dtype = np.dtype(np.uint8) if self._colors else self._stored.newbyteorder("=")
        if self._scale is not None:
            dtype = np.dtype(np.float32 if dtype.itemsize <= 4 else np.float64)
        zooms = [float(zoom) for zoom in header.get_zooms()] + [1.0]
        space, time = header.get_xyzt_units()
        timed = self._timed and 0 < header.get_zooms()[3] < inf and time in _SECONDS
        z = zooms[2] if len(header.get_zooms()) > 2 and zooms[2] > 0 else None
        size = (
            PixelSize(zooms[1], zooms[0], _UNITS.get(space, "mm"), z)
            if all(0 < zoom < inf for zoom in zooms[:2])
            else None
        )
        notes = layout.described() + (("values scaled as the header says",) if self._scale is not None else ())
        if self._colors and len(self._stored.names or ()) > samples:
            warn("alpha is dropped", path=self._file.path)
            notes += ("alpha dropped",)
        return ImageInfo(
            path=self._file.path,
            format="nifti",
            axes=layout.axes,
            file_shape=layout.shape,
            pages=layout.pages,
            height=layout.size("Y"),
            width=layout.size("X"),
            channels=layout.channels * samples,
            dtype=dtype,
            bits=dtype.itemsize * 8,
            pixel_size=size,
            page_axes=layout.page_axes,
            page_shape=layout.page_shape,
            frame_interval=float(header.get_zooms()[3]) * _SECONDS[time] if timed else None,
            joint=self._colors,
            notes=notes,
            orientation=_affine(header, self._file),
        )

    def page(self, index: int) -> PageSource:
        """Return a slice as a source: rows are the second axis of the file, columns the first."""
        info = self.info
        planes = [self._plane(number) for number in plane_numbers(self._layout, index, self._layout.axes[:-2])]

        def read(y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
            parts = [plane.read(y0, y1, x0, x1) for plane in planes]
            if self._colors:
                parts = [np.ascontiguousarray(part[:, :, :3]) for part in parts]  # without alpha
            pixels = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)
            if self._scale is not None:
                slope, intercept = self._scale
                pixels = pixels * np.float64(slope) + np.float64(intercept)
            return pixels.astype(info.dtype, copy=False)

        return PageSource(info.shape, info.dtype, read)

    def _plane(self, number: int) -> RawPlane:
        samples = self._stored.itemsize if self._colors else 1
        dtype = np.dtype(np.uint8) if self._colors else self._stored
        shape = (self.info.height, self.info.width, samples)
        start = int(self._header.get_data_offset()) + number * prod(shape) * dtype.itemsize
        return RawPlane(self._file, shape, dtype, (start,), shape[0], separate=False)

    def close(self) -> None:
        """Close the unpacked copy; the file itself is closed by who opened it."""
        if self._file.path.name.endswith(".gz"):
            self._file.close()


def _read_header(file: InputFile) -> Any:
    try:
        import nibabel
    except ImportError:
        raise needed_package(file.path, "NIfTI", "nibabel") from None
    head = io.BytesIO(bytes(file.read(0, min(_HEADER, file.size))))
    try:
        second = head.getvalue()[4:8] == b"n+2\0"
        kind: Any = nibabel.Nifti2Header if second else nibabel.Nifti1Header
        header = kind.from_fileobj(head, check=False)
        header.check_fix(logger=_SILENT)
        for part in ("data_offset", "data_shape", "data_dtype", "slope_inter", "best_affine", "zooms", "xyzt_units"):
            getattr(header, f"get_{part}")()  # raises here what cannot be understood
        return header
    except Exception as error:
        raise InputError(
            f"has a damaged NIfTI header ({error})", path=file.path, hint="copy the file again from its source"
        ) from error


def _affine(header: Any, file: InputFile) -> tuple[tuple[float, ...], ...] | None:
    """Return the affine of a header; that of its pixel sizes alone where what it states is no place in space."""
    stated, plain = header.get_best_affine(), header.get_base_affine()
    if not _is_regular(stated):
        warn("has an affine that is singular or not finite; it lies in space as its pixel sizes say", path=file.path)
    usable = next((affine for affine in (stated, plain) if _is_regular(affine)), None)
    return None if usable is None else tuple(tuple(float(value) for value in row) for row in usable)


def _is_regular(affine: np.ndarray) -> bool:
    """Whether the axes of an affine have lengths and span a space."""
    with np.errstate(all="ignore"):
        axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
        return bool(np.isfinite(affine).all() and abs(np.linalg.det(axes)) > _FLAT)


def _unpacked(file: InputFile) -> InputFile:
    """Return a compressed file as its content, unpacked only as far as its header declares."""
    if bytes(file.read(0, 2)) != b"\x1f\x8b":
        return file
    packed = gzip.GzipFile(fileobj=file.stream())
    try:
        head = packed.read(_HEADER)
        opened = InputFile(io.BytesIO(head), file.path, len(head), head)
        header = _read_header(opened)
        declared = (
            int(header.get_data_offset()) + prod(map(int, header.get_data_shape())) * header.get_data_dtype().itemsize
        )
        check_memory(
            2 * declared,
            f"the volume of {readable_size(declared)}",
            path=file.path,
            hint="save it uncompressed as .nii, which is read slice by slice",
        )
        content = head + packed.read(max(0, declared - len(head)))
        packed.read(1)  # at the end the checksum is compared
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"is truncated or damaged: {error}", path=file.path, hint="copy the file again from its source"
        ) from error
    return InputFile(io.BytesIO(content), file.path, len(content), content)


class NiftiEncoder:
    """Writes slices with the orientation of the input."""

    def __init__(self, file: BinaryIO, like: ImageInfo, dtype: np.dtype, packed: bool) -> None:
        import nibabel

        kind: Any = nibabel.Nifti1Header
        header = kind()
        header.set_data_dtype(dtype.newbyteorder("<"))
        header.set_data_shape(_volume(like))
        _set_geometry(header, like)
        header.set_data_offset(352)
        header["magic"] = header.single_magic
        self._dtype = dtype.newbyteorder("<")
        self._file: Any = gzip.GzipFile("", "wb", 6, file, mtime=0) if packed else file
        self._packed = packed
        self._file.write(header.binaryblock + b"\0\0\0\0")

    def write_rows(self, rows: np.ndarray) -> None:
        """Take the next rows (h, width, 1)."""
        self._file.write(np.ascontiguousarray(rows, dtype=self._dtype).tobytes())

    def finish(self) -> None:
        """Write what is left."""
        if self._packed:
            self._file.close()

    def abort(self) -> None:
        """Nothing runs in the background."""


def check_nifti(like: ImageInfo, dtype: np.dtype, channels: int) -> None:
    """Raise unless a result can be written as NIfTI.

    Raises
    ------
    UsageError : several channels, a side of more than 32,767 pixels, float16, or nibabel is absent.
    """
    try:
        import nibabel  # noqa: F401
    except ImportError:
        raise UsageError("writing NIfTI needs nibabel", hint="pip install 'unetcli[medical]', or use .tif") from None
    if channels > 1 or dtype == np.float16:
        raise UsageError(f"NIfTI cannot hold {channels} channels of {dtype}", path=like.path, hint="use .tif")
    if max(_volume(like)) > 32767:
        raise UsageError(f"{like.width}x{like.height} pixels are too many for NIfTI", path=like.path, hint="use .tif")


def _volume(like: ImageInfo) -> tuple[int, ...]:
    sizes = dict(zip(like.page_axes, like.page_shape, strict=True))
    if set(sizes) <= {"Z", "T"} and like.page_axes != "ZT":
        return (like.width, like.height, sizes.get("Z", 1), *([sizes["T"]] if "T" in sizes else []))
    return like.width, like.height, like.pages


def _set_geometry(header: Any, like: ImageInfo) -> None:
    """State pixel size in millimeters and orientation; that of the input where it has one."""
    size = like.pixel_size
    factor = None if size is None else _MILLIMETERS.get(size.unit)
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    if like.orientation is not None:
        affine = np.array(like.orientation)
        factor = factor if factor is not None and size is not None and size.unit in ("m", "µm") else 1.0
        header.set_xyzt_units({1e3: "meter", 1e-3: "micron"}.get(factor, "mm"), "sec")
    elif size is not None and factor is not None:
        affine = np.diag([size.x * factor, size.y * factor, (size.z or size.x) * factor, 1.0])
        header.set_xyzt_units("mm", "sec")
    header.set_sform(affine, code="scanner")
    header.set_qform(affine, code="scanner", strip_shears=True)
    if like.frame_interval is not None and len(_volume(like)) == 4:
        header.set_xyzt_units(header.get_xyzt_units()[0], "sec")
        header["pixdim"][4] = like.frame_interval
