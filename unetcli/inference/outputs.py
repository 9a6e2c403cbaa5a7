"""The results of a pass over an image: masks, probabilities, overlays and tables, each written as it comes."""

import csv
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from unetcli.dataset.labels import LabelCoding
from unetcli.errors import warn
from unetcli.images import ImageInfo, ImageWriter, PixelSize
from unetcli.images.atomic import atomic_path
from unetcli.images.mirror import Source
from unetcli.images.omezarr_encoder import Store
from unetcli.inference.predict import Band, Prepare

MOST_UINT16 = 65535
OUTLINE = (255, 64, 255)  # magenta: seen on gray by people who confuse red and green
OVERLAY_GAMMA = 0.7  # lifts the dark parts, where the outlines are to be judged


@dataclass(frozen=True)
class PageResult:
    """A whole page when it is done.

    Parameters
    ----------
    classes : class index of each pixel (H, W).
    objects : int32 (H, W), one id per object.
    pixels, prepare : the page as it was read, and its normalization.
    """

    page: int
    classes: NDArray[np.uint8]
    objects: NDArray[np.int32]
    pixels: Source
    prepare: Prepare


class Output(Protocol):
    """Something written from a prediction: band by band, or page by page."""

    wants_page: bool
    wants_probabilities: bool

    def write_band(self, band: Band) -> None:
        """Take rows of the present page."""

    def write_page(self, result: PageResult) -> None:
        """Take a page that is complete; called only if any output wants pages."""


class RowsOutput:
    """Rows that are written as soon as they are predicted: masks, classes, probabilities."""

    wants_page = False

    def __init__(self, writer: ImageWriter, rows: Callable[[Band], NDArray[Any]], *, wants_probabilities: bool) -> None:
        self.writer = writer
        self.rows = rows
        self.wants_probabilities = wants_probabilities

    def write_band(self, band: Band) -> None:
        """Write the band's rows."""
        self.writer.write_rows(self.rows(band))

    def write_page(self, result: PageResult) -> None:
        """Do nothing: the rows are written already."""


class InstancesOutput:
    """Ids of objects; written at the end, when the largest id is known, and kept compressed until then."""

    wants_page = True
    wants_probabilities = False

    def __init__(self) -> None:
        self.pages: list[bytes] = []
        self.largest = 0

    def write_band(self, band: Band) -> None:
        """Do nothing: objects are found on whole pages."""

    def write_page(self, result: PageResult) -> None:
        """Keep the page's objects."""
        self.pages.append(zlib.compress(result.objects.tobytes(), level=1))
        self.largest = max(self.largest, int(result.objects.max(initial=0)))

    def write(self, target: Path | BinaryIO, info: ImageInfo, store: Store) -> None:
        """Write all pages in the smallest unsigned type that instance masks are commonly read with."""
        dtype = np.uint16 if self.largest <= MOST_UINT16 else np.uint32
        if dtype == np.uint32:
            warn(f"{self.largest} objects on one page: their ids take 32 bits, which some programs cannot read")
        with ImageWriter(target, like=info, dtype=dtype, kind="mask", store=store) as writer:
            for page in self.pages:
                objects = np.frombuffer(zlib.decompress(page), np.int32).reshape(info.height, info.width)
                writer.write_rows(objects.astype(dtype))


class OverlayOutput:
    """Pictures of the image with the outlines of its objects, one PNG per page."""

    wants_page = True
    wants_probabilities = False

    def __init__(self, path: Path, pages: int) -> None:
        self.path = path
        self.pages = pages

    def write_band(self, band: Band) -> None:
        """Do nothing: outlines are drawn on whole pages."""

    def write_page(self, result: PageResult) -> None:
        """Write the page's picture."""
        from PIL import Image as Picture

        height, width = result.classes.shape
        picture = draw_overlay(result.prepare(result.pixels[0:height, 0:width]), result.objects)
        path = self.path if self.pages == 1 else self.path.with_stem(f"{self.path.stem}_{result.page:04d}")
        with atomic_path(path) as temporary:
            Picture.fromarray(picture).save(temporary, format="PNG")


