"""The results of a pass over an image: masks, probabilities, overlays and tables, each written as it comes."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from unetcli.dataset.labels import LabelCoding
from unetcli.errors import warn
from unetcli.images import ImageInfo, ImageWriter
from unetcli.images.atomic import atomic_path
from unetcli.images.mirror import Source
from unetcli.images.omezarr_encoder import Store
from unetcli.inference.instances import PageObjects
from unetcli.inference.objecttable import ObjectsOutput
from unetcli.inference.predict import Band, Prepare

MOST_UINT16 = 65535
OUTLINE = (255, 64, 255)  # magenta: seen on gray by people who confuse red and green
OVERLAY_GAMMA = 0.7  # lifts the dark parts, where the outlines are to be judged


@dataclass(frozen=True)
class PageResult:
    """A whole page when it is done.

    Parameters
    ----------
    pixels, prepare : the page as it was read, and its normalization.
    """

    page: int
    objects: PageObjects
    pixels: Source
    prepare: Prepare


class Output(Protocol):
    """Something written from a prediction: band by band, or page by page.

    Parameters
    ----------
    wants_objects : whether it needs the objects of each page, and `keeps_objects`, whether until the last page is done.
    wants_probabilities : whether bands need more than classes.
    """

    wants_objects: bool
    keeps_objects: bool
    wants_probabilities: bool

    def write_band(self, band: Band) -> None:
        """Take rows of the present page."""

    def write_page(self, result: PageResult) -> None:
        """Take the objects of a page; called only if any output wants them."""


class RowsOutput:
    """Rows that are written as soon as they are predicted: masks, classes, probabilities."""

    wants_objects = keeps_objects = False

    def __init__(self, writer: ImageWriter, rows: Callable[[Band], NDArray[Any]], *, wants_probabilities: bool) -> None:
        self.writer = writer
        self.written_elsewhere = False  # by the processes that predict
        self.rows = rows
        self.wants_probabilities = wants_probabilities

    def write_band(self, band: Band) -> None:
        """Write the band's rows."""
        if self.written_elsewhere:
            self.writer.skip_rows(len(band.classes))
        else:
            self.writer.write_rows(self.rows(band))

    def write_page(self, result: PageResult) -> None:
        """Do nothing: the rows are written already."""


class InstancesOutput:
    """Ids of objects; written at the end, when the largest id is known."""

    wants_objects = keeps_objects = True
    wants_probabilities = False

    def __init__(self) -> None:
        self.pages: list[PageObjects] = []

    def write_band(self, band: Band) -> None:
        """Do nothing: objects are known when their page is done."""

    def write_page(self, result: PageResult) -> None:
        """Keep the page's objects."""
        self.pages.append(result.objects)

    def write(self, target: Path | BinaryIO, info: ImageInfo, store: Store) -> None:
        """Write all pages in the smallest unsigned type that instance masks are commonly read with."""
        largest = max(map(len, self.pages))
        dtype = np.uint16 if largest <= MOST_UINT16 else np.uint32
        if dtype == np.uint32:
            warn(f"{largest} objects on one page: their ids take 32 bits, which some programs cannot read")
        with ImageWriter(target, like=info, dtype=dtype, kind="mask", store=store) as writer:
            for page in self.pages:
                for _, ids in page.bands():
                    writer.write_rows(ids.astype(dtype))


class OverlayOutput:
    """Pictures of the image with the outlines of its objects, one file per page.

    Raises
    ------
    UsageError : the extension of the file does not suit a picture.
    """

    wants_objects = True
    keeps_objects = wants_probabilities = False

    def __init__(self, path: Path, info: ImageInfo) -> None:
        page_info = replace(info, pages=1, page_axes="", page_shape=())
        paths = [path]
        if info.pages > 1:
            paths = [path.with_stem(f"{path.stem}_{page:04d}") for page in range(info.pages)]
        self.writers = [ImageWriter(path, like=page_info, dtype=np.uint8, channels=3, kind="overlay") for path in paths]

    def write_band(self, band: Band) -> None:
        """Do nothing: outlines are drawn when their page is done."""

    def write_page(self, result: PageResult) -> None:
        """Write the page's picture."""
        width = result.pixels.shape[1]
        with self.writers[result.page] as writer:
            for top, ids in result.objects.bands(halo=1):
                pixels = result.pixels[top : top + len(ids) - 2, 0:width]
                writer.write_rows(draw_overlay(result.prepare(pixels), ids))


