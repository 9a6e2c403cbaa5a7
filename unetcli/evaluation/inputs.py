"""From what the user named to pages that can be scored."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetcli.dataset.labels import LabelCoding
from unetcli.dataset.maskvalues import MaskValues, count_values
from unetcli.dataset.pairs import Pairing
from unetcli.errors import InputError, UnetError, raise_all
from unetcli.evaluation.coding import PredictionCoding, decide_task, prediction_coding, truth_coding
from unetcli.evaluation.evaluate import PageJob
from unetcli.evaluation.overlays import to_gray_levels
from unetcli.evaluation.reading import FilePair, data_set_at, pair_files, survey_values
from unetcli.evaluation.records import LabelledPage
from unetcli.images import PixelSize, intensity_range, normalize, open_image
from unetcli.images.volumes import OpenVolumes
from unetcli.metrics.partition import connected


@dataclass(frozen=True)
class Inputs:
    """Everything that is known before the first page is scored.

    Parameters
    ----------
    task : "binary", "classes", "instances" or "membranes".
    coding : of the truth.
    jobs : the pages.
    unit : of distances.
    notes : how the files were read.
    data : the data set that the truth is part of, where there is one.
    """

    task: str
    coding: LabelCoding
    jobs: tuple[PageJob, ...]
    unit: str
    notes: tuple[str, ...]
    data: Pairing | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, background first."""
        return self.coding.classes

    @property
    def cases(self) -> tuple[str, ...]:
        """Names of the files."""
        return tuple(dict.fromkeys(job.case for job in self.jobs))


def read_inputs(
    prediction: Path,
    truth: Path,
    *,
    task: str = "auto",
    pages: range | None = None,
    ignore: int | str | None = None,
    unit: str = "pixels",
    like: Inputs | None = None,
) -> Inputs:
    """Return the pages of predictions and truths that belong together, after decoding every file once.

    Parameters
    ----------
    prediction, truth : a file or a folder each.
    task : "auto", "semantic", "instances" or "membranes".
    pages : of the truth.
    ignore : the mask value that is left out.
    unit : "pixels", or "image" for the unit of the files' pixel size.
    like : what is known of the same truth with another prediction; then only this prediction is decoded, in that coding
        and for that task, and the notes are on it alone.

    Raises
    ------
    UsageError : a path is absent, pages that are not there.
    InputError : files without partner, sizes, pages or values that do not fit, damaged files; all of them together.
    """
    data = data_set_at(truth) if like is None else like.data
    pairs = pair_files(prediction, truth, data, pages=pages)
    coding = truth_coding(_survey_truths(pairs), task, ignore, data) if like is None else like.coding
    volumes = OpenVolumes(2)  # a prediction and its truth
    files = [(pair.prediction, _predicted_pages(pair, coding, volumes)) for pair in pairs]
    values = survey_values(files, opened_as=coding.opened_as)
    predicted = prediction_coding(coding, [(pair.prediction, found) for pair, found in zip(pairs, values, strict=True)])
    notes = list(predicted.notes)
    if like is None:
        decided = decide_task(coding, task, lambda: _read_truth(pairs[0], pairs[0].truth_pages[0], coding, volumes))
        notes.insert(0, coding.describe())
        if decided == "membranes" and task == "auto":
            notes.append(
                "cells that fill the image, parted by thin lines: scored as membranes (--task semantic scores a mask)"
            )
    else:
        decided = like.task
    spacings, name = spacings_of([(pair.truth, pair.pixel_size) for pair in pairs], unit)
    jobs = [
        PageJob(
            pair.name,
            truth_page,
            partial(_load, pair, number, coding, predicted, spacing, volumes),
            None if pair.image is None else partial(read_picture, pair.image, truth_page),
        )
        for pair, spacing in zip(pairs, spacings, strict=True)
        for number, truth_page in enumerate(pair.truth_pages)
    ]
    return Inputs(decided, coding, tuple(jobs), name, tuple(notes), data)


def _survey_truths(pairs: Sequence[FilePair]) -> list[MaskValues]:
    found, problems = [], []
    for pair in pairs:
        try:
            with open_image(pair.truth, palette="indices") as image:
                lossy = image.info.format == "jpeg"
                found += [
                    count_values(image.page(page)[:], pair.truth, colormap=image.info.colormap, lossy=lossy)
                    for page in pair.truth_pages
                ]
        except UnetError as error:
            problems.append(error)
    raise_all(problems)
    return found


def _read_truth(pair: FilePair, page: int, coding: LabelCoding, volumes: OpenVolumes) -> NDArray[np.int32]:
    with volumes.open(open_image, pair.truth, None, coding.opened_as) as image:
        return coding.decode(image.page(page)[:], pair.truth)


def _predicted_pages(pair: FilePair, coding: LabelCoding, volumes: OpenVolumes) -> Iterator[NDArray[Any]]:
    with volumes.open(open_image, pair.prediction, None, coding.opened_as) as image:
        for predicted, page in zip(pair.prediction_pages, pair.truth_pages, strict=True):
            raw = image.page(predicted)[:]
            yield raw if coding.ignore is None else _counted(raw, _read_truth(pair, page, coding, volumes))


def _counted(raw: NDArray[Any], truth: NDArray[np.int32]) -> NDArray[Any]:
    """Return a prediction (H, W, C) whose ignored pixels hold what some other one holds, so that they tell nothing."""
    ignored = truth < 0
    if not ignored.any() or ignored.all():
        return raw
    return np.where(ignored[:, :, None], raw[~ignored][0], raw)


def _load(
    pair: FilePair,
    number: int,
    coding: LabelCoding,
    predicted: PredictionCoding,
    spacing: tuple[float, float],
    volumes: OpenVolumes,
) -> LabelledPage:
    page = pair.truth_pages[number]
    there = _read_truth(pair, page, coding, volumes)
    with volumes.open(open_image, pair.prediction, None, coding.opened_as) as image:
        labels, probability = predicted.decode(_counted(image.page(pair.prediction_pages[number])[:], there))
    if predicted.in_pieces:
        labels = connected((labels > 0) & (there >= 0))
    return LabelledPage(pair.name, page, there, labels, probability, spacing)


def read_picture(path: Path, page: int) -> NDArray[np.uint8]:
    """Return a page of an image as a picture (H, W, 3), its intensities stretched as for training."""
    with open_image(path) as image:
        pixels = image.page(min(page, image.info.pages - 1))[:]
        return to_gray_levels(normalize(pixels, intensity_range(image)))


def spacings_of(files: Sequence[tuple[Path, PixelSize | None]], unit: str) -> tuple[list[tuple[float, float]], str]:
    """Return the size of each file's pixels (y, x), and the unit that they share; 1 in pixels.

    Raises
    ------
    InputError : the image's unit was asked for, and files state none or different ones.
    """
    if unit == "pixels":
        return [(1.0, 1.0)] * len(files), "pixels"
    problems: list[UnetError] = []
    sizes: list[PixelSize] = []
    for path, stated in files:
        size = stated if stated is None else stated.in_micrometers() or stated
        if size is None or size.unit == "pixel":
            problems.append(
                InputError("states no pixel size", path=path, hint="--unit pixels gives distances in pixels")
            )
        elif sizes and sizes[0].unit != size.unit:
            problems.append(
                InputError(f"is measured in {size.unit}, others in {sizes[0].unit}", path=path, hint="--unit pixels")
            )
        else:
            sizes.append(size)
    raise_all(problems)
    return [(size.y, size.x) for size in sizes], sizes[0].unit
