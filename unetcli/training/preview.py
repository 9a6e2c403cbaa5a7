"""What training sees: a few patches with outlines, their weights, and their augmentations, as pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from unetcli.dataset.augmentation import NO_AUGMENTATION, Augmentation, sample_seed
from unetcli.dataset.labels import IGNORE
from unetcli.dataset.patches import PatchDataset
from unetcli.dataset.survey import Survey
from unetcli.errors import UsageError
from unetcli.images.atomic import InputPaths, atomic_path, check_writable
from unetcli.inference.outputs import draw_overlay
from unetcli.training.plan import Plan

if TYPE_CHECKING:
    from PIL.Image import Image as Picture
    from PIL.ImageDraw import ImageDraw

ROWS = 4
AUGMENTED = 2  # variations of a patch that are shown
LARGEST_PANEL, SMALLEST_PANEL = 388, 256  # pixels: larger patches are cropped, smaller ones enlarged
SCALE_COLORS = ((0, 0, 4), (81, 18, 124), (183, 55, 121), (252, 137, 97), (252, 253, 191))  # from dark to light, evenly
IGNORED_COLOR = (110, 125, 140)
GAP, LINE, BAR = 12, 24, 16  # of the whole picture, in pixels: between panels, a line of text, the scale's height
INK, PAPER = (30, 30, 30), (255, 255, 255)

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class PreviewRow:
    """One patch of one training image: pictures (n, n, 3) of one size.

    Parameters
    ----------
    name, caption : of the image; where the patch lies and what share of the image is foreground.
    image : the patch with the outlines of its mask; ignored pixels are tinted.
    weights : of its pixels in the loss, in the colors of `scale_colors`.
    augmented : variations of it with the outlines of theirs.
    """

    name: str
    caption: str
    image: Pixels
    weights: Pixels
    augmented: tuple[Pixels, ...]

    @property
    def layers(self) -> tuple[tuple[str, Pixels], ...]:
        """What each picture shows, and the picture."""
        varied = (("augmented" if not number else "again", pixels) for number, pixels in enumerate(self.augmented))
        return ("image and outlines", self.image), ("weights in the loss", self.weights), *varied


@dataclass(frozen=True)
class Preview:
    """Patches from all over the training data; the colors of the weights go from 0 to `largest_weight`."""

    rows: tuple[PreviewRow, ...]
    largest_weight: float


def preview(survey: Survey, decided: Plan, dataset: PatchDataset, rows: int = ROWS) -> Preview:
    """Return patches of training images, from the one with the least to the one with the most foreground."""
    every_share = survey.foreground_shares
    shares = [every_share[index] for index in decided.split.training]
    shown = [_Shown.draw(dataset, number, shares[number]) for number in _spread(shares, dataset.share, rows)]
    largest = max(float(each.weights.max()) for each in shown)
    return Preview(tuple(each.as_row(largest) for each in shown), largest)


def _spread(shares: Sequence[float], labelled: NDArray[np.float64], rows: int) -> list[int]:
    """Return images evenly from the ranking by foreground, of those without any at most one."""
    order = sorted((number for number in range(len(shares)) if labelled[number] > 0), key=lambda number: shares[number])
    empty = [number for number in order if shares[number] == 0]
    order = order[max(0, len(empty) - 1) :]
    ranks = np.linspace(0, len(order) - 1, min(rows, len(order))).round().astype(int)
    return [order[rank] for rank in ranks]


@dataclass(frozen=True)
class _Shown:
    """A patch before its weights are colored: images (n, n, C), labels and weights (n, n)."""

    name: str
    caption: str
    patches: tuple[tuple[NDArray[np.float32], NDArray[np.int32]], ...]
    weights: NDArray[np.float32]

    @staticmethod
    def draw(dataset: PatchDataset, number: int, share: float) -> "_Shown":
        sample, varied = dataset.samples[number], dataset.augmentation
        generator = np.random.default_rng(sample_seed(dataset.seed, 0, 1 + number))
        drawn_centre = dataset.centres[number].draw(varied.output_size, generator)
        y, x = map(partial(_inwards, varied.output_size), drawn_centre, sample.labels.shape)
        plain = Augmentation(NO_AUGMENTATION, patch_size=varied.patch_size, output_size=varied.output_size)
        drawn = [
            augment(sample.image, sample.labels, (y, x), int(generator.integers(2**63)), sample.intensity)
            for augment in (plain, *(varied,) * AUGMENTED)
        ]
        weights = dataset.weighting(drawn[0][1], dataset.task)[1]
        tinted = "; tinted pixels are ignored" if (drawn[0][1] == IGNORE).any() else ""
        place = f"around row {y:.0f}, column {x:.0f}; {share:.1%} of the image is foreground{tinted}"
        patches = tuple((_middle(patch, len(labels)), _middle(labels)) for patch, labels in drawn)
        return _Shown(sample.name, place, patches, _middle(weights))

    def as_row(self, largest: float) -> PreviewRow:
        image, *augmented = (_enlarged(_outlined(*patch)) for patch in self.patches)
        weights = scale_colors(self.weights / max(largest, 1e-9))
        weights[self.patches[0][1] == IGNORE] = IGNORED_COLOR
        return PreviewRow(self.name, self.caption, image, _enlarged(weights), tuple(augmented))


def _inwards(output_size: int, place: float, side: int) -> float:
    """Return a place on an axis around which a patch shows as little as can be outside the image."""
    half = (min(output_size, side) - 1) / 2
    return min(max(place, half), side - 1 - half)


def _middle(patch: NDArray[Any], size: int = LARGEST_PANEL) -> NDArray[Any]:
    """Return the middle of a patch (n, n[, C]), at most `size` and `LARGEST_PANEL` pixels wide."""
    wanted = min(size, LARGEST_PANEL, len(patch))
    first = (len(patch) - wanted) // 2
    return patch[first : first + wanted, first : first + wanted]


def _enlarged(picture: Pixels) -> Pixels:
    factor = -(-SMALLEST_PANEL // len(picture))
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def _outlined(image: NDArray[np.float32], labels: NDArray[np.int32]) -> Pixels:
    ids = np.pad(np.maximum(labels, 0), ((1, 1), (0, 0)), mode="edge")  # no outlines along the sides of a patch
    picture = draw_overlay(image, ids)
    ignored = labels == IGNORE
    picture[ignored] = picture[ignored] // 2 + np.array(IGNORED_COLOR, np.uint8) // 2
    return picture


def scale_colors(values: NDArray[np.floating[Any]]) -> Pixels:
    """Return values from 0 (dark) to 1 (light) as colors, uint8 (..., 3)."""
    places = np.linspace(0, 1, len(SCALE_COLORS))
    return np.stack([np.interp(values, places, part) for part in np.transpose(SCALE_COLORS)], axis=-1).astype(np.uint8)


def check_picture(path: Path, inputs: Sequence[Path]) -> None:
    """Raise unless a picture can be written to a path, and replaces no input.

    Raises
    ------
    UsageError : no PNG, or the path of an input.
    OutputError : it cannot be written.
    """
    if path.suffix.lower() != ".png":
        raise UsageError("a preview is a PNG", path=path, hint="--preview preview.png")
    check_writable(path, inputs=InputPaths(inputs))


def write_picture(path: Path, drawn: Preview) -> None:
    """Write all rows, with what they show and the scale of the weights, as a PNG.

    Raises
    ------
    OutputError : it cannot be written.
    """
    with atomic_path(path) as temporary:
        _picture_of(drawn).save(temporary, format="PNG")


def _picture_of(drawn: Preview) -> "Picture":
    from PIL import Image, ImageDraw

    panel = len(drawn.rows[0].image) + GAP
    row_height = LINE + panel + GAP
    columns = [name for name, _ in drawn.rows[0].layers]
    size = len(columns) * panel + GAP, LINE + GAP + len(drawn.rows) * row_height + BAR + 2 * LINE
    picture = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(picture)
    for number, name in enumerate(columns):
        _write(pen, (GAP + number * panel, GAP), name, bold=True)
    for number, row in enumerate(drawn.rows):
        top = LINE + GAP + number * row_height
        _write(pen, (GAP, top), f"{row.name}: {row.caption}")
        for column, (_, pixels) in enumerate(row.layers):
            picture.paste(Image.fromarray(pixels), (GAP + column * panel, top + LINE))
    _draw_scale(picture, pen, (GAP + panel, size[1] - BAR - 2 * LINE, panel - GAP), drawn.largest_weight)
    return picture


def _draw_scale(picture: "Picture", pen: "ImageDraw", place: tuple[int, int, int], largest: float) -> None:
    """Draw the colors of the weights at (left, top, width), with the weights that their ends mean."""
    from PIL import Image

    left, top, width = place
    bar = scale_colors(np.linspace(0, 1, width))[None].repeat(BAR, axis=0)
    picture.paste(Image.fromarray(bar), (left, top))
    for share, anchor in ((0.0, "la"), (0.5, "ma"), (1.0, "ra")):
        _write(pen, (left + int(share * (width - 1)), top + BAR + 4), f"{share * largest:.3g}", anchor=anchor)


def _write(pen: "ImageDraw", place: tuple[int, int], text: str, *, bold: bool = False, anchor: str = "la") -> None:
    """Write a line of text; bytes and control characters of file names become escapes."""
    from PIL import ImageFont

    shown = "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)
    pen.text(place, shown, fill=INK, font=ImageFont.load_default(14), anchor=anchor, stroke_width=0.4 if bold else 0)
