"""What the numbers in truth and prediction mean, so that both are compared in the same labels.

The truth decides: whether there are two classes, several, objects, or membranes. A prediction in another coding is
brought to the truth's where that has one meaning only, and it is said.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetcli.dataset.detection import detect_coding, ignored_number
from unetcli.dataset.labels import LARGEST_VALUE, LabelCoding
from unetcli.dataset.maskvalues import MaskValues
from unetcli.dataset.pairs import Pairing
from unetcli.errors import InputError, UnetError, UsageError, raise_all
from unetcli.evaluation.reading import Values
from unetcli.metrics.partition import connected

MASK_THRESHOLD = 0.5
_FEWEST_CELLS = 8
_FOREGROUND, _NEAR, _CONNECTED = 0.5, 0.9, 0.8  # shares that make a mask one of membranes, see `looks_like_membranes`
_MEMBRANE_PIXELS = 8

Labels = NDArray[np.int32]
Decoded = tuple[Labels, NDArray[np.float32] | None]


@dataclass(frozen=True)
class PredictionCoding:
    """How the prediction files say their labels.

    Parameters
    ----------
    decode : takes raw pixels (H, W, C), returns labels and, where they are probabilities, those of the inside (H, W).
    notes : what to say about it.
    in_pieces : whether the labels are a mask whose 4-connected pieces, ignored pixels left out, are the objects.
    """

    decode: Callable[[NDArray[Any]], Decoded]
    notes: tuple[str, ...] = ()
    in_pieces: bool = False


def truth_coding(
    truths: Sequence[MaskValues], task: str, ignore: int | str | None, data: Pairing | None = None
) -> LabelCoding:
    """Return the coding of the truth; two classes where no truth has any foreground.

    Parameters
    ----------
    data : the data set of the truths, which may name their classes, the value to ignore and the usual task.

    Raises
    ------
    InputError : values that cannot be understood, or classes and instances alike.
    """
    asked = "semantic" if task == "membranes" else task
    declared, usual, stated = (None, None, None) if data is None else (data.declared, data.task, data.ignore)
    ignore = stated if ignore is None else ignore
    number = None if ignore is None else ignored_number(ignore, truths)
    if all(set(map(int, mask.without(number).values)) <= {0} for mask in truths):
        kind, white = ("colors", 0xFFFFFF) if any(mask.kind == "colors" for mask in truths) else ("values", 255)
        if asked == "instances":
            return LabelCoding("instances", (0,), ("background", "object"), number, kind)
        return LabelCoding("semantic", (0, 1 if number == white else white), ("background", "foreground"), number, kind)
    return detect_coding(truths, asked, ignore=ignore, declared=declared, usual=usual)


def decide_task(coding: LabelCoding, asked: str, example: Callable[[], Labels]) -> str:
    """Return "binary", "classes", "instances" or "membranes".

    Parameters
    ----------
    asked : the option: "auto", "semantic", "instances" or "membranes".
    example : reads the labels of one page of the truth.

    Raises
    ------
    UsageError : membranes were asked for and the truth has other than two classes.
    """
    if coding.task == "instances":
        return "instances"
    if len(coding.values) > 2:
        if asked == "membranes":
            raise UsageError(
                f"the truth has {len(coding.values)} values, membranes need two", hint="leave --task membranes out"
            )
        return "classes"
    if asked == "membranes" or (asked == "auto" and looks_like_membranes(example())):
        return "membranes"
    return "binary"


def looks_like_membranes(labels: Labels) -> bool:
    """Whether a mask of two classes shows cells that fill the image, parted by thin lines that hang together."""
    from scipy.ndimage import label

    from unetcli.metrics.boundary import distance_to

    inside, lines = labels > 0, labels == 0
    if not lines.any() or inside.mean() < _FOREGROUND or connected(inside).max() < _FEWEST_CELLS:
        return False
    pieces = label(lines, np.ones((3, 3)))[0]
    largest = np.bincount(pieces.ravel())[1:].max() / np.count_nonzero(lines)
    near = np.mean(distance_to(inside)[lines] <= _MEMBRANE_PIXELS)
    return bool(near >= _NEAR and largest >= _CONNECTED)


def prediction_coding(coding: LabelCoding, files: Sequence[tuple[Path, Values]]) -> PredictionCoding:
    """Return how to read predictions for a truth of this coding.

    Raises
    ------
    InputError : files with values that have no counterpart in the truth, all of them together.
    """
    if any(not values.whole for _, values in files):
        return _probabilities(coding, files)
    raise_all(
        [
            InputError(
                f"has {values.channels} channels, a mask has one value per pixel", path=path, hint="save one channel"
            )
            for path, values in files
            if values.channels not in (1, 3)
        ]
    )
    same = PredictionCoding(lambda raw: (np.maximum(coding.decode(raw), 0), None))
    every = sorted({int(value) for _, values in files for value in values.values.tolist()})
    if coding.kind == "colors":
        if coding.task == "semantic":
            raise_all(_unknown_values(coding, files, "save the prediction in the truth's colors"))
        numbered = coding.task == "instances" and all(values.channels == 1 for _, values in files)
        return _instances(coding, every, files) if numbered else same
    raise_all(
        [
            InputError("has colors, the truth has numbers", path=path, hint="save the prediction with one channel")
            for path, values in files
            if values.in_color
        ]
    )
    found = [value for value in every if value != coding.ignore]
    two_sided = coding.task == "instances" or len(coding.values) == 2
    if two_sided and coding.ignore is not None and 0 < coding.ignore in every and found == [coding.values[0]]:
        found = every  # a mask (0, 255), where the truth ignores 255
    if coding.task == "instances":
        return _instances(coding, found, files)
    if set(found) <= set(coding.values):
        return same
    if len(coding.values) == 2:
        return _two_classes(coding, found if len(found) == 2 else every, files)
    hint = "save the prediction with the truth's values"
    if found[0] >= 0 and found[-1] < len(coding.values):
        if not (set(found) - {0}) & set(coding.values):
            words = f"{_shown(found)} are read as the classes {', '.join(coding.classes)} in order"
            return PredictionCoding(_ids, (f"the prediction's values {words}",))
    else:
        hint += ", or as class indices 0, 1, 2, ..."
    raise_all(_unknown_values(coding, files, hint))
    raise AssertionError("a file has the unknown value")


def _unknown_values(coding: LabelCoding, files: Sequence[tuple[Path, Values]], hint: str) -> list[UnetError]:
    """Return an error for each file with values that the truth does not have."""
    known = _shown([coding.shown(value) for value in coding.values])
    problems: list[UnetError] = []
    for path, values in files:
        gray = 0x010101 if coding.kind == "colors" and values.channels == 1 else 1
        numbers = [int(value) * gray for value in values.values.tolist()]
        unknown = [coding.shown(number) for number in numbers if number not in (*coding.values, coding.ignore)]
        if unknown:
            words = f"has the values {_shown(unknown)}, which the truth does not have (it has {known})"
            problems.append(InputError(words, path=path, hint=hint))
    return problems


def _instances(coding: LabelCoding, found: Sequence[int], files: Sequence[tuple[Path, Values]]) -> PredictionCoding:
    raise_all(
        [
            InputError(f"has negative ids ({lowest})", path=path, hint="ids are 1, 2, ..., background is 0")
            for path, values in files
            if (lowest := min((int(value) for value in values.values if value != coding.ignore), default=0)) < 0
        ]
    )
    if len(set(found) - {0}) == 1 and found[-1] in (1, 255):
        note = f"the prediction is a mask (0, {found[-1]}): its 4-connected pieces are taken as objects"
        return PredictionCoding(_foreground, (note,), in_pieces=True)
    return PredictionCoding(_ids)


def _two_classes(coding: LabelCoding, found: Sequence[int], files: Sequence[tuple[Path, Values]]) -> PredictionCoding:
    """Read 0/1 for 0/255 and the like, ids as foreground, 8-bit probabilities."""
    if found[0] != 0:
        raise InputError(
            f"has the values {_shown(found)}, the truth {_shown(coding.values)}: which one is background?",
            path=files[0][0],
            hint="save the prediction with the truth's values, or with 0 as background",
        )
    if len(found) == 2:
        note = f"the prediction's {found[1]} is read as the truth's {coding.values[1]} ({coding.classes[1]})"
        return PredictionCoding(_foreground, (note,))
    if all(values.dtype == np.uint8 for _, values in files) and found[-1] == 255:
        note = f"the prediction's values from 0 to 255 are read as probabilities of {coding.classes[1]}"
        return PredictionCoding(lambda raw: _split(raw[..., 0].astype(np.float32) / np.float32(255)), (note,))
    note = f"the prediction has {len(found) - 1} values above 0: they are read as objects, all of them foreground"
    return PredictionCoding(_foreground, (note,))


def _probabilities(coding: LabelCoding, files: Sequence[tuple[Path, Values]]) -> PredictionCoding:
    """Read values between 0 and 1: of the foreground in one channel, or of every class in a channel of its own."""
    classes = len(coding.values)
    problems: list[UnetError] = []
    for path, values in files:
        if coding.task == "instances":
            problems.append(
                InputError(
                    "holds probabilities, the truth objects", path=path, hint="unet infer --output-kind instances"
                )
            )
        elif values.least < 0 or values.largest > 1:
            problems.append(
                InputError(
                    f"has values from {values.least:g} to {values.largest:g}, neither classes nor probabilities",
                    path=path,
                    hint="probabilities lie between 0 and 1",
                )
            )
        elif values.channels != classes and (values.channels, classes) != (1, 2):
            problems.append(
                InputError(
                    f"has probabilities in {values.channels} channels, the truth {classes} classes",
                    path=path,
                    hint="one channel per class, background first",
                )
            )
    raise_all(problems)
    if classes > 2:
        note = "the prediction holds probabilities: the likeliest class counts"
        return PredictionCoding(lambda raw: (raw.argmax(axis=2).astype(np.int32), None), (note,))
    note = f"the prediction holds probabilities of {coding.classes[1]}: its mask is where they exceed {MASK_THRESHOLD}"
    return PredictionCoding(lambda raw: _split(raw[..., -1].astype(np.float32)), (note,))


def _split(probability: NDArray[np.float32]) -> Decoded:
    return (probability > MASK_THRESHOLD).astype(np.int32), probability


def _foreground(raw: NDArray[Any]) -> Decoded:
    return (raw[..., 0] > 0).astype(np.int32), None


def _ids(raw: NDArray[Any]) -> Decoded:
    """Return the numbers as they are, or numbered anew where one of them is too large for a label."""
    ids = np.maximum(raw[..., 0], 0)
    if float(ids.max(initial=0)) > LARGEST_VALUE:
        present, numbers = np.unique(ids, return_inverse=True)
        ids = numbers.reshape(ids.shape) + int(present[0] > 0)
    return ids.astype(np.int32), None


def _shown(values: Sequence[int] | Sequence[str]) -> str:
    return ", ".join(map(str, list(values)[:8])) + (", ..." if len(values) > 8 else "")
