"""TIFF files: which series of pages is the image, what its axes are, and its pages as sources."""

import logging
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from unetcli.errors import InputError, UnetError
from unetcli.images import tiff_metadata
from unetcli.images.axes import Layout, apply_axes, check_layout
from unetcli.images.files import InputFile, truncated
from unetcli.images.info import ImageInfo
from unetcli.images.memory import check_memory
from unetcli.images.planes import Plane, RawPlane, SegmentCache, SegmentPlane, is_raw, plane_numbers
from unetcli.images.source import PageSource, array_source
from unetcli.images.tiff_checks import check_directories, check_pixels, check_size
from unetcli.images.tiff_colors import Conversion, conversion_of
from unetcli.images.turned import warn_of_turned

# Whole-slide formats: their first series is the scan, the others are label, overview and thumbnail.
_SLIDES = {"svs", "scn", "qpi", "ndpi", "bif", "avs", "philips"}
_GUESSED = {"uniform", "generic", ""}
_FEW_LISTED = 4
_ORIENTATION = 274  # tag
_UNNAMED = "QIRPAVHE"  # letters for axes that a file does not name
_TILE_CACHE = 16 << 20  # bytes: of tiles, only those at the edges of a region are wanted again; of strips, all
# What tifffile raises when a file is not what it says; anything else is a bug.
_PARSING_ERRORS = (
    ValueError,
    LookupError,
    ArithmeticError,
    TypeError,
    OSError,
    RuntimeError,
    AssertionError,
    struct.error,
)


@dataclass(frozen=True)
class _Found:
    """The planes of the image in file order, and the axes of the whole array."""

    planes: tuple[Any, ...]  # pages of tifffile; one page only where the planes follow each other in the file
    virtual: int | None  # where the first plane begins, when there is one page for all planes
    layout: Layout
    kind: str
    notes: tuple[str, ...]


