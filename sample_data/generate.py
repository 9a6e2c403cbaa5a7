"""Draw the sample images: fluorescent cells as a wide-field microscope shows them, with one instance id per cell.

    python sample_data/generate.py [FOLDER]

writes `train/`, `test/`, `scan.tif` and `scan_truth.tif` into FOLDER (default: the folder of this file). Every image
has its own seed. Everything is computed in float64 and rounded once, at the end, so that another version of a library,
which may differ in the last bit, moves at most single pixels by one gray value; the same versions write the same bytes.
"""

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import label, regionprops

Field = NDArray[np.float64]

PIXEL_SIZE = 0.5  # micrometres
APRON = 48  # pixels drawn around the image and cut off: cells and haze continue beyond its border
SMALLEST_CELL = 20  # pixels; what sticks into the image by less is not annotated
CAMERA_OFFSET = 100.0  # gray value of darkness
READ_NOISE = 5.0  # gray values

TRAIN = tuple(range(12))
TEST = tuple(range(12, 17))
TRAIN_SHAPE = (288, 288)
TEST_SHAPE = (320, 320)
SCAN_SHAPE = (1000, 1400)
SCAN_SEED = 100


@dataclass(frozen=True)
class Cell:
    """The outline and the look of one cell; lengths in pixels, angles in radians."""

    y: float
    x: float
    radius: float
    stretch: float  # long axis / short axis
    angle: float
    waves: tuple[tuple[int, float, float], ...]  # (order, amplitude, phase) of the outline
    brightness: float
    grain: float  # contrast of the texture
    nucleus: float  # share of light missing where the nucleus is; the stain is in the cytoplasm
    on_top: bool  # shines through its neighbours instead of ending where they begin

    def depth(self, y: Field, x: Field) -> Field:
        """Return how far inside the outline each point lies: 1 at the centre, 0 on the outline, negative outside."""
        along = (x - self.x) * math.cos(self.angle) + (y - self.y) * math.sin(self.angle)
        across = (y - self.y) * math.cos(self.angle) - (x - self.x) * math.sin(self.angle)
        distance = np.hypot(along / math.sqrt(self.stretch), across * math.sqrt(self.stretch))
        direction = np.arctan2(across, along)
        outline = 1.0 + sum(height * np.cos(order * direction + phase) for order, height, phase in self.waves)
        return 1.0 - distance / (self.radius * outline)

    def window(self, shape: tuple[int, int], reach: float = 1.45) -> tuple[slice, slice]:
        """Return the part of an image of `shape` within `reach` long half-axes of the centre: by default the cell."""
        far = reach * self.radius * math.sqrt(self.stretch) + 2
        rows = slice(max(int(self.y - far), 0), min(int(self.y + far) + 2, shape[0]))
        columns = slice(max(int(self.x - far), 0), min(int(self.x + far) + 2, shape[1]))
        return rows, columns


