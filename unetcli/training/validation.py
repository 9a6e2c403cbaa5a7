"""How good the network is on the images that are held out: whole images, by overlap-tile."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from torch import nn

from unetcli.dataset.labels import IGNORE
from unetcli.dataset.patches import Sample, target_of
from unetcli.images import normalize
from unetcli.inference.predict import Ensemble, TileSize, predict_bands
from unetcli.models.device import Device

SMALLEST_PROBABILITY = 1e-7  # float32 probabilities of 0 would make the loss infinite


@dataclass(frozen=True)
class ImageScore:
    """The score of one held-out image.

    Parameters
    ----------
    name : of the pair.
    loss : mean cross-entropy over its labelled pixels, unweighted.
    dice : of each foreground class; nan where the class is neither there nor predicted.
    foreground : share of the labelled pixels that are predicted as foreground.
    """

    name: str
    loss: float
    dice: tuple[float, ...]
    foreground: float


@dataclass(frozen=True)
class ValidationScore:
    """Scores over the held-out images; means are taken per image first, then over the classes."""

    images: tuple[ImageScore, ...]

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


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan


def validate(
    network: nn.Module, samples: Iterable[Sample], *, task: str, classes: int, device: Device, size: TileSize
) -> ValidationScore:
    """Return the scores of a network in evaluation mode on whole images, ignored pixels left out."""
    ensemble = Ensemble([network], device)
    return ValidationScore(tuple(_score(ensemble, sample, task, classes, size) for sample in samples))


def _score(ensemble: Ensemble, sample: Sample, task: str, classes: int, size: TileSize) -> ImageScore:
    target, _ = target_of(sample.labels, task)
    confusion = np.zeros((classes, classes), dtype=np.int64)  # truth, prediction
    loss = 0.0
    prepare = partial(normalize, intensity=sample.intensity)
    for band in predict_bands(ensemble, sample.image, prepare, size, keep_probabilities=True):
        assert band.probabilities is not None
        truth = target[band.top : band.top + len(band.classes)]
        known = truth != IGNORE
        confusion += np.bincount(
            truth[known].astype(np.int64) * classes + band.classes[known], minlength=classes**2
        ).reshape(classes, classes)
        chosen = np.take_along_axis(band.probabilities, np.maximum(truth, 0)[None], axis=0)[0][known]
        loss -= float(np.log(np.maximum(chosen, SMALLEST_PROBABILITY), dtype=np.float64).sum())
    pixels = int(confusion.sum())
    if not pixels:
        return ImageScore(sample.name, math.nan, (math.nan,) * (classes - 1), math.nan)
    both = confusion.sum(axis=0) + confusion.sum(axis=1)
    dice = tuple(float(2 * confusion[k, k] / both[k]) if both[k] else math.nan for k in range(1, classes))
    return ImageScore(sample.name, loss / pixels, dice, float(confusion[:, 1:].sum() / pixels))