class ObjectsOutput:
    """A table with a row per object, in pixels and in the image's unit."""

    wants_page = True
    wants_probabilities = False

    def __init__(self, pixel_size: PixelSize | None, classes: tuple[str, ...]) -> None:
        self.pixel_size = pixel_size
        self.classes = classes
        self.rows: list[dict[str, Any]] = []

    def write_band(self, band: Band) -> None:
        """Do nothing: objects are found on whole pages."""

    def write_page(self, result: PageResult) -> None:
        """Add the page's objects."""
        from skimage.measure import regionprops

        for region in regionprops(result.objects):  # type: ignore[no-untyped-call]
            y, x = region.centroid
            top, left, bottom, right = region.bbox
            row = {
                "page": result.page,
                "id": region.label,
                "class": self.classes[int(result.classes[tuple(region.coords[len(region.coords) // 2])])],
                "area": int(region.area),
                "centroid_y": round(y, 3),
                "centroid_x": round(x, 3),
                "top": top,
                "left": left,
                "bottom": bottom,
                "right": right,
            }
            if self.pixel_size is not None:
                size = self.pixel_size
                row[f"area_{size.unit}2"] = round(region.area * size.y * size.x, 6)
                row[f"centroid_y_{size.unit}"] = round(y * size.y, 6)
                row[f"centroid_x_{size.unit}"] = round(x * size.x, 6)
            self.rows.append(row)

    def write(self, path: Path) -> None:
        """Write the table as CSV; without objects it has its header only."""
        fields = ["page", "id", "class", "area", "centroid_y", "centroid_x", "top", "left", "bottom", "right"]
        text = io.StringIO()
        table = csv.DictWriter(text, fieldnames=list(self.rows[0]) if self.rows else fields, lineterminator="\n")
        table.writeheader()
        table.writerows(self.rows)
        with atomic_path(path) as temporary:
            temporary.write_text(text.getvalue(), encoding="utf-8")


@contextmanager
def open_outputs(
    destinations: Any, info: ImageInfo, coding: LabelCoding, classes: int, kind: str, store: Store
) -> Iterator[list[Output]]:
    """Yield the outputs of one input; each file takes its place when the block ends well, and none otherwise.

    Parameters
    ----------
    destinations : an `unetcli.inference.infer.Destinations`.
    kind : of the main output; "mask" is what the training masks were.
    store : how an OME-Zarr is stored.
    """
    outputs: list[Output] = []
    if kind == "mask":
        kind = "instances" if coding.task == "instances" else "mask"
    with ExitStack() as stack:

        def probabilities(target: Path | BinaryIO) -> RowsOutput:
            writer = ImageWriter(
                target, like=info, dtype=np.float32, channels=classes, kind="probabilities", store=store
            )
            stack.enter_context(writer)
            return RowsOutput(writer, _probability_rows, wants_probabilities=True)

        instances = InstancesOutput() if kind == "instances" else None
        if instances is not None:
            outputs.append(instances)
        elif kind == "probabilities":
            outputs.append(probabilities(destinations.main))
        else:
            coded = kind == "mask"
            dtype, colormap = (coding.dtype(), coding.colormap) if coded else (np.dtype(np.uint8), None)
            writer = ImageWriter(destinations.main, like=info, dtype=dtype, colormap=colormap, kind="mask", store=store)
            stack.enter_context(writer)
            encode = coding.encode if coded else np.asarray
            outputs.append(RowsOutput(writer, lambda band: encode(band.classes), wants_probabilities=False))
        if destinations.probabilities is not None:
            outputs.append(probabilities(destinations.probabilities))
        if destinations.overlay is not None:
            outputs.append(OverlayOutput(destinations.overlay, info.pages))
        table = ObjectsOutput(info.pixel_size, coding.classes) if destinations.objects is not None else None
        if table is not None:
            outputs.append(table)
        yield outputs
        if instances is not None:
            instances.write(destinations.main, info, store)
        if table is not None:
            table.write(destinations.objects)


def _probability_rows(band: Band) -> NDArray[np.float32]:
    assert band.probabilities is not None
    return band.probabilities.transpose(1, 2, 0)  # (K, h, W) -> (h, W, K)


def draw_overlay(image: NDArray[np.float32], objects: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Return an RGB picture (H, W, 3) of a normalized image (H, W, C) with the outlines of its objects."""
    from skimage.segmentation import find_boundaries

    channels = image if image.shape[2] == 3 else image[..., :1].repeat(3, axis=2)
    picture = (np.clip(channels, 0, 1) ** OVERLAY_GAMMA * 255).astype(np.uint8)
    outlines = find_boundaries(objects, mode="inner", connectivity=1)  # type: ignore[no-untyped-call]
    picture[outlines] = OUTLINE
    return picture
