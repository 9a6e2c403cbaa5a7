"""Pictures of where a prediction is right and wrong, in colors that color-blind people tell apart."""

import numpy as np
from numpy.typing import NDArray

AGREED = (255, 255, 255)
FALSE_POSITIVE = (230, 120, 0)  # orange: predicted, not there
FALSE_NEGATIVE = (0, 114, 178)  # blue: there, not predicted
OTHER_CLASS = (204, 121, 167)  # pink: the wrong class
CLASS_COLORS = np.array(
    [(0, 0, 0), (240, 228, 66), (86, 180, 233), (204, 121, 167), (0, 158, 115), (213, 94, 0), (0, 114, 178)], np.uint8
)
TINT_OF_RIGHT, TINT_OF_WRONG = 0.25, 0.85  # share of the color where there is an image beneath

Pixels = NDArray[np.uint8]


def draw_errors(
    truth: NDArray[np.int32], prediction: NDArray[np.int32], image: Pixels | None = None, *, objects: bool = False
) -> Pixels:
    """Return a picture (H, W, 3) of agreement, false positives and false negatives.

    Parameters
    ----------
    truth, prediction : class indices or ids (H, W); negative pixels of the truth are ignored and stay gray.
    image : the image beneath, uint8 (H, W, 3); black where None.
    objects : whether the labels are ids: then the outlines of the true (blue) and predicted (orange) objects are
        drawn, white where they coincide, so that splits and merges show.
    """
    base = np.zeros((*truth.shape, 3), np.uint8) if image is None else image
    there, predicted = truth > 0, prediction > 0
    colors = np.zeros_like(base)
    if objects:
        there_line, predicted_line = outlines(truth), outlines(prediction)
        colors[there & predicted] = (120, 120, 120)
        colors[there & ~predicted], colors[predicted & ~there] = FALSE_NEGATIVE, FALSE_POSITIVE
        colors[there_line], colors[predicted_line] = FALSE_NEGATIVE, FALSE_POSITIVE
        colors[there_line & predicted_line] = AGREED
    else:
        colors[there & predicted] = AGREED
        colors[there & predicted & (truth != prediction)] = OTHER_CLASS
        colors[there & ~predicted], colors[predicted & ~there] = FALSE_NEGATIVE, FALSE_POSITIVE
    wrong = (there != predicted) | (not objects and (there & (truth != prediction)))
    lines = outlines(truth) | outlines(prediction) if objects else wrong
    weight = np.where(there | predicted, TINT_OF_RIGHT, 0.0)
    weight[wrong | lines] = TINT_OF_WRONG
    weight = weight if image is not None else (weight > 0).astype(float)
    mixed = (base * (1 - weight[..., None]) + colors * weight[..., None]).astype(np.uint8)
    mixed[truth < 0] = (90, 90, 90)
    return np.asarray(mixed)


def key_of(task: str) -> dict[str, str]:
    """Return what the colors of `draw_errors` mean, as words and HTML colors."""
    wrong = {"only predicted (false positive)": "#e67800", "missed (false negative)": "#0072b2"}
    if task == "instances":
        return {"right": "#787878", "outline of both": "#ffffff", **wrong}
    return {"right": "#ffffff", **wrong, **({"wrong class": "#cc79a7"} if task == "classes" else {})}


def draw_labels(labels: NDArray[np.int32], *, objects: bool = False) -> Pixels:
    """Return labels as a picture (H, W, 3): a color per class, or per object with neighbors told apart."""
    positive = np.maximum(labels, 0)
    if objects:
        colors = CLASS_COLORS[np.where(positive > 0, 1 + positive % (len(CLASS_COLORS) - 1), 0)]
        colors[outlines(positive)] = (255, 255, 255)
    elif positive.max(initial=0) <= 1:
        colors = np.repeat((positive[..., None] * 255).astype(np.uint8), 3, axis=2)
    else:
        colors = CLASS_COLORS[np.where(positive > 0, 1 + (positive - 1) % (len(CLASS_COLORS) - 1), 0)]
    colors[labels < 0] = (90, 90, 90)
    return colors


def outlines(labels: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Return the pixels of objects with a neighbor to the right, left, above or below that is not of the object."""
    padded = np.pad(labels, 1)
    edge = np.zeros(labels.shape, bool)
    for rows, columns in ((0, 1), (2, 1), (1, 0), (1, 2)):
        height, width = labels.shape
        edge |= padded[rows : rows + height, columns : columns + width] != labels
    return edge & (labels > 0)


def shrink(pixels: Pixels, largest: int) -> Pixels:
    """Return every n-th pixel, so that neither side is longer than `largest`."""
    step = max(1, -(-max(pixels.shape[:2]) // largest))
    return np.ascontiguousarray(pixels[::step, ::step])


def to_gray_levels(normalized: NDArray[np.float32]) -> Pixels:
    """Return a normalized image (H, W, C) as uint8 (H, W, 3); other channel counts than 3 show the first."""
    shown = normalized if normalized.shape[2] == 3 else np.repeat(normalized[..., :1], 3, axis=2)
    return (np.clip(shown, 0, 1) * 255).astype(np.uint8)
