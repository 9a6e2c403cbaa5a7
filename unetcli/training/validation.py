"""How good the network is on the images that are held out: whole images, by overlap-tile."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch import nn

from unetcli.dataset.labels import IGNORE
from unetcli.dataset.patches import Sample, target_of
from unetcli.images import normalize
from unetcli.inference.predict import Ensemble, TileSize, predict_bands
from unetcli.models.device import Device

THRESHOLDS = np.linspace(0.01, 0.99, 99, dtype=np.float32)  # of the foreground's probability, to choose from
SMALLEST_PROBABILITY = 1e-7  # float32 probabilities of 0 would make the loss infinite
WORST = 6  # images whose prediction is kept, to be looked at
LARGEST_LOOK = 384  # pixels along a side of what is kept; larger images are thinned out


@dataclass(frozen=True)
class ImageScore:
    """The score of one held-out image.

    Parameters
    ----------
    name : of the pair.
    loss : mean cross-entropy over its labelled pixels, unweighted.
    dice : of each foreground class; nan where the class is neither there nor predicted.
    foreground : share of the labelled pixels that are predicted as foreground.
    dice_at : Dice of the foreground at each of `THRESHOLDS`; empty with more than two classes.
    """

    name: str
    loss: float
    dice: tuple[float, ...]
    foreground: float
    dice_at: tuple[float, ...] = ()

    @property
    def mean_dice(self) -> float:
        """Mean over the foreground classes that it is defined for; nan if for none."""
        return _mean(self.dice)


@dataclass(frozen=True, eq=False)
class Look:
    """The prediction for one held-out image, small enough to be kept.

    Parameters
    ----------
    index : of the image among the held-out ones.
    step : every `step`-th pixel of every `step`-th row is there.
    classes : class indices, uint8 (h, w).
    """

    index: int
    score: ImageScore
    step: int
    classes: NDArray[np.uint8]


@dataclass(frozen=True)
class ValidationScore:
    """Scores over the held-out images; means are taken per image first, then over the classes.

    Parameters
    ----------
    worst : what was predicted for the few images with the lowest Dice, the lowest first.
    """

    images: tuple[ImageScore, ...]
    worst: tuple[Look, ...]

    @property
    def loss(self) -> float:
        """Mean loss over the images."""
        return _mean([image.loss for image in self.images])

    @property
    def dice_per_class(self) -> tuple[float, ...]:
        """Mean Dice of each foreground class over the images where it is defined; nan if nowhere."""
        return tuple(_mean(values) for values in zip(*(image.dice for image in self.images), strict=True))

    @property
    def foreground(self) -> float:
        """Mean share of the images' labelled pixels that are predicted as foreground."""
        return _mean([image.foreground for image in self.images])

    @property
    def dice(self) -> float:
        """Mean over the foreground classes, by which the best model is chosen; 0 where none is defined."""
        mean = _mean(self.dice_per_class)
        return 0.0 if math.isnan(mean) else mean

    @property
    def threshold(self) -> float | None:
        """The one of `THRESHOLDS` with the highest mean Dice, of equally good ones the nearest to 0.5.

        None with more than two classes, and where there is no foreground.
        """
        means = [_mean(values) for values in zip(*(image.dice_at for image in self.images), strict=True)]
        places = [place for place, mean in enumerate(means) if mean > 0]
        if not places:
            return None
        best = max(places, key=lambda place: (means[place], -abs(float(THRESHOLDS[place]) - 0.5)))
        return round(float(THRESHOLDS[best]), 2)


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan


def validate(
    network: nn.Module, samples: Iterable[Sample], *, task: str, classes: int, device: Device, size: TileSize
) -> ValidationScore:
    """Return the scores of a network in evaluation mode on whole images, ignored pixels left out."""
    ensemble = Ensemble([network], device)
    images: list[ImageScore] = []
    worst: list[Look] = []
    for index, sample in enumerate(samples):
        step = max(1, -(-max(sample.labels.shape) // LARGEST_LOOK))
        score, shown = _score(ensemble, sample, task, classes, size, step)
        images.append(score)
        worst = sorted([*worst, Look(index, score, step, shown)], key=_badness)[:WORST]
    return ValidationScore(tuple(images), tuple(worst))


def _badness(look: Look) -> tuple[bool, float]:
    undefined = math.isnan(look.score.mean_dice)
    return undefined, 0.0 if undefined else look.score.mean_dice


def _score(
    ensemble: Ensemble, sample: Sample, task: str, classes: int, size: TileSize, step: int
) -> tuple[ImageScore, NDArray[np.uint8]]:
    """Return the score of an image, and every `step`-th pixel of its prediction."""
    target, _ = target_of(sample.labels, task)
    confusion = np.zeros((classes, classes), dtype=np.int64)  # truth, prediction
    loss = 0.0
    pixels_above = np.zeros((2, len(THRESHOLDS) + 1), dtype=np.int64)  # truth, number of thresholds below
    shown = np.zeros(sample.labels[::step, ::step].shape, np.uint8)
    prepare = partial(normalize, intensity=sample.intensity)
    for band in predict_bands(ensemble, sample.image, prepare, size, keep_probabilities=True):
        assert band.probabilities is not None
        truth = target[band.top : band.top + len(band.classes)]
        known = truth != IGNORE
        confusion += np.bincount(
            truth[known].astype(np.int64) * classes + band.classes[known], minlength=classes**2
        ).reshape(classes, classes)
        if classes == 2:
            below = np.searchsorted(THRESHOLDS, band.probabilities[1][known])
            pixels_above += np.bincount(
                truth[known].astype(np.int64) * pixels_above.shape[1] + below, minlength=pixels_above.size
            ).reshape(pixels_above.shape)
        chosen = np.take_along_axis(band.probabilities, np.maximum(truth, 0)[None], axis=0)[0][known]
        rows = band.classes[-band.top % step :: step, ::step]
        first = -(-band.top // step)
        shown[first : first + len(rows)] = rows
        loss -= float(np.log(np.maximum(chosen, SMALLEST_PROBABILITY), dtype=np.float64).sum())
    dice_at = _dice_at_thresholds(pixels_above) if classes == 2 else ()
    pixels = int(confusion.sum())
    if not pixels:
        return ImageScore(sample.name, math.nan, (math.nan,) * (classes - 1), math.nan, dice_at), shown
    both = confusion.sum(axis=0) + confusion.sum(axis=1)
    dice = tuple(float(2 * confusion[k, k] / both[k]) if both[k] else math.nan for k in range(1, classes))
    return ImageScore(sample.name, loss / pixels, dice, float(confusion[:, 1:].sum() / pixels), dice_at), shown


def _dice_at_thresholds(pixels: NDArray[np.int64]) -> tuple[float, ...]:
    """Return the foreground's Dice at each threshold, nan where it is neither there nor predicted.

    Parameters
    ----------
    pixels : how many (2, thresholds + 1) of each truth have a probability above that many thresholds.
    """
    predicted = pixels[:, ::-1].cumsum(axis=1)[:, -2::-1]  # (2, thresholds): above this threshold
    both = predicted.sum(axis=0) + pixels[1].sum()
    return tuple(float(2 * hit / total) if total else math.nan for hit, total in zip(predicted[1], both, strict=True))