@contextmanager
def open_outputs(
    destinations: Any,
    info: ImageInfo,
    coding: LabelCoding,
    classes: int,
    kind: str,
    probability_type: str,
    store: Store,
) -> Iterator[list[Output]]:
    """Yield the outputs of one input; each file takes its place when the block ends well, and none otherwise.

    Parameters
    ----------
    destinations : an `unetcli.inference.records.Destinations`.
    kind : of the main output; "mask" is what the training masks were.
    probability_type : name of the type in which probabilities are written.
    store : how an OME-Zarr is stored; its folder is for the main output.
    """
    outputs: list[Output] = []
    if kind == "mask":
        kind = "instances" if coding.task == "instances" else "mask"
    with ExitStack() as stack:

        def probabilities(target: Path | BinaryIO, store: Store) -> RowsOutput:
            dtype = np.dtype(probability_type)
            writer = ImageWriter(target, like=info, dtype=dtype, channels=classes, kind="probabilities", store=store)
            stack.enter_context(writer)
            rows = partial(_probability_rows, dtype=dtype)
            return RowsOutput(writer, rows, wants_probabilities=True)

        instances = InstancesOutput() if kind == "instances" else None
        if instances is not None:
            outputs.append(instances)
        elif kind == "probabilities":
            outputs.append(probabilities(destinations.main, store))
        else:
            coded = kind == "mask"
            dtype, colormap = (coding.dtype(), coding.colormap) if coded else (np.dtype(np.uint8), None)
            writer = ImageWriter(destinations.main, like=info, dtype=dtype, colormap=colormap, kind="mask", store=store)
            stack.enter_context(writer)
            encode = coding.encode if coded else np.asarray
            outputs.append(RowsOutput(writer, lambda band: encode(band.classes), wants_probabilities=False))
        if destinations.probabilities is not None:
            outputs.append(probabilities(destinations.probabilities, replace(store, folder=None)))
        if destinations.overlay is not None:
            outputs.append(OverlayOutput(destinations.overlay, info))
        if destinations.objects is not None:
            temporary = stack.enter_context(atomic_path(destinations.objects))
            file = stack.enter_context(temporary.open("w", encoding="utf-8", newline=""))
            outputs.append(ObjectsOutput(file, info.pixel_size, coding.classes))
        yield outputs
        if instances is not None:
            instances.write(destinations.main, info, store)


def _probability_rows(band: Band, dtype: np.dtype[Any]) -> NDArray[Any]:
    assert band.probabilities is not None
    return band.probabilities.transpose(1, 2, 0).astype(dtype, copy=False)  # (K, h, W) -> (h, W, K)


def draw_overlay(image: NDArray[np.float32], ids: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Return an RGB picture (h, W, 3) of rows of a normalized image (h, W, C) with the outlines of its objects.

    Parameters
    ----------
    ids : of the objects (h + 2, W), with a row more above and below.
    """
    channels = image if image.shape[2] == 3 else image[..., :1].repeat(3, axis=2)
    picture = (np.clip(channels, 0, 1) ** OVERLAY_GAMMA * 255).astype(np.uint8)
    picture[_outlines(ids)] = OUTLINE
    return picture


def _outlines(ids: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Return the pixels (h, W) of objects that have one of their four neighbors outside."""
    rows = ids[1:-1]
    outlines: NDArray[np.bool_] = (rows != ids[:-2]) | (rows != ids[2:])
    across = rows[:, 1:] != rows[:, :-1]
    outlines[:, 1:] |= across
    outlines[:, :-1] |= across
    outlines &= rows > 0
    return outlines
