"""Looking into every file of a data set once, in parallel: what each pair is, and what is wrong with it."""

import hashlib
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from unetcli.dataset.arrangement import stem_of
from unetcli.dataset.loading import files_at_once, merge_objects, open_mask, open_pages, size_mismatch, stack_channels
from unetcli.dataset.maskvalues import MaskValues, count_values
from unetcli.dataset.names import natural_key
from unetcli.dataset.pairs import Pair
from unetcli.errors import InputError, Problems, UnetError, UnetWarning, UsageError, warn
from unetcli.images import Image, ImageInfo
from unetcli.images.threads import compute_threads
from unetcli.images.volumes import OpenVolumes

_PAGES_AT_ONCE = 8  # of a stack, per task: opening a file of many pages takes a while
_AXES = "XYZ"  # of a voxel in an affine
_ALIGNED = 0.5  # cosine between axes that run the same way
_OFF = 0.1  # voxels by which the places of image and mask may differ
_WAITING = 4  # tasks per worker that are queued

Input = TypeVar("Input")
Output = TypeVar("Output")


@dataclass(frozen=True, eq=False)
class Record:
    """What is known of a pair after it was decoded.

    Parameters
    ----------
    pair : one page of it.
    info : header of the (first) image file.
    shape : of the image: height, width, channels.
    mask : its values.
    image_hash, mask_hash : SHA-256 of the pixels, of type and shape; equal images have equal ones, whatever the format.
    """

    pair: Pair
    info: ImageInfo
    shape: tuple[int, int, int]
    mask: MaskValues
    image_hash: str
    mask_hash: str


def examine(
    pairs: Sequence[Pair],
    *,
    axes: str | None = None,
    pages: range | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Record], list[UnetError]]:
    """Return a record per page of every pair, in order, and all problems.

    Parameters
    ----------
    axes : of the images, in place of what the files say.
    pages : those of every stack that count; all where None.
    workers : threads; as many as may compute where None. Decoding, counting and hashing run side by side.
    progress : called with the number of files, and pages of long stacks, that are done and of all.
    """
    workers = workers or compute_threads()
    records: list[list[Record]] = []
    problems: list[UnetError] = []
    deferred: list[tuple[int, Sequence[Pair]]] = []
    done, total = 0, len(pairs)

    def advance(more: int) -> None:
        nonlocal done
        done += more
        if progress is not None:
            progress(done, total)

    kept_open = workers * files_at_once(pairs)  # with fewer, others would close those of a thread that lags behind
    with _warnings_together(), closing(OpenVolumes(kept_open)) as volumes:

        def begin(pair: Pair) -> tuple[tuple[list[Record], list[Sequence[Pair]]] | None, list[UnetError]]:
            return _attempt(lambda: _examine(pair, axes, pages, volumes))

        for found, errors in _in_parallel(begin, pairs, workers):
            decoded, later = found or ([], [])
            deferred += [(len(records), part) for part in later]
            records.append(decoded)
            problems += errors
            total += max(0, sum(map(len, later)) - 1)
            advance(0 if later else 1)
        parts = [part for _, part in deferred]
        results = _in_parallel(lambda part: _attempt(lambda: _decode_all(part, axes, volumes)), parts, workers)
        for (number, part), (decoded_part, errors) in zip(deferred, results, strict=True):
            records[number] += decoded_part or []
            problems += errors
            advance(len(part))
    once = {(problem.path, problem.message): problem for problem in problems}  # each part of a stack tells those of all
    return [record for several in records for record in several], list(once.values())


