"""From classes to objects: connected components that get their ridges back, found in bands of rows.

A page passes twice. While it is predicted, every band is cut into components, whose numbers go to a scratch file. Then
the components of all bands are joined, and the numbers are read once more, band by band: small objects leave, ridges
and holes find their objects, and objects are measured. What stays in memory are a few rows, and some numbers for each
object.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse

from unetcli.images.atomic import writing_failed
from unetcli.inference.holes import HoleFinder
from unetcli.inference.measures import Measures, measure

RIDGE_RADIUS = 2  # pixels: training parts touching cells by ridges two pixels wide, one from either side
BAND = 1 << 20  # pixels looked at together
_ITEM = np.dtype(np.int32).itemsize
_REACH = range(-RIDGE_RADIUS, RIDGE_RADIUS + 1)
NEAREST_FIRST = sorted(  # (y, x) of the disc around a pixel; of equally near ones the first in reading order
    ((y, x) for y in _REACH for x in _REACH if 0 < y * y + x * x <= RIDGE_RADIUS**2),
    key=lambda place: (place[0] ** 2 + place[1] ** 2, place),
)


class Rows(Protocol):
    """Numbers of the pixels of a page, int32 (H, W), that are read and written by rows: an array, or a file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Height and width."""

    def __getitem__(self, rows: slice) -> NDArray[np.int32]: ...

    def __setitem__(self, rows: slice, numbers: NDArray[np.int32]) -> None: ...


class FileRows:
    """Rows (H, W) of page `page` of a scratch file.

    Parameters
    ----------
    target : what an error names, when the disk is full.
    """

    def __init__(self, file: BinaryIO, shape: tuple[int, int], page: int, target: Path) -> None:
        self.file = file
        self.shape = shape
        self.start = page * shape[0] * shape[1] * _ITEM
        self.target = target

    def __getitem__(self, rows: slice) -> NDArray[np.int32]:
        top, bottom, _ = rows.indices(self.shape[0])
        with self._at(top):
            data = self.file.read((bottom - top) * self.shape[1] * _ITEM)
        return np.frombuffer(data, np.int32).reshape(bottom - top, self.shape[1])

    def __setitem__(self, rows: slice, numbers: NDArray[np.int32]) -> None:
        with self._at(rows.start):
            self.file.write(numbers.tobytes())

    @contextmanager
    def _at(self, row: int) -> Iterator[None]:
        height, width = self.shape
        try:
            self.file.seek(self.start + row * width * _ITEM)
            yield
        except OSError as error:
            raise writing_failed(error, self.target, height * width * _ITEM) from error


@dataclass(frozen=True)
class PageObjects:
    """The objects of a page, numbered from 1 in the order of their first pixels.

    Parameters
    ----------
    rows : a number for each pixel, and `ids`, the object of each number, 0 for background.
    measures : of the objects, in order.
    classes : class index of each object.
    """

    rows: Rows
    ids: NDArray[np.int32]
    measures: Measures
    classes: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.classes)

    def bands(self, halo: int = 0) -> Iterator[tuple[int, NDArray[np.int32]]]:
        """Yield the first row and the ids (h, W) of bands, with `halo` more rows on both sides, the last repeated."""
        height, _ = self.rows.shape
        for top, bottom in _bands_of(self.rows):
            ids = self.ids[self.rows[max(0, top - halo) : bottom + halo]]
            missing = max(0, halo - top), max(0, bottom + halo - height)
            yield top, np.pad(ids, (missing, (0, 0)), mode="edge") if halo else ids


class ObjectFinder:
    """Takes the classes of a page from top to bottom, and tells its objects at the end.

    Objects are the 4-connected components of each foreground class: a ridge may run diagonally.

    Parameters
    ----------
    rows : where the numbers of pixels are kept.
    min_size : components of fewer pixels are left out.
    fill_holes : whether background that an object encloses becomes a part of it, of the innermost where it has several.
    give_back_ridges : whether background pixels that lie between two objects, within `RIDGE_RADIUS` pixels of both,
        go to the nearest of them, as training took such ridges away.
    """

    def __init__(
        self, rows: Rows, *, min_size: int = 0, fill_holes: bool = False, give_back_ridges: bool = True
    ) -> None:
        self.rows = rows
        self.min_size = min_size
        self.fill_holes = fill_holes
        self.give_back_ridges = give_back_ridges
        self.row = 0
        self.count = 0  # components so far; those of different bands may be parts of one object
        self.areas: list[NDArray[np.int64]] = []
        self.classes: list[NDArray[np.uint8]] = []
        self.joins: list[NDArray[np.int32]] = []  # (2, n) components of neighboring rows that belong together
        self.last: tuple[NDArray[np.uint8], NDArray[np.int32]] | None = None

    def add(self, classes: NDArray[np.uint8]) -> None:
        """Take the class indices (h, W) of the next rows."""
        step = _rows_at_once(classes.shape[1])
        for top in range(0, len(classes), step):
            self._add(classes[top : top + step])

    def _add(self, classes: NDArray[np.uint8]) -> None:
        numbers = np.zeros(classes.shape, np.int32)
        for index in range(1, int(classes.max(initial=0)) + 1):
            parts, found = ndimage.label(classes == index)
            np.add(parts, self.count, out=numbers, where=parts > 0)
            self.areas.append(np.bincount(parts.ravel(), minlength=found + 1)[1:])
            self.classes.append(np.full(found, index, np.uint8))
            self.count += found
        if self.last is not None:
            above, numbers_above = self.last
            joined = (above == classes[0]) & (above > 0)
            self.joins.append(np.unique(np.stack([numbers_above[joined], numbers[0][joined]]), axis=1))
        self.last = classes[-1].copy(), numbers[-1].copy()
        self.rows[self.row : self.row + len(numbers)] = numbers
        self.row += len(numbers)

    def finish(self) -> PageObjects:
        """Return the objects, when all rows have been added."""
        assert self.row == self.rows.shape[0]
        objects, classes = self._joined()
        holes = HoleFinder(len(classes)) if self.fill_holes else None
        parts = []
        for top, numbers in self._settled(objects):
            if holes is not None:
                numbers = holes.add(numbers)
            parts.append(measure(numbers, top))
            self.rows[top : top + len(numbers)] = numbers
        owners = np.arange(len(classes) + 1, dtype=np.int32) if holes is None else holes.owners()
        measures = Measures.joined(parts).of(owners)  # every object has kept its pixels, so there is one row for each
        order = np.argsort(measures.first)
        ids = np.zeros(len(classes) + 1, np.int32)
        ids[order + 1] = np.arange(1, len(order) + 1)
        return PageObjects(self.rows, ids[owners], measures.at(order), classes[order])

    def _joined(self) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        """Return the object of each component, 0 for what is none, and the class of each object."""
        areas = np.concatenate([np.zeros(1, np.int64), *self.areas])  # component 0 is background
        classes = np.concatenate([np.zeros(1, np.uint8), *self.classes])
        joins = np.concatenate([np.zeros((2, 0), np.int32), *self.joins], axis=1)
        graph = sparse.coo_array((np.ones(joins.shape[1], np.bool_), tuple(joins)), (len(areas),) * 2)
        _, group = sparse.csgraph.connected_components(graph, directed=False)
        kept = np.bincount(group, weights=areas) >= max(1, self.min_size)
        objects = np.where(kept, np.cumsum(kept), 0).astype(np.int32)[group]
        object_classes = np.zeros(int(kept.sum()) + 1, np.uint8)
        object_classes[objects] = classes
        return objects, object_classes[1:]

    def _settled(self, objects: NDArray[np.int32]) -> Iterator[tuple[int, NDArray[np.int32]]]:
        """Yield the first row and the objects (h, W) of bands, ridges given back; their rows may be overwritten."""
        above = np.zeros((RIDGE_RADIUS, self.rows.shape[1]), np.int32)
        for top, bottom in _bands_of(self.rows):
            read = objects[self.rows[top : bottom + RIDGE_RADIUS]]
            below = np.zeros((bottom + RIDGE_RADIUS - top - len(read), read.shape[1]), np.int32)
            block = np.concatenate([above, read, below])
            above = block[bottom - top : -RIDGE_RADIUS]
            if self.give_back_ridges:
                block = with_ridges(block)
            yield top, block[RIDGE_RADIUS:-RIDGE_RADIUS]


def find_objects(
    classes: NDArray[np.uint8], *, min_size: int = 0, fill_holes: bool = False, give_back_ridges: bool = True
) -> NDArray[np.int32]:
    """Return one id per object (H, W) of a page that lies in memory, see `ObjectFinder`."""
    rows = np.empty(classes.shape, np.int32)
    finder = ObjectFinder(rows, min_size=min_size, fill_holes=fill_holes, give_back_ridges=give_back_ridges)
    finder.add(classes)
    return finder.finish().ids[rows]


def with_ridges(objects: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the objects (H, W) grown into the background that lies within `RIDGE_RADIUS` pixels of two of them.

    Each such pixel goes to the nearest object, so outlines towards open background stay where they are.
    """
    padded = np.pad(objects, RIDGE_RADIUS)
    height, width = objects.shape
    inside = padded > 0
    near = np.zeros(objects.shape, np.bool_)
    for y, x in NEAREST_FIRST:
        near |= inside[RIDGE_RADIUS + y :, RIDGE_RADIUS + x :][:height, :width]
    rows, columns = np.nonzero(near & (objects == 0))
    places = (rows + RIDGE_RADIUS) * padded.shape[1] + columns + RIDGE_RADIUS
    flat = padded.ravel()
    nearest = np.zeros(len(places), np.int32)
    between = np.zeros(len(places), np.bool_)
    for y, x in NEAREST_FIRST:
        found = flat[places + (y * padded.shape[1] + x)]
        between |= (found > 0) & (nearest > 0) & (found != nearest)
        nearest = np.where(nearest > 0, nearest, found)
    grown = objects.copy()
    grown[rows[between], columns[between]] = nearest[between]
    return grown


def _rows_at_once(width: int) -> int:
    return max(1, BAND // width)


def _bands_of(rows: Rows) -> Iterator[tuple[int, int]]:
    """Yield the first row of each band, and the first one after it."""
    height, width = rows.shape
    step = _rows_at_once(width)
    for top in range(0, height, step):
        yield top, min(height, top + step)
