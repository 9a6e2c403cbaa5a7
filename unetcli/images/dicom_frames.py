"""What DICOM headers say of each frame: where it lies in space, how large its pixels are, and how its values count."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from unetcli.errors import InputError
from unetcli.images.info import PixelSize

_SAME_PLACE = 1e-4  # mm along the normal


@dataclass(frozen=True)
class Frame:
    """An image of a DICOM file, which has one of them or many.

    Parameters
    ----------
    file, number : its file, and its place there.
    time : order among the frames of one place.
    position, directions : of its first pixel, and of rows and columns; None where not stated.
    spacing : of rows and of columns in mm; None where not stated.
    thickness : distance to the next slice in mm; None where not stated.
    slope, intercept : of the values.
    """

    file: int
    number: int
    time: tuple[float, ...]
    position: tuple[float, ...] | None
    directions: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    thickness: float | None
    slope: float
    intercept: float

    @property
    def place(self) -> float:
        """Return the place along the normal of the slices, in mm; 0 where none is stated."""
        if self.position is None or self.directions is None:
            return 0.0
        across = np.cross(self.directions[:3], self.directions[3:])
        return float(across @ np.array(self.position))


def frames_of(header: Any, file: int, size: int) -> list[Frame]:
    """Return the frames of a file of `size` bytes; an enhanced one has groups of tags for each of them and for all.

    Raises
    ------
    ValueError, TypeError : tags that are no such numbers.
    """
    count = int(getattr(header, "NumberOfFrames", 1) or 1)
    if not 1 <= count <= size:
        raise ValueError(f"{count} frames")
    if "PerFrameFunctionalGroupsSequence" in header:
        return [_frame(header, file, number) for number in range(count)]
    first = _frame(header, file, 0)
    return [replace(first, number=number, time=(*first.time[:-1], number)) for number in range(count)]


def _frame(header: Any, file: int, number: int) -> Frame:
    own = getattr(header, "PerFrameFunctionalGroupsSequence", None) or []
    groups = [*own[number : number + 1], *(getattr(header, "SharedFunctionalGroupsSequence", None) or [])]

    def said(group: str, name: str) -> Any:
        for frame in groups:
            for tags in getattr(frame, group, None) or []:
                if tags.get(name) is not None:
                    return tags.get(name)
        return getattr(header, name, None)

    def numbers(group: str, name: str, count: int) -> tuple[float, ...] | None:
        found = said(group, name)
        values = tuple(float(value) for value in found) if found else None
        if values is not None and len(values) != count:
            raise ValueError(f"{name} has {len(values)} values")
        return values

    slope = said("PixelValueTransformationSequence", "RescaleSlope")
    intercept = said("PixelValueTransformationSequence", "RescaleIntercept")
    thickness = said("PixelMeasuresSequence", "SpacingBetweenSlices")
    thickness = thickness or said("PixelMeasuresSequence", "SliceThickness")
    imager = getattr(header, "ImagerPixelSpacing", None)
    spacing = numbers("PixelMeasuresSequence", "PixelSpacing", 2)
    time = getattr(header, "TemporalPositionIdentifier", 0) or said("FrameContentSequence", "TemporalPositionIndex")
    return Frame(
        file,
        number,
        (float(time or 0), float(getattr(header, "InstanceNumber", 0) or 0), file, number),
        numbers("PlanePositionSequence", "ImagePositionPatient", 3),
        numbers("PlaneOrientationSequence", "ImageOrientationPatient", 6),
        _lengths(spacing or imager),
        (_lengths([thickness]) or (None,))[0],
        1.0 if slope is None else float(slope),
        0.0 if intercept is None else float(intercept),
    )


def _lengths(stated: Sequence[Any] | None) -> tuple[float, ...] | None:
    """Return lengths in mm, None where they cannot be any."""
    values = tuple(float(value) for value in stated or () if value not in (None, ""))
    return values if values and all(0 < value < math.inf for value in values) else None


def in_order(frames: Sequence[Frame], path: Path) -> tuple[list[Frame], int]:
    """Return the frames by time and along the normal of their planes, and the number of time points.

    Frames that all lie at one place, as far as is stated, are slices by their numbers.

    Raises
    ------
    InputError : more frames at some places than at others.
    """
    ordered = sorted(frames, key=lambda frame: frame.place)
    places: defaultdict[int, list[Frame]] = defaultdict(list)
    number = 0
    for before, frame in zip([ordered[0], *ordered], ordered, strict=False):
        number += frame.place - before.place > _SAME_PLACE
        places[number].append(frame)
    slices = [sorted(there, key=lambda frame: frame.time) for there in places.values()]
    if len(slices) == 1:
        return slices[0], 1
    counts = Counter(map(len, slices))
    if len(counts) > 1:
        told = ", ".join(f"{count} at {often} of its places" for count, often in sorted(counts.items())[:4])
        raise InputError(
            f"has not as many slices at each place: {told}",
            path=path,
            hint="put each time point, with all its slices, into a folder of its own",
        )
    times = len(slices[0])
    return [there[time] for time in range(times) for there in slices], times


def pixel_size(frames: Sequence[Frame], times: int) -> PixelSize | None:
    """Return the size of a pixel, and the distance between slices, of frames that are in order."""
    first, last, slices = frames[0], frames[-1], len(frames) // times
    if first.spacing is None:
        return None
    y, x = first.spacing
    distance = first.thickness
    if slices > 1 and last.place > first.place:
        distance = (last.place - first.place) / (slices - 1)
    return PixelSize(y, x, "mm", distance)


def affine(frames: Sequence[Frame], times: int, size: PixelSize | None) -> tuple[tuple[float, ...], ...] | None:
    """Return the NIfTI affine of column, row and slice: DICOM's axes with the first two turned around.

    Slices follow each other as they lie, which of a tilted gantry is not along their normal.

    Parameters
    ----------
    frames, times : in order, and how many time points they are.
    """
    first, last, slices = frames[0], frames[len(frames) // times - 1], len(frames) // times
    if size is None or first.directions is None or first.position is None:
        return None
    directions = np.array(first.directions)
    along_x, along_y = directions[:3], directions[3:]
    matrix = np.eye(4)
    matrix[:3, 0], matrix[:3, 1] = along_x * size.x, along_y * size.y
    matrix[:3, 2] = np.cross(along_x, along_y) * (size.z or 1.0)
    if last.position is not None and last.place > first.place:
        matrix[:3, 2] = (np.array(last.position) - np.array(first.position)) / (slices - 1)
    matrix[:3, 3] = np.array(first.position)
    matrix[:2] *= -1
    return tuple(tuple(float(value) for value in row) for row in matrix)
