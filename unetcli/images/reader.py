"""Opening an image file of any format."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol

import numpy as np

from unetcli.errors import UsageError
from unetcli.images.axes import check_axes
from unetcli.images.files import InputFile, detect_format, is_zarr, open_input
from unetcli.images.info import ImageInfo
from unetcli.images.source import PageSource


class _Format(Protocol):
    info: ImageInfo

    def page(self, index: int) -> PageSource: ...

    def close(self) -> None: ...


class Image:
    """An open image: what its header says, and its pages as sources.

    Parameters
    ----------
    opened : the reader of its format.
    file : the open file, closed with the image.
    selected : the pages that were asked for; all where None.
    """

    def __init__(self, opened: _Format, file: InputFile | None, selected: range | None = None) -> None:
        self._opened = opened
        self._file = file
        self._selected = range(opened.info.pages) if selected is None else selected
        self.info = opened.info if selected is None else _selection(opened.info, selected)

    def page(self, index: int) -> PageSource:
        """Return a page as a source (height, width, channels) that is decoded only where it is looked at.

        Raises
        ------
        InputError : the page is damaged; raised when the damaged part is read.
        ResourceError : what must be decoded at once does not fit the memory.
        """
        if not 0 <= index < self.info.pages:
            raise IndexError(f"page {index} of {self.info.pages}")
        return self._opened.page(self._selected[index])

    def pages(self) -> Iterator[PageSource]:
        """Yield all pages in order."""
        return (self.page(index) for index in range(self.info.pages))

    def close(self) -> None:
        """Close the file; sources of its pages can no longer be read."""
        self._opened.close()
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> "Image":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_image(
    source: Path | str | BinaryIO,
    axes: str | None = None,
    palette: str = "colors",
    *,
    pages: range | None = None,
    only: range | None = None,
    name: str | None = None,
) -> Image:
    """Return the image in a file, of which only the header has been read.

    Parameters
    ----------
    source : path of a file, or of a folder that is an OME-Zarr or holds the slices of one DICOM series, or an open
        binary stream, which is read into memory.
    axes : axes to use in place of those the file states, as in "ZYX".
    palette : "colors" turns palette images into RGB, unless the palette is gray; "indices" keeps the indices, as masks
        need; "mask colors" turns every palette image into RGB, for masks whose colors count.
    pages : the pages to open, counted from 0; the image then has these pages only. All where None.
    only : pages beside which no others will be read, which need then not be like them; all keep their numbers.
    name : what errors call a stream.

    Raises
    ------
    InputError : not an image, damaged, truncated, or of a kind that cannot be read; says why.
    UsageError : unknown axes, or pages that the file does not have.
    """
    assert palette in ("colors", "indices", "mask colors")
    if axes is not None:
        check_axes(axes)
    if isinstance(source, str | os.PathLike) and Path(source).is_dir() and (folder := _open_folder(source, axes)):
        if pages is not None:
            _check_pages(pages, folder.info)
        return Image(folder, None, pages)
    file = open_input(source, name)
    try:
        opened = _open(file, detect_format(file), axes, palette, pages or only)
        if pages is not None:
            _check_pages(pages, opened.info)
        return Image(opened, file, pages)
    except BaseException:
        file.close()
        raise


def is_image_folder(path: Path) -> bool:
    """Whether a path is a folder that is opened as one image: an OME-Zarr, or the slices of a DICOM series."""
    from unetcli.images.dicom import holds_series

    return is_zarr(path) or (path.is_dir() and holds_series(path))


def _open_folder(folder: str | os.PathLike[str], axes: str | None) -> _Format | None:
    """Return the image that a folder is; None where it is none."""
    if is_zarr(Path(folder)):
        from unetcli.images.omezarr import OmeZarrImage

        return OmeZarrImage(Path(folder), axes)
    from unetcli.images.dicom import open_series

    return open_series(Path(folder), axes)


def _open(file: InputFile, format: str, axes: str | None, palette: str, pages: range | None) -> _Format:
    if format == "tiff":
        from unetcli.images.tiff import TiffImage

        return TiffImage(file, axes, palette, pages)
    if format == "nifti":
        from unetcli.images.nifti import NiftiImage

        return NiftiImage(file, axes)
    if format == "dicom":
        from unetcli.images.dicom import open_single

        return open_single(file, axes)
    from unetcli.images.pictures import PictureImage

    return PictureImage(file, format, axes, palette)


def _check_pages(pages: range, info: ImageInfo) -> None:
    if not pages or pages[0] < 0 or pages[-1] >= info.pages:
        raise UsageError(
            f"pages {pages[0]}-{pages[-1]} were asked for, the file has {info.pages}"
            if pages
            else "no page is selected",
            path=info.path,
            hint=f"--pages 0-{info.pages - 1} are all",
        )


def _selection(info: ImageInfo, pages: range) -> ImageInfo:
    """Return the header of an image that has only some of the pages."""
    if len(pages) == info.pages:
        return info
    info = _beginning_at(info, pages[0])
    letter = info.page_axes if len(info.page_axes) == 1 else "Q"
    kept = [(a, size) for a, size in zip(info.axes, info.file_shape, strict=True) if a not in info.page_axes]
    if len(pages) > 1:
        kept.insert(0, (letter, len(pages)))
    return replace(
        info,
        axes="".join(a for a, _ in kept),
        file_shape=tuple(size for _, size in kept),
        pages=len(pages),
        page_axes=letter if len(pages) > 1 else "",
        page_shape=(len(pages),) if len(pages) > 1 else (),
        notes=(*info.notes, f"pages {pages[0]}-{pages[-1]} of {info.pages}"),
    )


def _beginning_at(info: ImageInfo, page: int) -> ImageInfo:
    """Return the header of an image whose place in space is that of the slice on a page."""
    if "Z" not in info.page_axes:
        return info
    number = int(np.unravel_index(page, info.page_shape)[info.page_axes.index("Z")])
    orientation, origin = info.orientation, info.origin
    if orientation is not None:
        orientation = tuple((*row[:3], row[3] + number * row[2]) for row in orientation)
    if number and info.pixel_size is not None and info.pixel_size.z is not None:
        z, y, x = origin or (0.0, 0.0, 0.0)
        origin = (z + number * info.pixel_size.z, y, x)
    return replace(info, orientation=orientation, origin=origin)
