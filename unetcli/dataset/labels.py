"""What the numbers or colors in mask files mean: from masks to labels and back.

Labels are int32 (H, W): the class, or the id of the instance, 0 for background, `IGNORE` for what is left out.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetcli.errors import InputError, ModelFileError

IGNORE = -1  # the label of pixels that count nowhere
TASKS = ("semantic", "instances")
MOST_CLASSES = 255
LONGEST_NAME = 200  # characters, of a class
LARGEST_VALUE = 2**31 - 1
_UNKNOWN = -2

Color = tuple[int, int, int]


@dataclass(frozen=True)
class LabelCoding:
    """How mask files say their labels.

    Parameters
    ----------
    task : "semantic", a class per value, or "instances", an object per value.
    values : the value of each class, background first; of the background alone for instances. A color is the number
        0xRRGGBB.
    classes : their names, background first; ("background", "object") for instances.
    ignore : the value that is left out, None where there is none.
    kind : "values" where a pixel is a number, or an index into a palette; "colors" where it is a color.
    palette : colors of the indices, where the mask files had one.
    """

    task: str
    values: tuple[int, ...]
    classes: tuple[str, ...]
    ignore: int | None = None
    kind: str = "values"
    palette: tuple[Color, ...] | None = None

    @property
    def opened_as(self) -> str:
        """How palettes are to be read from files of this coding: "indices" or "mask colors" (see `open_image`)."""
        return "indices" if self.kind == "values" else "mask colors"

    @property
    def colormap(self) -> tuple[Color, ...] | None:
        """Colors of the values that `encode` returns; None where they are shown as gray values."""
        if self.task == "instances":
            return None
        if self.kind == "values":
            return self.palette
        colors = (*self.values, *(() if self.ignore is None else (self.ignore,)))
        return tuple(unpacked(color) for color in colors)

    def decode(self, raw: NDArray[Any], path: Path | None = None) -> NDArray[np.int32]:
        """Return the labels (H, W) of a mask (H, W) or (H, W, C) as it was read.

        Raises
        ------
        InputError : values that the coding does not know, with their number; no mask at all.
        """
        if self.kind == "colors" and self.task == "instances" and (raw.ndim == 2 or raw.shape[2] == 1):
            return whole_numbers(raw, path).astype(np.int32)  # predicted ids, which have no colors
        numbers = packed(raw, path) if self.kind == "colors" else whole_numbers(raw, path)
        labels = self._ids(numbers) if self.task == "instances" else self._looked_up(numbers)
        unknown = labels == _UNKNOWN
        if unknown.any():
            raise self._unknown_values(numbers[unknown], path)
        return labels

    def _looked_up(self, numbers: NDArray[Any]) -> NDArray[np.int32]:
        keys = np.array(self.values if self.ignore is None else (*self.values, self.ignore), dtype=np.int64)
        labels = np.arange(len(keys), dtype=np.int32)
        labels[len(self.values) :] = IGNORE
        if numbers.dtype.kind == "u" and numbers.dtype.itemsize <= 2:
            table = np.full(1 << (8 * numbers.dtype.itemsize), _UNKNOWN, dtype=np.int32)
            fitting = (keys >= 0) & (keys < len(table))
            table[keys[fitting]] = labels[fitting]
            looked_up: NDArray[np.int32] = table[numbers]
            return looked_up
        order = np.argsort(keys)
        keys, labels = keys[order], labels[order]
        places = np.minimum(np.searchsorted(keys, numbers), len(keys) - 1)
        return np.where(keys[places] == numbers, labels[places], np.int32(_UNKNOWN)).astype(np.int32)

    def _ids(self, numbers: NDArray[Any]) -> NDArray[np.int32]:
        """Return ids: what is above the background; for colors, their numbers with the background's moved to 0."""
        background = self.values[0]
        if numbers.dtype.kind == "u" and numbers.dtype.itemsize <= 2:
            shifted = numbers.astype(np.int32)
        else:
            shifted = numbers.astype(np.int64)
        shifted = shifted ^ background if self.kind == "colors" else shifted - background
        beyond = (shifted < 0) | (shifted > LARGEST_VALUE)
        ids = np.where(beyond, _UNKNOWN, shifted).astype(np.int32)
        if self.ignore is not None:
            ids[numbers == self.ignore] = IGNORE
        return ids

    def _unknown_values(self, values: NDArray[Any], path: Path | None) -> InputError:
        found, counts = np.unique(values, return_counts=True)
        shown = ", ".join(self.shown(int(value)) for value in found[:5]) + (", ..." if len(found) > 5 else "")
        known = ", ".join(self.shown(value) for value in self.values[:10])
        return InputError(
            f"{counts.sum()} pixels have values that are no label: {shown} (known: {known})",
            path=path,
            hint=f"--ignore {self.shown(int(found[0]))} leaves them out, or correct the mask",
        )

    def encode(self, labels: NDArray[Any], *, largest: int | None = None) -> NDArray[Any]:
        """Return labels (H, W) as the values of the training masks, in the smallest unsigned type that holds them.

        Color masks become class indices, whose colors are in `colormap`; objects are numbers, whatever the training
        masks were.

        Parameters
        ----------
        largest : the largest id of all parts of an image that is encoded in parts, so that all get one type.
        """
        highest = int(labels.max(initial=0)) if largest is None else largest
        dtype = self.dtype(highest)
        ignored = labels == IGNORE
        if ignored.any():
            assert self.ignore is not None, "nothing is ignored in this coding"
            if self.kind == "values" and self.ignore < 0:
                dtype = np.result_type(dtype, np.int8)
        if self.task == "instances":
            background = self.values[0] if self.kind == "values" else 0
            numbers = labels.astype(np.int64) + background
            if self.ignore is not None:
                numbers[ignored] = self.ignore
            return numbers.astype(dtype)
        written = np.array([*self._written, 0], dtype=np.int64)
        if self.ignore is not None:  # labels of -1 take the last entry
            written[-1] = self.ignore if self.kind == "values" else len(self.values)
        encoded: NDArray[Any] = written.astype(dtype)[labels]
        return encoded

    def dtype(self, largest: int = 0) -> np.dtype[Any]:
        """Return the type in which `encode` writes, where `largest` is the highest id of an object."""
        if self.task == "instances":
            values = [
                largest + (self.values[0] if self.kind == "values" else 0),
                *([self.ignore] if self.ignore else []),
            ]
        else:
            values = list(self._written) + ([self.ignore or 0] if self.kind == "values" else [len(self.values)])
        return np.dtype(np.min_scalar_type(max(0, *values)))

    @property
    def _written(self) -> tuple[int, ...]:
        return self.values if self.kind == "values" else tuple(range(len(self.values)))

    def shown(self, value: int) -> str:
        """Return a value as a person writes it: a number, or a color as #rrggbb."""
        return str(value) if self.kind == "values" else f"#{value:06x}"

    def describe(self) -> str:
        """Return the coding in one line."""
        ignored = "" if self.ignore is None else f"; {self.shown(self.ignore)} ignored"
        source = "palette indices, " if self.palette else ""
        if self.task == "instances":
            what = "a color" if self.kind == "colors" else "an id"
            return f"instances: {source}{what} per object, {self.shown(self.values[0])} background{ignored}"
        table = ", ".join(f"{self.shown(v)} {name}" for v, name in zip(self.values, self.classes, strict=True))
        return f"{len(self.values)} classes: {source}{table}{ignored}"

    def to_json(self) -> dict[str, Any]:
        """Return the coding as plain data."""
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "LabelCoding":
        """Return the coding that `to_json` described.

        Raises
        ------
        ModelFileError : anything but what `to_json` returns.
        """
        try:
            return _checked(dict(data))
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFileError(
                f"its label coding is damaged ({error})", hint="copy the file again, or train a model"
            ) from error


