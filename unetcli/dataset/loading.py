"""From a pair of files to arrays: channels stacked, objects merged, masks decoded."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetcli.dataset.labels import LabelCoding
from unetcli.dataset.pairs import Pair
from unetcli.errors import InputError, told_before, warn
from unetcli.images import Image, ImageInfo, IntensityRange, intensity_range, open_image
from unetcli.images.axes import CHANNEL_AXES, check_axes
from unetcli.images.volumes import OpenVolumes

NOTHING: Mapping[Path, frozenset[int]] = {}
_AT_ONCE = OpenVolumes()  # keeps no file open


def load_pair(
    pair: Pair,
    coding: LabelCoding,
    axes: str | None = None,
    apart: Mapping[Path, frozenset[int]] = NOTHING,
    volumes: OpenVolumes = _AT_ONCE,
) -> tuple[NDArray[Any], IntensityRange, NDArray[np.int32]]:
    """Return the image (H, W, C) as stored, the range of its intensities, and the labels (H, W) of a pair.

    The range is that of the whole file, all its pages but those held `apart`, per channel. Nothing is said again that
    the survey said. Files are opened through `volumes`, of which those who read page after page have one.

    Raises
    ------
    InputError : a file cannot be read, or changed since it was surveyed.
    """
    image, intensity = read_image(pair, axes, apart, volumes)
    with told_before():
        raw, _ = read_mask(pair, coding.opened_as, axes, volumes)
    labels = coding.decode(raw, pair.masks[0])
    if labels.shape != image.shape[:2]:
        raise size_mismatch(pair, image.shape, labels.shape)
    return image, intensity, labels


def size_mismatch(pair: Pair, image: tuple[int, ...], mask: tuple[int, ...]) -> InputError:
    """Return the error of a mask (H, W) that has not the size of its image (H, W, C)."""
    turned = tuple(image[:2]) == tuple(mask[1::-1])
    return InputError(
        f"image {image[1]}x{image[0]}, mask {mask[1]}x{mask[0]} ({pair.masks[0]})",
        path=pair.images[0],
        hint="turn the mask" if turned else "export the mask again in the size of the image",
    )


def read_image(
    pair: Pair,
    axes: str | None = None,
    apart: Mapping[Path, frozenset[int]] = NOTHING,
    volumes: OpenVolumes = _AT_ONCE,
) -> tuple[NDArray[Any], IntensityRange]:
    """Return a page of an image (H, W, C), the channels of several files one after the other, and its range.

    Parameters
    ----------
    apart : the pages of each file that do not count in the range.
    """
    pixels, ranges = [], []
    for path in pair.images:
        with told_before(), volumes.open(open_pages, path, axes, pair.only) as image:
            pixels.append(image.page(pair.page or 0)[:])
            alone = intensity_range(image) if image.info.pages == 1 else None
        held = apart.get(path, frozenset())
        ranges.append(alone or _stack_range(path, axes, held, pair.only, path.stat().st_mtime_ns))
    total = ranges[0]
    for more in ranges[1:]:
        total = total + more
    return stack_channels(pixels, pair), total


@lru_cache(maxsize=1024)
def _stack_range(
    path: Path, axes: str | None, apart: frozenset[int], only: range | None, changed: int
) -> IntensityRange:
    """Return the range of a file of several pages, which is wanted once per page.

    Where some that are not used differ in size, or are damaged, those that are decide, with a warning.
    """
    try:
        with told_before(), open_pages(path, axes) as image:
            return intensity_range(image, without=apart)
    except InputError as error:
        if only is None:
            raise
        warn(f"{error.message}: the selected pages alone decide how bright is bright", path=error.path)
    with told_before(), open_pages(path, axes, only) as image:
        return intensity_range(image, without=apart | (set(range(image.info.pages)) - set(only)))


def open_pages(path: Path, axes: str | None = None, only: range | None = None) -> Image:
    """Return an open image, of which `only` some pages will be read."""
    return open_image(path, axes, only=only)


def stack_channels(pixels: list[NDArray[Any]], pair: Pair) -> NDArray[Any]:
    """Return the pages of the channel files of a pair as one array (H, W, C)."""
    if len(pixels) == 1:
        return pixels[0]
    for path, page in zip(pair.images, pixels, strict=True):
        if page.shape[:2] != pixels[0].shape[:2]:
            raise InputError(
                f"{page.shape[1]}x{page.shape[0]}, but {pair.images[0].name} has "
                f"{pixels[0].shape[1]}x{pixels[0].shape[0]}",
                path=path,
                hint="save all channels of an image in one size",
            )
    return np.concatenate(pixels, axis=2)


def open_mask(path: Path, opened_as: str = "indices", axes: str | None = None, only: range | None = None) -> Image:
    """Return an open mask; `axes` of the images are its own, without channels, where it has as many."""
    mask = open_image(path, palette=opened_as, only=only)
    letters = "".join(letter for letter in check_axes(axes) if letter not in CHANNEL_AXES) if axes else ""
    if len(letters) == len(mask.info.file_shape) and letters != mask.info.axes:
        mask.close()
        return open_image(path, letters, opened_as, only=only)
    return mask


def read_mask(
    pair: Pair, opened_as: str = "indices", axes: str | None = None, volumes: OpenVolumes = _AT_ONCE
) -> tuple[NDArray[Any], ImageInfo | None]:
    """Return a page of a mask (H, W, C) and its header; the ids (H, W) of objects where each has a file of its own."""
    if pair.objects:
        return merge_objects(pair.masks), None
    with volumes.open(open_mask, pair.masks[0], opened_as, axes, pair.only) as mask:
        page = pair.page if pair.mask_page is None else pair.mask_page
        return mask.page(page or 0)[:], mask.info


def files_at_once(pairs: Sequence[Pair]) -> int:
    """Return how many files a page of any of the pairs is read from."""
    return max((len(pair.images) + (0 if pair.objects else 1) for pair in pairs), default=0)


def merge_objects(paths: tuple[Path, ...]) -> NDArray[np.int32]:
    """Return the ids (H, W) of objects that lie in a file each: 1 for the first; the last one where they overlap.

    Raises
    ------
    InputError : the files differ in size.
    """
    merged: NDArray[np.int32] | None = None
    for number, path in enumerate(paths, start=1):
        with open_image(path, palette="indices") as image:
            inside = image.page(0)[:].any(axis=2)
        if merged is None:
            merged = np.zeros(inside.shape, dtype=np.int32)
        if inside.shape != merged.shape:
            raise InputError(
                f"{inside.shape[1]}x{inside.shape[0]}, but {paths[0].name} has {merged.shape[1]}x{merged.shape[0]}",
                path=path,
                hint="save all objects of an image in the size of the image",
            )
        merged[inside] = number
    assert merged is not None
    return merged
