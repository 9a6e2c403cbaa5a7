"""Which prediction belongs to which truth, whether they fit, and what values they hold."""

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetcli.dataset.examination import check_orientation
from unetcli.dataset.labels import is_gray, packed
from unetcli.dataset.pairs import Pairing, find_pairs, match_files
from unetcli.errors import InputError, UnetError, UsageError, raise_all
from unetcli.images import ImageInfo, PixelSize, open_image
from unetcli.images.files import is_there

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
    values : all of them in order, or the first `KEPT_VALUES`; whole numbers in three channels that are read as colors
        are 0xRRGGBB.
    least, largest : of all.
    whole : whether all are whole numbers.
    channels : per pixel.
    in_color : whether there are three channels, and they differ.
    dtype : of the pixels.
    """

    values: NDArray[Any]
    least: float
    largest: float
    whole: bool
    channels: int
    in_color: bool
    dtype: np.dtype[Any]


def data_set_at(truth: Path) -> Pairing | None:
    """Return the data set whose masks are the truth; None where the path is a mask or a folder of them."""
    if not (is_there(truth) and truth.is_dir()):
        return None
    try:
        return find_pairs(truth, allow_unpaired=True)
    except UnetError:
        return None


def pair_files(
    prediction: Path, truth: Path, data: Pairing | None = None, *, pages: range | None = None
) -> list[FilePair]:
    """Return the predictions with their truths, checked to have the same sizes and pages and to lie alike in space.

    Parameters
    ----------
    data : the data set that the truth is: its masks count, found by the names of its images or their own.

    Raises
    ------
    UsageError : a path is absent, pages that are not there.
    InputError : files without partner, unreadable files, what differs; all of them together. Each object has a mask
        of its own.
    """
    apart = next((pair for pair in (data.pairs if data else ()) if pair.objects), None)
    if apart is not None:
        raise InputError(
            f"has a mask for each object of an image ({len(apart.masks)} of {apart.name})",
            path=truth,
            hint="save the objects of each image in one mask, an id per object",
        )
    known = {} if data is None else {pair.masks[0]: (pair.name, pair.images[0]) for pair in data.pairs}
    names = {mask: name for mask, (name, _) in known.items()}
    problems: list[UnetError] = []
    pairs = []
    for name, prediction_path, truth_path in match_files(prediction, list(known) or truth, names=names):
        case, image = known.get(truth_path, (name, None))
        try:
            pairs.append(_check(case, prediction_path, truth_path, image, pages))
        except UnetError as error:
            problems.append(error)
    raise_all(problems)
    return pairs


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
        there = header_of(truth, wanted)
    else:
        asked = "" if pages is None else f", of which {len(pages)} were asked for"
        raise InputError(
            f"has {said.pages} pages, its truth {there.pages}{asked} ({truth})",
            path=prediction,
            hint="--pages A-B selects the pages of the truth that were predicted",
        )
    check_orientation(there, said, reference="truth")
    size = there.pixel_size or said.pixel_size
    if size is None and image is not None:
        with contextlib.suppress(UnetError):  # it is not scored
            info = header_of(image)
            size = info.pixel_size if (info.height, info.width) == (there.height, there.width) else None
    return FilePair(name, prediction, truth, image, predicted, wanted, size)


def header_of(path: Path, pages: range | None = None) -> ImageInfo:
    """Return what a mask file's header says, of some pages where they are named."""
    with open_image(path, palette="indices", pages=pages) as image:
        return image.info


def survey_values(files: Sequence[tuple[Path, Iterable[NDArray[Any]]]], *, opened_as: str = "indices") -> list[Values]:
    """Return what values each file holds on the pages that count, after decoding them all.

    Parameters
    ----------
    files : with the pages (H, W, C) that count, decoded as they are asked for.
    opened_as : how palettes are read, as `open_image` takes it.

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


def _values_of(path: Path, pages: Iterable[NDArray[Any]], opened_as: str) -> Values:
    found = [_values_on(raw, path, opened_as) for raw in pages]
    return Values(
        reduce(np.union1d, [page.values for page in found])[:KEPT_VALUES],
        min(page.least for page in found),
        max(page.largest for page in found),
        all(page.whole for page in found),
        found[-1].channels,
        any(page.in_color for page in found),
        found[-1].dtype,
    )


def _values_on(raw: NDArray[Any], path: Path, opened_as: str) -> Values:
    channels, dtype = raw.shape[2], raw.dtype
    if dtype.kind == "f" and not np.isfinite(raw).all():
        raise InputError(
            "has pixels that are no finite numbers", path=path, hint="a mask has a class or an object per pixel"
        )
    whole = dtype.kind != "f" or bool((raw == np.rint(raw)).all())
    in_color = channels == 3 and not is_gray(raw)
    if channels == 3 and opened_as != "indices" and dtype.kind != "f":
        raw = packed(raw, path)
    return Values(_distinct(raw), raw.min().item(), raw.max().item(), whole, channels, in_color, dtype)


def _distinct(raw: NDArray[Any]) -> NDArray[Any]:
    if raw.dtype in (np.uint8, np.uint16):
        return np.flatnonzero(np.bincount(raw.ravel())).astype(raw.dtype)[:KEPT_VALUES]
    return np.unique(raw)[:KEPT_VALUES]
