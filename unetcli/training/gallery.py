"""Pictures of held-out images with the outlines of what is there and of what was predicted."""

import math
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from unetcli import report
from unetcli.dataset.labels import IGNORE
from unetcli.dataset.patches import Sample
from unetcli.images import normalize
from unetcli.training.validation import LARGEST_LOOK, Look

TRUTH, PREDICTION, BOTH = (86, 180, 233), (230, 159, 0), (255, 255, 255)
IGNORED, IGNORED_OPACITY = (110, 125, 140), 150
GAMMA = 0.7  # lifts the dark parts
COLORS = {
    name: "#" + bytes(color).hex()
    for name, color in (("truth", TRUTH), ("prediction", PREDICTION), ("both", BOTH), ("ignored", IGNORED))
}

Pixels = NDArray[np.uint8]
Label = TypeVar("Label", np.int32, np.uint8)


def picture_of(look: Look, sample: Sample) -> report.Picture:
    """Return a held-out image, and over it, see-through, the outlines of its truth and of its prediction."""
    enlarged = max(1, LARGEST_LOOK // max(look.classes.shape))  # so that the outlines of small images are thin
    labels = _enlarged(sample.labels[:: look.step, :: look.step], enlarged)
    there, found = _outlines(np.maximum(labels, 0)), _outlines(_enlarged(look.classes, enlarged))
    truth, prediction = (np.zeros((*labels.shape, 4), np.uint8) for _ in range(2))
    truth[labels == IGNORE] = (*IGNORED, IGNORED_OPACITY)
    truth[there] = (*TRUTH, 255)
    prediction[found] = (*PREDICTION, 255)
    prediction[found & there] = (*BOTH, 255)
    layers = (("image", _shown(sample, look.step)), ("truth", truth), ("prediction", prediction))
    dice = look.score.mean_dice
    caption = "nothing there and nothing predicted" if math.isnan(dice) else f"Dice {dice:.4f}"
    return report.Picture(look.score.name, caption, layers)


def _enlarged(labels: NDArray[Label], factor: int) -> NDArray[Label]:
    return labels.repeat(factor, axis=0).repeat(factor, axis=1)


def _outlines(labels: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
    from skimage.segmentation import find_boundaries

    return np.asarray(find_boundaries(labels, mode="inner", connectivity=1))  # type: ignore[no-untyped-call]


def _shown(sample: Sample, step: int) -> Pixels:
    """Return every `step`-th pixel: (h, w, 3) of a color image, the first channel (h, w) of any other."""
    image = normalize(sample.image[::step, ::step], sample.intensity)
    chosen = image if image.shape[2] == 3 else image[..., 0]
    return np.asarray(np.clip(chosen, 0, 1) ** GAMMA * 255).astype(np.uint8)
