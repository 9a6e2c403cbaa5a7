"""The results of a pass over an image: masks, probabilities, overlays and tables, each written as it comes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from unetcli.dataset.labels import LabelCoding
from unetcli.errors import UsageError, warn
from unetcli.images import ImageInfo, ImageWriter
from unetcli.images.atomic import atomic_path
from unetcli.images.mirror import Source
from unetcli.images.omezarr_encoder import Store
from unetcli.inference.instances import PageObjects
from unetcli.inference.objecttable import ObjectsOutput
from unetcli.inference.predict import Band, Prepare
from unetcli.inference.records import Destinations, InferConfig, place_of

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


class ObjectClassesOutput:
    """Masks and classes of the objects that are left, page by page."""

    wants_objects = True
    keeps_objects = wants_probabilities = False

    def __init__(self, writer: ImageWriter, encode: Callable[[NDArray[np.uint8]], NDArray[Any]]) -> None:
        self.writer = writer
        self.encode = encode

    def write_band(self, band: Band) -> None:
        """Do nothing: objects are known when their page is done."""

    def write_page(self, result: PageResult) -> None:
        """Write the class of each pixel's object."""
        classes = np.concatenate([np.zeros(1, np.uint8), result.objects.classes])
        for _, ids in result.objects.bands():
            self.writer.write_rows(self.encode(classes[ids]))


class InstancesOutput:
    """Ids of objects; written at the end, when the largest id is known.

    Parameters
    ----------
    make_writer : returns what writes ids of a type.
    """

    wants_objects = keeps_objects = True
    wants_probabilities = False

    def __init__(self, make_writer: Callable[[type], ImageWriter]) -> None:
        self.make_writer = make_writer
        self.pages: list[PageObjects] = []

    def write_band(self, band: Band) -> None:
        """Do nothing: objects are known when their page is done."""

    def write_page(self, result: PageResult) -> None:
        """Keep the page's objects."""
        self.pages.append(result.objects)

    def write(self) -> None:
        """Write all pages in the smallest unsigned type that instance masks are commonly read with."""
        largest = max(map(len, self.pages))
        dtype = np.uint16 if largest <= MOST_UINT16 else np.uint32
        if dtype == np.uint32:
            warn(f"{largest} objects on one page: their ids take 32 bits, which some programs cannot read")
        with self.make_writer(dtype) as writer:
            for page in self.pages:
                for _, ids in page.bands():
                    writer.write_rows(ids.astype(dtype))


class OverlayOutput:
    """Pictures of the image with the outlines of its objects.

    Parameters
    ----------
    writers : of each page.
    """

    wants_objects = True
    keeps_objects = wants_probabilities = False

    def __init__(self, writers: Sequence[ImageWriter]) -> None:
        self.writers = writers

    def write_band(self, band: Band) -> None:
        """Do nothing: outlines are drawn when their page is done."""

    def write_page(self, result: PageResult) -> None:
        """Write the page's picture."""
        width = result.pixels.shape[1]
        with self.writers[result.page] as writer:
            for top, ids in result.objects.bands(halo=1):
                pixels = result.pixels[top : top + len(ids) - 2, 0:width]
                writer.write_rows(draw_overlay(result.prepare(pixels), ids))


@dataclass(frozen=True)
class OutputPlan:
    """What is to be written of one input, and where.

    Parameters
    ----------
    info : of the input.
    coding, classes : of the model; the number of classes.
    """

    destinations: Destinations
    info: ImageInfo
    coding: LabelCoding
    classes: int
    config: InferConfig

    @property
    def kind(self) -> str:
        """Kind of the main output, "mask" being what the training masks were."""
        kind = self.config.output_kind
        return "instances" if kind == "mask" and self.coding.task == "instances" else kind

    def check(self) -> None:
        """Raise unless all files can hold what is meant for them, without opening any.

        Raises
        ------
        UsageError : pages, type or channels do not fit a format, or a page of the overlay has the place of an input or
            of another output.
        """
        self._main(Store())
        if self.destinations.probabilities is not None:
            self._probabilities(self.destinations.probabilities, Store())
        self._overlays(Store())

    @contextmanager
    def open(self, store: Store) -> Iterator[list[Output]]:
        """Yield the outputs; each file takes its place when the block ends well, and none otherwise.

        Parameters
        ----------
        store : how an OME-Zarr is stored; its folder is for the main output.
        """
        destinations, coding, beside = self.destinations, self.coding, replace(store, folder=None)
        outputs: list[Output] = []
        with ExitStack() as stack:
            instances = InstancesOutput(partial(self._main, store)) if self.kind == "instances" else None
            if instances is not None:
                outputs.append(instances)
            else:
                main = stack.enter_context(self._main(store))
                encode = coding.encode if self.kind == "mask" else np.asarray
                if self.kind == "probabilities":
                    outputs.append(self._probability_rows(main))
                elif self.config.changes_objects:
                    outputs.append(ObjectClassesOutput(main, encode))
                else:
                    outputs.append(RowsOutput(main, lambda band: encode(band.classes), wants_probabilities=False))
            if destinations.probabilities is not None:
                writer = stack.enter_context(self._probabilities(destinations.probabilities, beside))
                outputs.append(self._probability_rows(writer))
            if destinations.overlay is not None:
                outputs.append(OverlayOutput(self._overlays(beside)))
            if destinations.objects is not None:
                temporary = stack.enter_context(atomic_path(destinations.objects))
                file = stack.enter_context(temporary.open("w", encoding="utf-8", newline=""))
                outputs.append(ObjectsOutput(file, self.info.pixel_size, coding.classes))
            yield outputs
            if instances is not None:
                instances.write()

    def _main(self, store: Store, ids: DTypeLike = np.uint16) -> ImageWriter:
        target, colormap = self.destinations.main, None
        if self.kind == "probabilities":
            return self._probabilities(target, store)
        dtype = np.dtype(ids) if self.kind == "instances" else np.dtype(np.uint8)
        if self.kind == "mask":
            dtype = self.coding.dtype()
            colormap = self.coding.colormap if dtype == np.uint8 else None  # an ignored value may be beyond a palette
        return ImageWriter(target, like=self.info, dtype=dtype, colormap=colormap, kind="mask", store=store)

    def _probabilities(self, target: Path | BinaryIO, store: Store) -> ImageWriter:
        dtype = np.dtype(self.config.probability_type)
        return ImageWriter(
            target, like=self.info, dtype=dtype, channels=self.classes, kind="probabilities", store=store
        )

    def _probability_rows(self, writer: ImageWriter) -> RowsOutput:
        rows = partial(_probability_rows, dtype=np.dtype(self.config.probability_type))
        return RowsOutput(writer, rows, wants_probabilities=True)

    def _overlays(self, store: Store) -> list[ImageWriter]:
        info, paths = self.info, self.destinations.overlays(self.info.pages)
        for path in paths if info.pages > 1 else []:
            if place_of(path) in self.destinations.taken:
                what = "a page of the overlay would replace it, an input or another output"
                raise UsageError(what, path=path, hint="--overlay takes another name")
        like = replace(info, pages=1, page_axes="", page_shape=())
        return [ImageWriter(path, like=like, dtype=np.uint8, channels=3, kind="overlay", store=store) for path in paths]


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