@contextmanager
def _warnings_together() -> Iterator[None]:
    """Say once, at the end, what is said of several files, and of which; the order is that of their names."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    places: dict[str, set[str]] = {}
    for each in caught:
        if isinstance(each.message, UnetWarning) and each.message.path is not None:
            places.setdefault(each.message.message, set()).add(str(each.message.path))
        else:
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    told = [(sorted(paths, key=natural_key), message) for message, paths in places.items()]
    for paths, message in sorted(told, key=lambda entry: natural_key(entry[0][0])):
        warn(message, path=paths[0] + (f" and {len(paths) - 1} more" if len(paths) > 1 else ""))


def pixel_hash(pixels: NDArray[Any]) -> str:
    """Return the SHA-256, in hexadecimal, of an array: equal for equal pixels of equal type and shape."""
    digest = hashlib.sha256(f"{pixels.dtype.str[1:]}{pixels.shape}".encode())
    digest.update(np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder("<"), copy=False)).data)
    return digest.hexdigest()


def _in_parallel(function: Callable[[Input], Output], items: Iterable[Input], workers: int) -> Iterator[Output]:
    """Yield the results in order; only a few tasks wait at a time, so that memory does not grow with their number."""
    if workers == 1:
        yield from map(function, items)
        return
    executor = ThreadPoolExecutor(workers)
    pending: deque[Future[Output]] = deque()
    try:
        for item in items:
            pending.append(executor.submit(function, item))
            if len(pending) >= _WAITING * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        executor.shutdown(cancel_futures=True)


def _attempt(work: Callable[[], Output]) -> tuple[Output | None, list[UnetError]]:
    try:
        return work(), []
    except Problems as error:
        return None, list(error.problems)
    except UnetError as error:
        return None, [error]


def _examine(
    pair: Pair, axes: str | None, pages: range | None, volumes: OpenVolumes
) -> tuple[list[Record], list[Sequence[Pair]]]:
    """Return the records of a pair, or the parts in which a long stack is to be decoded."""
    parts = list(_parts(_select_pages(pair, axes, pages, volumes)))
    return (_decode_all(parts[0], axes, volumes), []) if len(parts) == 1 else ([], parts)


def _select_pages(pair: Pair, axes: str | None, pages: range | None, volumes: OpenVolumes) -> list[Pair]:
    """Return a pair for each page that counts, after a look at the headers.

    Raises
    ------
    InputError : a header cannot be read; image and mask differ in their pages.
    UsageError : pages that the file does not have.
    """
    counts = []
    only = pages if pair.page is None else None
    for path in pair.images:
        with volumes.open(open_pages, path, axes, only) as image:
            counts.append(image.info.pages)
    with volumes.open(open_mask, pair.masks[0], "indices", axes, only) as mask:
        mask_pages = mask.info.pages
    count = counts[0]
    if len(set(counts)) > 1:
        raise InputError(
            f"{count} pages, {pair.images[1].name} has {counts[1]}", path=pair.images[0], hint="save all channels alike"
        )
    if pair.page is not None:
        if pair.page >= count:
            raise InputError(
                f"{count} pages, but {pair.masks[0].name} is the mask of page {pair.page}",
                path=pair.images[0],
                hint="correct the name of the mask; slices count from 0",
            )
        return [pair]
    if mask_pages != count:
        raise InputError(
            f"{count} pages, its mask has {mask_pages} ({pair.masks[0]})",
            path=pair.images[0],
            hint="--axes names the axes where they were misread; else export the mask again",
        )
    if pages is not None and (pages.start < 0 or pages.stop > count):
        raise UsageError(
            f"pages {pages[0]}-{pages[-1]} were asked for, the file has {count}",
            path=pair.images[0],
            hint=f"--pages 0-{count - 1} are all",
        )
    if count == 1:
        return [replace(pair, page=0)]
    extension = pair.images[0].name[len(stem_of(pair.images[0])) :]
    return [
        replace(pair, page=page, name=f"{pair.name}{extension}[{page}]", only=only) for page in pages or range(count)
    ]


def _parts(pages: Sequence[Pair]) -> Iterator[Sequence[Pair]]:
    for first in range(0, len(pages), _PAGES_AT_ONCE):
        yield pages[first : first + _PAGES_AT_ONCE]


def _decode_all(pairs: Sequence[Pair], axes: str | None, volumes: OpenVolumes) -> list[Record]:
    """Return the records of some pages of one pair of files.

    Raises
    ------
    UnetError : all problems of these pages.
    """
    first = pairs[0]
    with ExitStack() as stack:
        images = [stack.enter_context(volumes.open(open_pages, path, axes, first.only)) for path in first.images]
        mask = None
        if not first.objects:
            mask = stack.enter_context(volumes.open(open_mask, first.masks[0], "indices", axes, first.only))
            check_orientation(images[0].info, mask.info)
        return [_decode(pair, images, mask) for pair in pairs]


def check_orientation(image: ImageInfo, mask: ImageInfo, *, reference: str = "image") -> None:
    """Refuse a mask that lies mirrored or turned in space against its image; warn where it only lies elsewhere.

    Parameters
    ----------
    reference : what the image is to the mask, for messages.

    Raises
    ------
    InputError : columns, rows or slices of the two run in different directions.
    """
    if image.orientation is None or mask.orientation is None:
        return
    there, drawn = np.array(image.orientation), np.array(mask.orientation)
    lengths = np.linalg.norm(there[:3, :3], axis=0)
    if np.allclose(there, drawn, rtol=0, atol=_OFF * lengths.max()):
        return
    with np.errstate(all="ignore"):
        cosines = (there[:3, :3] / lengths).T @ (drawn[:3, :3] / np.linalg.norm(drawn[:3, :3], axis=0))
    letters = "YX" if image.pages == 1 else "YXZ"
    turned = [letter for letter in letters if not cosines[_AXES.index(letter), _AXES.index(letter)] > _ALIGNED]
    if turned:
        names = ", ".join({"X": "columns", "Y": "rows", "Z": "slices"}[letter] for letter in turned)
        raise InputError(
            f"its {names} run in other directions in space than those of its {reference} ({image.path})",
            path=mask.path,
            hint=f"save the mask on the grid of its {reference}, with the same affine",
        )
    warn(f"lies elsewhere in space than its {reference} ({image.path}); pixels are paired as stored", path=mask.path)


def _decode(pair: Pair, images: Sequence[Image], mask: Image | None) -> Record:
    page = pair.page or 0
    pixels = stack_channels([image.page(page)[:] for image in images], pair)
    if mask is not None:
        raw = mask.page(page if pair.mask_page is None else pair.mask_page)[:]
    else:
        raw = merge_objects(pair.masks)
    if raw.shape[:2] != pixels.shape[:2]:
        raise size_mismatch(pair, pixels.shape, raw.shape)
    _look_at_pixels(pixels, pair, alone=images[0].info.pages == 1)
    values = count_values(
        raw,
        pair.masks[0],
        colormap=mask.info.colormap if mask is not None else None,
        lossy=mask is not None and mask.info.format == "jpeg",
    )
    height, width, channels = pixels.shape
    return Record(pair, images[0].info, (height, width, channels), values, pixel_hash(pixels), pixel_hash(raw))


def _look_at_pixels(pixels: NDArray[Any], pair: Pair, *, alone: bool) -> None:
    """Refuse an image without a finite pixel; warn of some that are not finite, and of a constant image.

    A stack may have pages without either: its range of intensities is that of all pages.

    Raises
    ------
    InputError : no pixel is finite.
    """
    place = pair.images[0] if alone else f"{pair.images[0]}[{pair.page}]"
    if pixels.dtype.kind == "f":
        finite = np.isfinite(pixels)
        lost = int(finite.size - np.count_nonzero(finite))
        if lost == finite.size and alone:
            raise InputError("all pixels are NaN or infinite", path=place, hint="save the image again")
        if lost:
            share = 100 * lost / finite.size
            warn(f"{lost} of {finite.size} pixels ({share:.2g} %) are not finite; they take the median", path=place)
            pixels = pixels[finite]
    if alone and pixels.min() == pixels.max():
        warn(f"constant image (value {pixels.flat[0]:g})", path=place)