class TiffImage:
    """An open TIFF file."""

    def __init__(self, file: InputFile, axes: str | None, palette: str, selected: range | None) -> None:
        import tifffile

        self._file = file
        check_directories(file)
        try:
            self._tiff = tifffile.TiffFile(
                file.file, name=file.path.name, _multifile=False, is_mmstack=False, is_ndtiff=False
            )  # Micro-Manager's own index may lead to pages of other files; what else the file says does not
            found = _find_series(self._tiff, file, selected)
        except (UnetError, MemoryError):
            raise
        except _PARSING_ERRORS as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(
                f"corrupt TIFF directory: {reason}", path=file.path, hint="copy the file again from its source"
            ) from error
        _check_imagej(self._tiff, file)
        self._found = found
        self._key = found.planes[0].keyframe
        layout = found.layout if axes is None else apply_axes(axes, found.layout, file.path)
        self._layout = _without_single(layout)
        check_layout(self._layout, file.path)
        for page in found.planes:
            if page.keyframe is not self._key:
                check_pixels(page.keyframe, file)
            check_size(page, file, 1 if found.virtual is None else self._planes_expected())
        self._cache = SegmentCache(_TILE_CACHE) if self._key.is_tiled else SegmentCache()
        self._planes: dict[int, Plane] = {}
        self._lock = threading.Lock()
        self._whole: np.ndarray | None = None
        sample_axis = "S" in layout.axes and self._key.samplesperpixel > 1
        self._conversion = conversion_of(self._key, file, palette=palette, colors=sample_axis)
        warn_of_turned(self._key.tags.valueof(_ORIENTATION), file.path)
        self.info = self._make_info(palette)

    def _planes_expected(self) -> int:
        return int(max(1, prod(self._layout.shape) // max(1, prod(self._key.shape))))

    def _make_info(self, palette: str) -> ImageInfo:
        layout, change = self._layout, self._conversion
        samples = self._key.samplesperpixel
        channels = layout.channels
        if change.samples != samples:
            channels = layout.size("C") * (layout.size("S") // samples or 1) * change.samples
        description = tiff_metadata.describe(self._tiff, self._key, self._found.kind)
        info = ImageInfo(
            path=self._file.path,
            format="tiff",
            axes=layout.axes,
            file_shape=layout.shape,
            pages=layout.pages,
            height=layout.size("Y"),
            width=layout.size("X"),
            channels=channels,
            dtype=change.dtype,
            bits=change.bits,
            page_axes=layout.page_axes,
            page_shape=layout.page_shape,
            joint=change.joint and layout.size("C") == 1,
            colormap=change.colormap if palette == "indices" else None,
            notes=(*self._found.notes, *layout.described(), *change.notes),
        )
        return replace(
            info,
            pixel_size=description.pixel_size,
            flavor=description.flavor,
            frame_interval=description.frame_interval,
        )

    def page(self, index: int) -> PageSource:
        """Return page `index` as a source."""
        if not self._in_planes():
            return array_source(self._convert_whole()[index])
        layout = self._layout
        leading = layout.axes.replace("Y", "").replace("X", "")
        if self._key.samplesperpixel > 1:
            leading = "".join(a for a in leading if a != self._sample_letter())
        planes = [self._plane(number) for number in plane_numbers(layout, index, leading)]
        return _joined(planes, self._conversion)

    def close(self) -> None:
        """Forget what was decoded; the file is closed by who opened it."""
        self._planes.clear()
        self._whole = None

    def _sample_letter(self) -> str:
        """Letter of the axis that the samples within a page of the file form."""
        at = self._key.axes.index("S")
        return self._layout.axes[at - len(self._key.shape)]

    def _in_planes(self) -> bool:
        """Whether Y and X are the axes of the file's own pages, so that these can be read one by one."""
        layout, key = self._layout, self._key
        ndim = len(key.shape)
        if layout.shape[-ndim:] != tuple(key.shape):
            return False
        trailing = zip(layout.axes[-ndim:], key.axes, strict=True)
        return all((mine == own) if own in "YX" else mine in "CS" for mine, own in trailing)

    def _plane(self, number: int) -> Plane:
        with self._lock:
            if number not in self._planes:
                if len(self._planes) > 4096:
                    self._planes.clear()
                self._planes[number] = self._make_plane(number)
            return self._planes[number]

    def _make_plane(self, number: int) -> Plane:
        found = self._found
        page = found.planes[0 if found.virtual is not None else number]
        key = page.keyframe  # pages may be compressed, and cut into strips, each in its own way
        shape = (key.imagelength, key.imagewidth, key.samplesperpixel)
        if not is_raw(key):
            plane = SegmentPlane(self._file, page, number, self._cache)
            plane.check_memory()
            return plane
        dtype = np.dtype(key.dtype).newbyteorder(self._tiff.byteorder)
        separate = key.planarconfig == 2
        if found.virtual is not None:
            offsets: tuple[int, ...] = (found.virtual + number * prod(shape) * dtype.itemsize,)
            if separate and shape[2] > 1:
                step = shape[0] * shape[1] * dtype.itemsize
                offsets = tuple(offsets[0] + sample * step for sample in range(shape[2]))
            return RawPlane(self._file, shape, dtype, offsets, shape[0], separate)
        return RawPlane(self._file, shape, dtype, page.dataoffsets, max(1, key.rowsperstrip), separate)

    def _convert_whole(self) -> np.ndarray:
        """Return all pages (pages, height, width, channels) of a file whose pages are not the image's planes."""
        with self._lock:
            if self._whole is not None:
                return self._whole
        layout, key = self._layout, self._key
        count = self._planes_expected()
        needed = prod(layout.shape) * np.dtype(key.dtype).itemsize
        check_memory(3 * needed, f"the whole file, {'x'.join(map(str, layout.shape))} pixels,", path=self._file.path)
        parts = []
        for number in range(count):
            plane = self._plane(number)
            pixels = plane.read(0, plane.shape[0], 0, plane.shape[1])
            parts.append(np.moveaxis(pixels, -1, 0) if key.axes.startswith("S") else pixels)
        array = np.stack(parts).reshape(layout.shape)
        order = [*layout.page_axes, "Y", "X", *(a for a in layout.axes if a in "CS")]
        array = array.transpose([layout.axes.index(a) for a in order])
        height, width = layout.size("Y"), layout.size("X")
        array = array.reshape(layout.pages, height, width, layout.size("C"), layout.size("S"))
        whole = self._conversion.apply(array).reshape(layout.pages, height, width, self.info.channels)
        with self._lock:
            self._whole = whole
        return whole


def _joined(planes: Sequence[Plane], change: Conversion) -> PageSource:
    """Return the source whose channels are those of the planes, one plane after the other."""
    height, width, _ = planes[0].shape
    channels = change.samples * len(planes)

    def read(y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        if len(planes) == 1:
            return change.apply(planes[0].read(y0, y1, x0, x1))
        region = np.empty((y1 - y0, x1 - x0, channels), change.dtype)
        for i, plane in enumerate(planes):
            part = change.apply(plane.read(y0, y1, x0, x1))
            region[:, :, i * change.samples : (i + 1) * change.samples] = part
        return region

    return PageSource((height, width, channels), change.dtype, read)


def _without_single(layout: Layout) -> Layout:
    """Return the layout without axes of length one, Y and X excepted."""
    kept = [i for i, (a, size) in enumerate(zip(layout.axes, layout.shape, strict=True)) if size != 1 or a in "YX"]
    return replace(layout, axes="".join(layout.axes[i] for i in kept), shape=tuple(layout.shape[i] for i in kept))


def _find_series(tiff: Any, file: InputFile, selected: range | None) -> _Found:
    """Return the planes and axes of the image in the file."""
    try:
        listed = list(tiff.series)
    except RuntimeError:  # pages that tifffile took for alike differ
        listed = []
    series = [s for s in listed if not _is_reduced(s.keyframe)] or listed
    kind = series[0].kind if series else ""
    if kind in _SLIDES:
        series = series[:1]
    if len(series) != 1:
        return _pages_alike(tiff, file, series, selected)
    chosen = series[0]
    check_pixels(chosen.keyframe, file)
    pages = list(chosen)
    if any(page is None for page in pages):
        raise InputError(
            "belongs to a set of files and misses pages that lie in others",
            path=file.path,
            hint="save the image as one file, for instance with Fiji",
        )
    axes = _told_apart(chosen.axes if "Q" in chosen.axes else chosen.axes.replace("I", "Q"))
    shape = tuple(chosen.shape)
    stated = kind not in _GUESSED and "Q" not in axes
    notes: list[str] = []
    if len(chosen.levels) > 1:
        notes.append(f"the full resolution of {len(chosen.levels)}")
    elif len(listed) > 1:
        notes.append(f"{len(listed) - 1} further images in the file (label, overview) are left out")
    layout = Layout(axes, shape, stated)
    expected = prod(shape) // max(1, prod(chosen.keyframe.shape))
    virtual = None
    if len(pages) == 1 and expected > 1:
        virtual = chosen.keyframe.dataoffsets[0]
        if not is_raw(chosen.keyframe):
            raise InputError(f"declares {expected} pages but holds one", path=file.path, hint="save the image again")
    elif len(pages) != expected:
        raise InputError(f"declares {expected} pages but holds {len(pages)}", path=file.path, hint="copy it again")
    _check_companions(tiff, file, kind)
    return _Found(tuple(pages), virtual, layout, kind, tuple(notes))


def _told_apart(axes: str) -> str:
    """Return axes of which no letter stands twice: tifffile calls all of them Q that the file does not name."""
    if axes.count("Q") < 2:
        return axes
    free = (letter for letter in _UNNAMED if letter not in axes.replace("Q", ""))
    return "".join(next(free) if letter == "Q" else letter for letter in axes)


def _check_companions(tiff: Any, file: InputFile, kind: str) -> None:
    """Refuse an OME file whose pages lie in other files; those are never opened."""
    if not tiff.is_ome or kind == "ome":
        return
    others = [name for name in tiff_metadata.ome_files(tiff.ome_metadata or "") if name != file.path.name]
    if others:
        raise InputError(
            f"belongs to a set of files; {others[0]} and others hold the rest of the image",
            path=file.path,
            hint="save the image as one file, for instance with Fiji",
        )


def _check_imagej(tiff: Any, file: InputFile) -> None:
    """Refuse an ImageJ stack that is shorter than its description says."""
    metadata = tiff.imagej_metadata if tiff.is_imagej else None
    if not metadata or not is_raw(tiff.pages[0]) or len(tiff.pages) > 1:
        return
    first = tiff.pages[0]
    expected = first.dataoffsets[0] + int(metadata.get("images", 1)) * int(first.nbytes)
    if expected > file.size:
        raise truncated(file.path, expected, file.size)


def _is_reduced(key: Any) -> bool:
    """Whether a page is a smaller copy or a transparency mask of another."""
    if key is None:
        raise ValueError("a page cannot be read")
    return bool(int(key.subfiletype or 0) & 0b101)


def _pages_alike(tiff: Any, file: InputFile, series: Sequence[Any], selected: range | None) -> _Found:
    """Return all pages as one stack where they differ in nothing that matters; refuse them otherwise."""
    if series and series[0].kind == "ome":
        pages = [page for one in series for page in one]
    else:
        tiff.pages.useframes = False
        pages = [page for page in map(tiff.pages.__getitem__, range(len(tiff.pages))) if not _is_reduced(page.keyframe)]
    if not pages or any(page is None for page in pages):
        raise InputError("holds no image", path=file.path, hint="save it again, or name another file")
    chosen = pages if selected is None else [pages[i] for i in selected if i < len(pages)]
    kinds = list(dict.fromkeys(_kind_of(page.keyframe) for page in chosen))
    if len(kinds) > 1:
        alike = len({meaning for _, _, meaning, _ in kinds}) == 1
        told = ", ".join(
            f"{'x'.join(map(str, shape))} {dtype}{'' if alike else ' ' + meaning}"
            for shape, dtype, meaning, _ in kinds[:_FEW_LISTED]
        )
        more = " ..." if len(kinds) > _FEW_LISTED else ""
        raise InputError(
            f"pages differ: {told}{more}",
            path=file.path,
            hint="save the pages as files of their own, or select pages that are alike with --pages A-B",
        )
    if selected is not None:  # the pages not selected are never read; alike ones stand in their places
        pages = [page if i in selected else chosen[0] for i, page in enumerate(pages)]
    key = pages[0].keyframe
    check_pixels(key, file)
    layout = Layout("Q" + key.axes, (len(pages), *key.shape), stated=False)
    return _Found(tuple(pages), None, layout, "generic", ())


def _kind_of(key: Any) -> tuple[tuple[int, ...], str, str, bytes]:
    """Return what pages of one stack must have in common: size, type, meaning of their values, and colors."""
    colors = b"" if key.colormap is None else np.asarray(key.colormap).tobytes()
    meaning = str(getattr(key.photometric, "name", key.photometric)).lower()
    return tuple(key.shape), str(key.dtype), meaning, colors


class _Quiet(logging.Filter):
    """Keeps what tifffile logs off the terminal: this package checks files by itself and says it in its own words."""

    def filter(self, record: logging.LogRecord) -> bool:
        return False


logging.getLogger("tifffile").addFilter(_Quiet())