def _checked(data: dict[str, Any]) -> LabelCoding:
    def require(condition: bool, name: str) -> None:
        if not condition:
            raise ValueError(name)

    def is_number(value: object, lowest: int, highest: int) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and lowest <= value <= highest

    require(set(data) == set(LabelCoding.__dataclass_fields__), "fields")
    require(data["task"] in TASKS, "task")
    require(data["kind"] in ("values", "colors"), "kind")
    highest = 0xFFFFFF if data["kind"] == "colors" else LARGEST_VALUE
    values, classes, ignore, palette = data["values"], data["classes"], data["ignore"], data["palette"]
    require(isinstance(values, list | tuple) and 1 <= len(values) <= MOST_CLASSES, "values")
    require(all(is_number(value, 0, highest) for value in values) and len(set(values)) == len(values), "values")
    require(isinstance(classes, list | tuple) and all(isinstance(name, str) for name in classes), "classes")
    require(all(0 < len(name) <= LONGEST_NAME for name in classes) and len(set(classes)) == len(classes), "classes")
    require((len(values), len(classes)) == (1, 2) if data["task"] == "instances" else len(values) > 1, "values")
    require(data["task"] == "instances" or len(values) == len(classes), "classes")
    require(ignore is None or (is_number(ignore, -LARGEST_VALUE, highest) and ignore not in values), "ignore")
    if palette is not None:
        require(isinstance(palette, list | tuple) and data["kind"] == "values" and len(palette) <= 256, "palette")
        require(max(values) < len(palette), "palette")
        for color in palette:
            require(isinstance(color, list | tuple) and len(color) == 3, "palette")
            require(all(is_number(part, 0, 255) for part in color), "palette")
        palette = tuple((color[0], color[1], color[2]) for color in palette)
    return LabelCoding(data["task"], tuple(values), tuple(classes), ignore, data["kind"], palette)