def clouds(rng: Generator, shape: tuple[int, int], scale: float) -> Field:
    """Return smooth noise of mean 0 and standard deviation 1 whose structures are about `scale` pixels wide."""
    coarse = max(int(scale / 4), 1)  # smooth noise needs few samples: draw it small, enlarge it
    small = tuple(-(-size // coarse) + 4 for size in shape)
    noise: Field = ndimage.gaussian_filter(rng.standard_normal(small), scale / coarse, mode="wrap")
    noise = ndimage.zoom(noise, coarse, order=1)[: shape[0], : shape[1]]
    noise -= noise.mean()
    noise /= noise.std()
    return noise


def draw_cell(rng: Generator, y: float, x: float, radius: float) -> Cell:
    """Return a cell of the given place and size with everything else drawn at random."""
    waves = tuple((order, rng.uniform(0, 0.16) / order**0.7, rng.uniform(0, 2 * math.pi)) for order in (2, 3, 4, 5))
    return Cell(
        y=y,
        x=x,
        radius=radius,
        stretch=1 + 0.8 * rng.random() ** 2,
        angle=rng.uniform(0, math.pi),
        waves=waves,
        brightness=0.8 * 4.0 ** rng.random(),  # from dim to four times as bright
        grain=rng.uniform(0.1, 0.3),
        nucleus=rng.uniform(0.1, 0.55),
        on_top=bool(rng.random() < 0.35),
    )


def draw_radius(rng: Generator) -> float:
    """Return a cell radius: mostly 9 to 16 pixels, some smaller or larger."""
    return float(np.clip(12 * math.exp(0.28 * rng.standard_normal()), 6, 24))


def place_cells(rng: Generator, shape: tuple[int, int], cover: float) -> list[Cell]:
    """Return cells that cover the share `cover` of the field, most of them in touch with a neighbour."""
    crowd = clouds(rng, shape, 40)  # where cells like to be
    taken = np.zeros(shape, bool)
    left = round(cover * taken.size)  # pixels still to be covered
    cells: list[Cell] = []
    while left > 0:
        radius = draw_radius(rng)
        if cells and rng.random() < 0.6:
            neighbour = cells[rng.integers(len(cells))]
            direction, gap = rng.uniform(0, 2 * math.pi), rng.uniform(0.85, 1.1) * (radius + neighbour.radius)
            y, x = neighbour.y + gap * math.sin(direction), neighbour.x + gap * math.cos(direction)
        else:
            y, x = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        cell = draw_cell(rng, y, x, radius)
        if not (0 <= y < shape[0] and 0 <= x < shape[1]) or crowd[int(y), int(x)] < rng.normal(-0.2, 0.7):
            continue
        window = cell.window(shape)
        inside = cell.depth(*grid(window)) > 0
        if taken[window][inside].mean() < 0.1:
            left -= int((inside & ~taken[window]).sum())
            taken[window] |= inside
            cells.append(cell)
    return cells


def grid(window: tuple[slice, slice]) -> tuple[Field, Field]:
    """Return the coordinates y (h, 1) and x (1, w) of the pixels of a window."""
    rows, columns = window
    y, x = np.ogrid[rows.start : rows.stop, columns.start : columns.stop]
    return y.astype(np.float64), x.astype(np.float64)


def owners(cells: list[Cell], shape: tuple[int, int]) -> NDArray[np.int32]:
    """Return for each pixel its cell, counted from 1; where outlines overlap, the one in which it lies deeper."""
    owner = np.zeros(shape, np.int32)
    deepest = np.zeros(shape)
    for number, cell in enumerate(cells, start=1):
        window = cell.window(shape)
        depth = cell.depth(*grid(window))
        here = depth > deepest[window]
        owner[window][here] = number
        deepest[window][here] = depth[here]
    return owner


def one_piece_each(ids: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the ids 1, 2, ... of the largest piece of each cell, without those below `SMALLEST_CELL`."""
    pieces = label(ids, connectivity=1)
    kept = np.zeros_like(ids)
    for piece in sorted(regionprops(pieces), key=lambda piece: piece.area):  # a larger piece comes later
        number = ids[tuple(piece.coords[0])]
        kept[kept == number] = 0
        if piece.area >= SMALLEST_CELL:
            kept[tuple(piece.coords.T)] = number
    relabelled: NDArray[np.int32] = np.searchsorted(np.union1d(kept, 0), kept).astype(np.int32)
    return relabelled


def cell_light(rng: Generator, cells: list[Cell], owner: NDArray[np.int32]) -> Field:
    """Return the light of the cells in focus: a dome with a crisp edge, a rim, granules, a darker nucleus."""
    fine, coarse = clouds(rng, owner.shape, 1.3), clouds(rng, owner.shape, 3)
    light = np.zeros(owner.shape)
    for number, cell in enumerate(cells, start=1):
        window = cell.window(owner.shape)
        depth = cell.depth(*grid(window))
        body = depth > 0 if cell.on_top else owner[window] == number
        inwards = ndimage.distance_transform_edt(np.pad(body, 1))[1:-1, 1:-1]  # pixels from the edge
        dome = 1 - 0.55 * np.exp(-inwards / (0.25 * cell.radius))
        rim = 0.35 * np.exp(-(((inwards - 2.5) / 1.3) ** 2))
        nucleus = cell.nucleus / (1 + np.exp(-(depth - 0.5) / 0.05))
        texture = 1 + cell.grain * (fine[window] + coarse[window])
        light[window] += np.where(body, cell.brightness * (dome + rim - nucleus) * np.maximum(texture, 0.2), 0)
    return light


def haze(rng: Generator, shape: tuple[int, int]) -> Field:
    """Return the light from outside the focal plane: a veil, autofluorescence, and cells far out of focus."""
    veil = 0.9 + 0.3 * clouds(rng, shape, 70) + 0.1 * clouds(rng, shape, 12) + 0.05 * clouds(rng, shape, 3)
    light = np.maximum(veil, 0.15)
    for _ in range(rng.poisson(shape[0] * shape[1] / 9000)):
        blob = draw_cell(rng, rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), rng.uniform(11, 24))
        window = blob.window(shape, reach=4)
        fall = 1.7 / rng.uniform(0.35, 0.6)  # a smooth step as wide as about half the radius
        light[window] += rng.uniform(0.5, 2.4) / (1 + np.exp(-fall * blob.depth(*grid(window))))
    return light


def debris(rng: Generator, shape: tuple[int, int]) -> Field:
    """Return the light of specks and short threads in focus, which are no cells."""
    light = np.zeros(shape)
    for _ in range(rng.poisson(shape[0] * shape[1] / 6000)):
        y, x = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        length, direction = rng.choice([0.0, rng.uniform(5, 16)], p=[0.75, 0.25]), rng.uniform(0, 2 * math.pi)
        bend, width, brightness = rng.uniform(-0.1, 0.1), rng.uniform(0.7, 1.6), rng.uniform(1, 5)
        for _ in range(int(length) + 1):  # a thread is a row of specks
            rows = slice(max(int(y) - 6, 0), max(int(y) + 7, 0))
            columns = slice(max(int(x) - 6, 0), max(int(x) + 7, 0))
            ys, xs = np.ogrid[rows, columns]
            spot = np.exp(-((ys - y) ** 2 + (xs - x) ** 2) / (2 * width**2))
            part = light[rows, columns]
            part += (brightness * spot / (1 + 0.5 * (length > 0)))[: part.shape[0], : part.shape[1]]
            y, x, direction = y + math.sin(direction), x + math.cos(direction), direction + bend
    return light


def illumination(rng: Generator, shape: tuple[int, int]) -> Field:
    """Return the lamp's light, 1 at its centre, which lies near a corner or side, falling to about a quarter."""
    height, width = shape
    angle = rng.uniform(0, 2 * math.pi)
    centre_y, centre_x = (0.5 + 0.4 * math.sin(angle)) * height, (0.5 + 0.4 * math.cos(angle)) * width
    y, x = grid((slice(0, height), slice(0, width)))
    squared = ((y - centre_y) / height) ** 2 + ((x - centre_x) / width) ** 2
    fall: Field = np.exp(-squared / (2 * rng.uniform(0.35, 0.45) ** 2))
    return 0.22 + 0.78 * fall


def blur(rng: Generator, light: Field) -> Field:
    """Return the image in a slightly tilted focal plane: sharp on one side, a little defocused on the other."""
    angle = rng.uniform(0, 2 * math.pi)
    y, x = np.linspace(-1, 1, light.shape[0])[:, None], np.linspace(-1, 1, light.shape[1])
    defocus = 0.5 + 0.5 * np.clip(y * math.sin(angle) + x * math.cos(angle), -1, 1)
    sharp: Field = ndimage.gaussian_filter(light, 0.9)
    soft: Field = ndimage.gaussian_filter(light, rng.uniform(1.3, 2.0))
    return (1 - defocus) * sharp + defocus * soft


def photograph(rng: Generator, light: Field) -> NDArray[np.uint16]:
    """Return the gray values of a camera: shot noise, read noise, offset; rounded here and nowhere before."""
    gain = rng.uniform(0.8, 1.2)  # gray values per photo-electron
    signal = light * rng.uniform(240, 420)
    noise = np.sqrt(gain * signal + READ_NOISE**2) * rng.standard_normal(light.shape)
    return np.clip(np.rint(CAMERA_OFFSET + signal + noise), 0, 65535).astype(np.uint16)


def draw(seed: int, shape: tuple[int, int]) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Return an image and its instance ids (0 = background), both uint16 of `shape`."""
    rng = np.random.default_rng(seed)
    canvas = (shape[0] + 2 * APRON, shape[1] + 2 * APRON)
    inner = (slice(APRON, -APRON), slice(APRON, -APRON))
    cells = place_cells(rng, canvas, cover=rng.uniform(0.28, 0.4))
    owner = owners(cells, canvas)
    scene = cell_light(rng, cells, owner) + haze(rng, canvas) + debris(rng, canvas)
    light = blur(rng, scene)[inner] * illumination(rng, shape)
    return photograph(rng, light), one_piece_each(owner[inner]).astype(np.uint16)


def save(path: Path, pixels: NDArray[np.uint16], shown: tuple[int, int]) -> None:
    """Write a losslessly compressed ImageJ TIFF with pixel size, in which Fiji shows the gray values `shown`.

    Without predictor: it would save a tenth, but ImageJ's own reader long undid it with LZW only, not with deflate.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    low, high = shown
    tifffile.imwrite(
        path,
        pixels,
        imagej=True,
        compression="zlib",
        compressionargs={"level": 9},
        resolution=(1 / PIXEL_SIZE, 1 / PIXEL_SIZE),
        metadata={"axes": "YX", "unit": "um", "min": low, "max": high},
        software="sample_data/generate.py",
    )


def plan() -> Iterator[tuple[str, str, int, tuple[int, int]]]:
    """Yield image path, mask path, seed and shape of every sample; paths are relative to the folder."""
    for split, numbers, shape in (("train", TRAIN, TRAIN_SHAPE), ("test", TEST, TEST_SHAPE)):
        for number in numbers:
            name = f"cell_{number:02}.tif"
            yield f"{split}/images/{name}", f"{split}/masks/{name}", number, shape
    yield "scan.tif", "scan_truth.tif", SCAN_SEED, SCAN_SHAPE


def generate(folder: Path) -> None:
    """Write all samples into `folder`."""
    for image_path, mask_path, seed, shape in plan():
        image, ids = draw(seed, shape)
        low, high = np.percentile(image, (0.1, 99.9))
        save(folder / image_path, image, (int(low), int(high)))
        save(folder / mask_path, ids, (0, int(ids.max())))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw the sample images.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent)
    generate(parser.parse_args().folder)
