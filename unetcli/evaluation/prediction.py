"""Predicting what is to be scored: a data set and models in, pages out."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetcli.dataset.detection import detect_coding, ignored_number
from unetcli.dataset.examination import Record, examine
from unetcli.dataset.labels import LabelCoding
from unetcli.dataset.loading import files_at_once, load_pair
from unetcli.dataset.maskvalues import MaskValues
from unetcli.dataset.names import split_extension
from unetcli.dataset.pairs import Pair, find_pairs
from unetcli.errors import InputError, UsageError, raise_all, warn
from unetcli.evaluation.coding import decide_task
from unetcli.evaluation.evaluate import PageJob
from unetcli.evaluation.inputs import Inputs, spacings_of
from unetcli.evaluation.overlays import to_gray_levels
from unetcli.evaluation.records import LabelledPage
from unetcli.images import normalize
from unetcli.images.palettes import Colormap, is_gray_ramp
from unetcli.images.volumes import OpenVolumes
from unetcli.inference.infer import Segmenter
from unetcli.inference.instances import find_objects
from unetcli.inference.predict import Ensemble, predict_bands
from unetcli.inference.records import InferConfig

_SHOWN = 3


def predict_inputs(
    data: Sequence[Path],
    segmenter: Segmenter,
    folder: Path,
    *,
    task: str = "auto",
    pages: range | None = None,
    axes: str | None = None,
    ignore: int | str | None = None,
    unit: str = "pixels",
    progress: Callable[[int, int], None] | None = None,
) -> Inputs:
    """Return the pages of a data set, each predicted when it is loaded first.

    Parameters
    ----------
    data : as for training.
    folder : where predictions are kept as long as the pages are in use.
    task, pages, ignore, unit : as for `read_inputs`.
    axes : of the images, in place of what the files say.
    progress : called with the number of pages that were examined and of all.

    Raises
    ------
    UsageError : a path is absent, pages that are not there, a task that is not the model's.
    InputError : images without mask, damaged files, other channels or classes than the model's; all of them together.
    """
    if task != "auto" and (task == "instances") != (segmenter.coding.task == "instances"):
        raise UsageError(f"--task {task}, but the model predicts {segmenter.coding.task}", hint="leave --task out")
    pairing = find_pairs(list(data))
    records, problems = examine(pairing.pairs, axes=axes, pages=pages, progress=progress)
    channels = segmenter.description.channels
    problems += [
        InputError(
            f"{record.shape[2]} channels, the model expects {channels}",
            path=record.pair.images[0],
            hint=f"name its axes with --axes (now {record.info.axes}), or a model for such images with -m",
        )
        for record in records
        if record.shape[2] != channels
    ]
    raise_all(problems)
    coding = _coding_of(records, segmenter.coding, pairing.ignore if ignore is None else ignore)
    decided = decide_task(coding, task, lambda: load_pair(records[0].pair, coding, axes)[2])
    _warn_of_training_images(records, segmenter.trained_images)
    volumes = OpenVolumes(files_at_once(pairing.pairs))
    predictor = _Predictor(segmenter, folder, coding, axes, volumes, membranes=decided == "membranes")
    sizes, name = spacings_of([(record.pair.masks[0], record.info.pixel_size) for record in records], unit)
    jobs = [
        PageJob(
            case_of(record.pair),
            record.pair.page or 0,
            partial(predictor.load, number, record.pair, spacing),
            partial(predictor.picture, record.pair),
        )
        for number, (record, spacing) in enumerate(zip(records, sizes, strict=True))
    ]
    notes = (f"{pairing.layout}; {pairing.rule}", coding.describe())
    return Inputs(decided, coding, tuple(jobs), name, notes, pairing)


def case_of(pair: Pair) -> str:
    """Return the name of a pair's file, which all pages of a stack share."""
    whole = pair.name.removesuffix(f"[{pair.page}]")
    return pair.name if whole == pair.name else split_extension(whole)[0]


def _coding_of(records: Sequence[Record], model: LabelCoding, ignore: int | str | None) -> LabelCoding:
    """Return the coding of the truth: the model's where the values fit it, else one with as many classes.

    Raises
    ------
    InputError : other classes than the model's, or values of which it is not clear which of its classes they are.
    """
    masks = [record.mask for record in records]
    ignored = None if ignore is None else ignored_number(ignore, masks)
    found = {int(value) for mask in masks for value in mask.without(ignored).values}
    alike = all(mask.kind == model.kind and _colors_agree(mask, model) for mask in masks)
    if model.task == "semantic" and alike and found <= set(model.values) and ignored == model.ignore:
        return model
    objects = any(record.pair.objects for record in records)
    coding = detect_coding(masks, model.task, ignore=ignore, objects=objects)
    read = coding if model.task == "instances" else _in_order_of(model, coding)
    if read is None:
        raise InputError(
            f"{coding.describe()}; the model knows {len(model.classes)}: {model.describe()}",
            path=records[0].pair.masks[0],
            hint="evaluate on masks in the coding that the model was trained on",
        )
    return replace(read, classes=model.classes)