def class_indices(labels: NDArray[np.int32], task: str) -> NDArray[np.int32]:
    """Return the class of each label (H, W): 1 of every instance; 0 and `IGNORE` stay."""
    return labels if task == "semantic" else np.minimum(labels, 1)


def whole_numbers(raw: NDArray[Any], path: Path | None = None) -> NDArray[Any]:
    """Return a mask (H, W) or (H, W, C) as integers (H, W); colors are refused unless all of them are gray.

    Raises
    ------
    InputError : colors, several channels, or values that are no whole numbers.
    """
    if raw.ndim == 3:
        if raw.shape[2] == 3 and not is_gray(raw):
            raise InputError("has colors, the other masks have numbers", path=path, hint="save all masks the same way")
        if raw.shape[2] not in (1, 3):
            raise InputError(
                f"has {raw.shape[2]} channels, a mask has one value per pixel",
                path=path,
                hint="save the mask with one channel, or name its axes with --axes",
            )
        raw = raw[:, :, 0]
    if raw.dtype.kind == "b":
        return raw.astype(np.uint8)
    if raw.dtype.kind != "f":
        return raw
    with np.errstate(invalid="ignore"):
        whole = (raw == np.rint(raw)) & (np.abs(raw) <= LARGEST_VALUE)
    if not whole.all():
        odd = raw[~whole]
        raise InputError(
            f"{odd.size} pixels are no whole numbers, such as {odd[0]:g}",
            path=path,
            hint="masks hold one whole number per class or object; was this a probability map?",
        )
    return raw.astype(np.int64)


def packed(raw: NDArray[Any], path: Path | None = None) -> NDArray[np.int64]:
    """Return the colors of a mask (H, W, 3) as numbers 0xRRGGBB (H, W); gray values count as colors.

    Raises
    ------
    InputError : colors of more than 8 bits.
    """
    if raw.ndim == 2 or raw.shape[2] == 1:
        gray = whole_numbers(raw, path)
        raw = np.broadcast_to(gray[:, :, None], (*gray.shape, 3))
    assert raw.shape[2] == 3
    if raw.dtype != np.uint8 and (raw.dtype.kind not in "iu" or raw.min(initial=0) < 0 or raw.max(initial=0) > 255):
        raise InputError("has colors of more than 8 bits", path=path, hint="save the mask as 8-bit RGB")
    red, green, blue = (raw[:, :, channel].astype(np.int64) for channel in range(3))
    return red << 16 | green << 8 | blue


def unpacked(color: int) -> Color:
    """Return red, green and blue of a number 0xRRGGBB."""
    return color >> 16, color >> 8 & 255, color & 255


def is_gray(raw: NDArray[Any]) -> bool:
    """Whether red, green and blue are equal in every pixel of (H, W, 3)."""
    return bool((raw[:, :, 0] == raw[:, :, 1]).all() and (raw[:, :, 0] == raw[:, :, 2]).all())
