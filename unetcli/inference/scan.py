"""An image to segment: one file, a stream, or a file per channel."""

import io
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from unetcli.errors import InputError, warn
from unetcli.images import Image, ImageInfo, IntensityRange, intensity_range, open_image
from unetcli.images.files import read_stream
from unetcli.images.mirror import Source

_STREAM = "stdin"  # how errors call it


@dataclass(frozen=True)
class Scan:
    """An open image.

    Parameters
    ----------
    info : of the image; of the first file, with the channels of all, where each file holds some.
    files : the open files, and `sources`, what they were opened from, with which `axes` and `pages`.
    """

    info: ImageInfo
    files: tuple[Image, ...]
    sources: tuple[Path | BinaryIO, ...]
    axes: str | None
    pages: range | None

    def page(self, index: int) -> Source:
        """Return a page as a source (H, W, C) with the channels of all files."""
        pages = [file.page(index) for file in self.files]
        return pages[0] if len(pages) == 1 else _Joined(tuple(pages))

    def intensity(self) -> IntensityRange:
        """Return the range of the whole files, whichever pages were selected, so that each is segmented alike.

        Where the others differ in size, or are damaged, the selected ones decide, with a warning.
        """
        return reduce(add, map(self._range_of, self.sources, self.files))

    def _range_of(self, source: Path | BinaryIO, file: Image) -> IntensityRange:
        if self.pages is not None:
            try:
                with _opened(source, self.axes) as whole:
                    return intensity_range(whole)
            except InputError as error:
                warn(f"{error.message}: the selected pages alone decide how bright is bright", path=error.path)
        return intensity_range(file)


@dataclass(frozen=True)
class _Joined:
    """Sources (H, W, C) of one size, read as one with the channels of all."""

    parts: tuple[Source, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Height, width and channels."""
        return (*self.parts[0].shape[:2], sum(part.shape[2] for part in self.parts))

    @property
    def dtype(self) -> np.dtype[Any]:
        """A type that holds the values of all parts."""
        return np.result_type(*(part.dtype for part in self.parts))

    def __getitem__(self, region: Any) -> NDArray[Any]:
        return np.concatenate([part[region] for part in self.parts], axis=2)


def _opened(source: Path | BinaryIO, axes: str | None, pages: range | None = None) -> Image:
    return open_image(source, axes, pages=pages, name=_STREAM)


@contextmanager
def open_scan(
    sources: Sequence[Path | BinaryIO], *, axes: str | None = None, pages: range | None = None
) -> Iterator[Scan]:
    """Yield an image whose channels lie in one file or in several.

    Raises
    ------
    InputError : a file cannot be read, or the files differ in size.
    """
    opened = tuple(
        source if isinstance(source, Path) else io.BytesIO(read_stream(source, Path(_STREAM))) for source in sources
    )
    with ExitStack() as stack:
        files = tuple(stack.enter_context(_opened(source, axes, pages)) for source in opened)
        first = files[0].info
        for file in files[1:]:
            if (file.info.pages, file.info.height, file.info.width) != (first.pages, first.height, first.width):
                raise InputError(
                    f"{file.info.pages} pages of {file.info.width}x{file.info.height}, but {first.path.name} has "
                    f"{first.pages} of {first.width}x{first.height}",
                    path=file.info.path,
                    hint="save all channels of an image in one size",
                )
        info = replace(first, channels=sum(file.info.channels for file in files))
        yield Scan(info, files, opened, axes, pages)