def _colors_agree(mask: MaskValues, model: LabelCoding) -> bool:
    """Whether the palettes of a mask and of the model, where both have one, show the mask's values alike."""
    if not (_tells(mask.colormap) and _tells(model.palette)):
        return True
    assert mask.colormap is not None
    assert model.palette is not None
    return all(mask.colormap[value] == model.palette[value] for value in mask.values if value < len(model.palette))


def _tells(palette: Colormap | None) -> bool:
    """Whether a palette says more than that the indices are gray values."""
    return palette is not None and not is_gray_ramp(np.array(palette, np.uint8))


def _in_order_of(model: LabelCoding, coding: LabelCoding) -> LabelCoding | None:
    """Return a coding with its values in the order of the model's classes; None where that would be a guess.

    Colors tell which class is which, and so do numbers that are the model's. Two classes are taken in order, and so are
    numbers that have nothing in common with the model's, or stand for its colors as `unet infer` writes them: 0, 1, 2.
    """
    shown, known = _colors_of(coding), _colors_of(model)
    in_order = len(coding.values) == 2
    if shown and known:
        ignored = None if coding.ignore is None else _colors_of(replace(coding, values=(coding.ignore,)))[0]
        if set(shown) <= set(known) and len({*known, ignored}) == len(known) + 1:
            return LabelCoding("semantic", known, model.classes, ignored, "colors")
    elif coding.kind == model.kind == "values":
        if set(coding.values) <= set(model.values) and coding.ignore not in model.values:
            return replace(coding, values=model.values)
        in_order |= not set(coding.values[1:]) & set(model.values[1:])
    elif coding.kind == "values":
        in_order |= coding.values == tuple(range(len(model.values)))
    return coding if in_order and len(coding.values) == len(model.values) else None


def _colors_of(coding: LabelCoding) -> tuple[int, ...]:
    """Return the color of each value as 0xRRGGBB; nothing where the values are plain numbers."""
    if coding.kind == "colors":
        return coding.values
    table = coding.palette if _tells(coding.palette) and coding.palette else ()
    inside = [table[value] if 0 <= value < len(table) else (0, 0, 0) for value in coding.values if table]
    return tuple(red << 16 | green << 8 | blue for red, green, blue in inside)


def _warn_of_training_images(records: Sequence[Record], trained: Sequence[str]) -> None:
    known = [record.pair.name for record in records if any(record.image_hash.startswith(digits) for digits in trained)]
    if known:
        shown = ", ".join(known[:_SHOWN]) + (", ..." if len(known) > _SHOWN else "")
        warn(
            f"{len(known)} of {len(records)} images were used to train or choose the model ({shown}): "
            "scores are optimistic"
        )


class _Predictor:
    """Predicts pages, one at a time, and keeps the results in files."""

    def __init__(
        self,
        segmenter: Segmenter,
        folder: Path,
        coding: LabelCoding,
        axes: str | None,
        volumes: OpenVolumes,
        *,
        membranes: bool,
    ) -> None:
        self.ensemble = Ensemble(segmenter.networks, segmenter.device)
        self.size = segmenter.size_for(InferConfig())
        self.folder = folder
        self.coding = coding
        self.axes = axes
        self.volumes = volumes
        self.membranes = membranes
        self.lock = threading.Lock()

    def load(self, number: int, pair: Pair, spacing: tuple[float, float]) -> LabelledPage:
        image, intensity, truth = load_pair(pair, self.coding, self.axes, volumes=self.volumes)
        path = self.folder / f"{number}.npy"
        with self.lock:
            if not path.exists():
                np.save(path, self._predict(image, partial(normalize, intensity=intensity)))
        kept = np.load(path)
        if not self.membranes:
            return LabelledPage(case_of(pair), pair.page or 0, truth, kept, spacing=spacing)
        classes = (kept > self.ensemble.threshold).astype(np.int32)
        return LabelledPage(case_of(pair), pair.page or 0, truth, classes, kept, spacing)

    def _predict(self, image: NDArray[Any], prepare: Callable[[NDArray[Any]], NDArray[np.float32]]) -> NDArray[Any]:
        bands = predict_bands(self.ensemble, image, prepare, self.size, keep_probabilities=self.membranes)
        if self.membranes:
            return np.concatenate([band.probabilities[1] for band in bands if band.probabilities is not None])
        classes = np.concatenate([band.classes for band in bands])
        return find_objects(classes) if self.coding.task == "instances" else classes.astype(np.int32)

    def picture(self, pair: Pair) -> NDArray[np.uint8]:
        image, intensity, _ = load_pair(pair, self.coding, self.axes, volumes=self.volumes)
        return to_gray_levels(normalize(image, intensity))
