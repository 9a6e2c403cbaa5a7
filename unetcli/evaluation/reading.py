"""Which prediction belongs to which truth, whether they fit, and what values they hold."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetcli.dataset.pairs import find_pairs, match_files
from unetcli.errors import InputError, UnetError, UsageError, raise_all
from unetcli.images import ImageInfo, PixelSize, open_image

KEPT_VALUES = 4096  # of one file; whoever has more is no table of classes


@dataclass(frozen=True)
class FilePair:
    """A prediction file and its truth, with the pages that belong together.

    Parameters
    ----------
    name : of the case.
    prediction, truth : the files.
    image : what was segmented, where that is known.
    prediction_pages, truth_pages : page by page; as long as each other.
    pixel_size : from the truth, the prediction or the image; None where none states one.
    """

    name: str
    prediction: Path
    truth: Path
    image: Path | None
    prediction_pages: range
    truth_pages: range
    pixel_size: PixelSize | None


@dataclass(frozen=True)
class Values:
    """What a mask file holds.

    Parameters
    ----------
    values : all of them in order, or the first `KEPT_VALUES`.
    whole : whether all are whole numbers.
    channels : per pixel.
    dtype : of the pixels.
    """

    values: NDArray[Any]
    whole: bool
    channels: int
    dtype: np.dtype[Any]


def pair_files(prediction: Path, truth: Path, *, pages: range | None = None) -> list[FilePair]:
    """Return the predictions with their truths, checked to have the same sizes and pages.

    A truth folder may be a whole data set: then its masks are the truth, and its images are known too.

    Raises
    ------
    UsageError : a path is absent, pages that are not there.
    InputError : files without partner, unreadable files, sizes or pages that differ; all of them together.
    """
    known: dict[Path, tuple[str, Path]] = {}
    truths: Path | list[Path] = truth
    if truth.is_dir():
        known = _images_by_mask(truth)
        truths = list(known) or truth
    problems: list[UnetError] = []
    pairs = []
    for name, prediction_path, truth_path in match_files(prediction, truths):
        case, image = known.get(truth_path, (name, None))
        try:
            pairs.append(_check(case, prediction_path, truth_path, image, pages))
        except UnetError as error:
            problems.append(error)
    raise_all(problems)
    return pairs


def _images_by_mask(folder: Path) -> dict[Path, tuple[str, Path]]:
    """Return name and image of each mask of a data set; nothing where the folder is not one."""
    try:
        pairing = find_pairs(folder, allow_unpaired=True)
    except UnetError:
        return {}
    return {
        pair.masks[0]: (pair.name, pair.images[0]) for pair in pairing.pairs if len(pair.masks) == len(pair.images) == 1
    }


def _check(name: str, prediction: Path, truth: Path, image: Path | None, pages: range | None) -> FilePair:
    if prediction.resolve() == truth.resolve():
        raise UsageError("is named as prediction and as truth", path=prediction, hint="unet evaluate PREDICTION TRUTH")
    said, there = header_of(prediction), header_of(truth)
    if (said.height, said.width) != (there.height, there.width):
        raise InputError(
            f"is {said.height} x {said.width} pixels, its truth {there.height} x {there.width} ({truth})",
            path=prediction,
            hint="predict the images that the truth was drawn on",
        )
    if pages is not None and pages[-1] >= there.pages:
        raise UsageError(
            f"pages {pages[0]}-{pages[-1]} were asked for, the truth has {there.pages}",
            path=truth,
            hint=f"--pages 0-{there.pages - 1} are all",
        )
    wanted = range(there.pages) if pages is None else pages
    if said.pages == there.pages:
        predicted = wanted
    elif said.pages == len(wanted):
        predicted = range(said.pages)
    else:
        asked = "" if pages is None else f", of which {len(pages)} were asked for"
        raise InputError(
            f"has {said.pages} pages, its truth {there.pages}{asked} ({truth})",
            path=prediction,
            hint="--pages A-B selects the pages of the truth that were predicted",
        )
    size = there.pixel_size or said.pixel_size or (header_of(image).pixel_size if image is not None else None)
    return FilePair(name, prediction, truth, image, predicted, wanted, size)


def header_of(path: Path) -> ImageInfo:
    """Return what a mask file's header says."""
    with open_image(path, palette="indices") as image:
        return image.info


def survey_values(files: Sequence[tuple[Path, range]], *, opened_as: str = "indices") -> list[Values]:
    """Return what values each file holds on the pages that count, after decoding them all.

    Parameters
    ----------
    files : with the pages that count.
    opened_as : how palettes are read, "indices" or "colors".

    Raises
    ------
    InputError : damaged files, all of them together.
    """
    found, problems = [], []
    for path, pages in files:
        try:
            found.append(_values_of(path, pages, opened_as))
        except UnetError as error:
            problems.append(error)
    raise_all(problems)
    return found


def _values_of(path: Path, pages: range, opened_as: str) -> Values:
    values: NDArray[Any] | None = None
    whole, channels, dtype = True, 1, np.dtype(np.uint8)
    for raw in _pages_of(path, pages, opened_as):
        channels, dtype = raw.shape[2], raw.dtype
        new = _distinct(raw)
        if dtype.kind == "f":
            if not np.isfinite(new).all():
                raise InputError(
                    "has pixels that are no finite numbers", path=path, hint="a mask has a class or an object per pixel"
                )
            whole = whole and bool(np.all(new == np.rint(new)))
        values = new if values is None else np.union1d(values, new)[:KEPT_VALUES]
    assert values is not None
    return Values(values, whole, channels, dtype)


def _pages_of(path: Path, pages: range, opened_as: str) -> Iterator[NDArray[Any]]:
    with open_image(path, palette=opened_as) as image:
        for page in pages:
            yield image.page(page)[:]


def _distinct(raw: NDArray[Any]) -> NDArray[Any]:
    if raw.dtype in (np.uint8, np.uint16):
        return np.flatnonzero(np.bincount(raw.ravel())).astype(raw.dtype)[:KEPT_VALUES]
    return np.unique(raw)[:KEPT_VALUES]
