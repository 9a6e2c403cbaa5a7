"""What an OME-Zarr says about its axes and pixel size: NGFF 0.4 (zarr format 2) and 0.5 (zarr format 3)."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from unetcli.errors import InputError
from unetcli.images.info import MICROMETERS, ImageInfo, PixelSize, canonical_unit

ZARR_FORMATS = {"0.4": 2, "0.5": 3}  # the format of zarr in which each version of NGFF is stored
_LARGEST = 16 << 20  # bytes of metadata
_SECONDS = {"second": 1.0, "millisecond": 1e-3, "microsecond": 1e-6, "minute": 60.0, "hour": 3600.0, "day": 86400.0}
_UNITS = {
    "µm": "micrometer",
    "nm": "nanometer",
    "mm": "millimeter",
    "cm": "centimeter",
    "m": "meter",
    "Å": "angstrom",
    "inch": "inch",
}
_RGB = ("FF0000", "00FF00", "0000FF")


@dataclass(frozen=True)
class Multiscale:
    """The images of one scene in several resolutions, as their metadata have them.

    Parameters
    ----------
    version : of NGFF, a key of `ZARR_FORMATS`.
    folder : where the metadata lie.
    array : folder of the array in full resolution.
    axes : one capital letter per axis, slowest first.
    pixel_size, origin : of the space, where stated; the origin is (z, y, x) in the unit of the pixel size.
    frame_interval : seconds between time points, where stated.
    rgb : whether the channels are shown as pure red, green and blue.
    """

    version: str
    folder: Path
    array: Path
    axes: str
    pixel_size: PixelSize | None
    origin: tuple[float, float, float] | None
    frame_interval: float | None
    rgb: bool


def read_multiscale(folder: Path) -> Multiscale:
    """Return what the metadata of an OME-Zarr say about its first image.

    Raises
    ------
    InputError : absent, damaged or foreign metadata; says what is missing.
    """
    attributes = _attributes(folder)
    if "bioformats2raw.layout" in attributes and "multiscales" not in attributes:
        if (folder / "1").is_dir():
            raise InputError("holds several images", path=folder, hint=f"name one of them: {folder / '0'}")
        return read_multiscale(folder / "0")
    if "plate" in attributes or "well" in attributes:
        raise InputError("is a plate or a well, not an image", path=folder, hint="name one of its images: PLATE/A/1/0")
    scenes = attributes.get("multiscales")
    if not isinstance(scenes, list) or not scenes or not isinstance(scenes[0], dict):
        raise InputError("has no multiscales metadata", path=folder, hint="save it as OME-Zarr, version 0.4 or 0.5")
    scene = scenes[0]
    version = str(attributes.get("version") or scene.get("version") or "0.4")
    if version not in ZARR_FORMATS:
        known = " and ".join(ZARR_FORMATS)
        raise InputError(f"is OME-Zarr {version}; {known} can be read", path=folder, hint=f"save it in version {known}")
    try:
        return _multiscale(folder, version, scene, attributes.get("omero"))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(folder, str(error) or type(error).__name__) from error


def _attributes(folder: Path) -> dict[str, Any]:
    """Return the attributes of a group: those below ``ome`` from version 0.5 on."""
    group = _document(folder / "zarr.json")
    if (folder / ".zarray").is_file() or (group is not None and group.get("node_type") == "array"):
        raise InputError("is an array without OME metadata", path=folder, hint="name the folder above it")
    if group is not None:
        attributes = group.get("attributes", {})
        inner = attributes.get("ome") if isinstance(attributes, dict) else None
        return inner if isinstance(inner, dict) else {}
    attributes = _document(folder / ".zattrs")
    if attributes is None:
        raise InputError(
            "has no metadata (neither .zattrs nor zarr.json)", path=folder, hint="copy the folder again, with all files"
        )
    return attributes


def _document(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"{path.stat().st_size} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no object")
    except PermissionError as error:
        raise InputError("permission denied", path=path, hint="make the folder readable: chmod -R +rX") from error
    except (ValueError, RecursionError, OSError) as error:
        raise _damaged(path.parent, f"{path.name}: {error}") from error
    return content


def _damaged(folder: Path, what: str) -> InputError:
    return InputError(f"has damaged metadata ({what})", path=folder, hint="copy the folder again from its source")


def _multiscale(folder: Path, version: str, scene: dict[str, Any], omero: Any) -> Multiscale:
    axes = [(str(axis["name"]).lower(), axis.get("unit")) for axis in scene["axes"]]
    letters = "".join(_letter(name) for name, _ in axes)
    if len(set(letters)) < len(letters) or not {"Y", "X"} <= set(letters):
        raise ValueError(f"axes {', '.join(name for name, _ in axes)}")
    first = scene["datasets"][0]
    inside = PurePosixPath(str(first["path"]))
    if inside.is_absolute() or ".." in inside.parts:
        raise ValueError(f"the path {inside} leads out of the folder")
    scale, shift = [1.0] * len(axes), [0.0] * len(axes)
    for step in (*first.get("coordinateTransformations", ()), *scene.get("coordinateTransformations", ())):
        numbers = [float(number) for number in step.get(step["type"], [])]
        if step["type"] in ("scale", "translation") and len(numbers) != len(axes):
            raise ValueError(f"{step['type']} of {len(numbers)} numbers for {len(axes)} axes")
        if step["type"] == "scale":
            scale = [a * b for a, b in zip(scale, numbers, strict=True)]
            shift = [a * b for a, b in zip(shift, numbers, strict=True)]
        elif step["type"] == "translation":
            shift = [a + b for a, b in zip(shift, numbers, strict=True)]
    units = dict(zip(letters, (unit for _, unit in axes), strict=True))
    scales, shifts = dict(zip(letters, scale, strict=True)), dict(zip(letters, shift, strict=True))
    size, origin = _space(units, scales, shifts)
    seconds = _SECONDS.get(str(units.get("T")))
    return Multiscale(
        version=version,
        folder=folder,
        array=folder.joinpath(*inside.parts),
        axes=letters,
        pixel_size=size,
        origin=origin,
        frame_interval=scales["T"] * seconds if seconds is not None else None,
        rgb=_is_rgb(omero),
    )


def _letter(name: str) -> str:
    return name.upper() if name in ("t", "c", "z", "y", "x") else "Q"


def _space(
    units: dict[str, str | None], scales: dict[str, float], shifts: dict[str, float]
) -> tuple[PixelSize | None, tuple[float, float, float] | None]:
    """Return pixel size and origin in the unit of the axis y; without any unit and scale there are none."""
    if min(scales.values()) <= 0:
        raise ValueError("a scale that is not above 0")
    unit = canonical_unit(str(units["Y"] or ""))
    if unit == "pixel" and scales["Y"] == scales["X"] == 1.0 and not any(shifts.values()):
        return None, None

    def in_unit(axis: str, number: float) -> float:
        own = canonical_unit(str(units.get(axis) or ""))
        if own == unit or own not in MICROMETERS or unit not in MICROMETERS:
            return number
        return number * MICROMETERS[own] / MICROMETERS[unit]

    z = in_unit("Z", scales["Z"]) if "Z" in scales else None
    size = PixelSize(scales["Y"], in_unit("X", scales["X"]), unit, z)
    origin = (in_unit("Z", shifts.get("Z", 0.0)), shifts["Y"], in_unit("X", shifts["X"]))
    return size, origin if any(origin) else None


def _is_rgb(omero: Any) -> bool:
    channels = omero.get("channels") if isinstance(omero, dict) else None
    if not isinstance(channels, list) or not all(isinstance(channel, dict) for channel in channels):
        return False
    return tuple(str(channel.get("color")).upper() for channel in channels) == _RGB


def describe(
    like: ImageInfo,
    axes: str,
    levels: Sequence[int],
    version: str,
    *,
    labels: Sequence[tuple[int, int, int]] | None,
    channels: int,
    picture: bool,
    centered: bool,
) -> dict[str, Any]:
    """Return the attributes of a group of arrays that lie on `like`.

    Parameters
    ----------
    axes : small letters of the arrays' axes, slowest first.
    levels : by how much each array is reduced along y and x: 1, 2, 4 and so on.
    labels : red, green and blue of each value of a mask, which may be none; None where it is no mask.
    channels : probabilities, shown from 0 to 1; 0 for a mask.
    picture : whether the channels are red, green and blue instead, from 0 to 255.
    centered : whether a reduced pixel stands for the mean of the pixels it covers, not for the first of them.
    """
    size, origin = like.pixel_size, dict(zip("zyx", like.origin or (0.0, 0.0, 0.0), strict=True))
    scale = {"z": 1.0, "y": 1.0, "x": 1.0} if size is None else {"z": size.z or 1.0, "y": size.y, "x": size.x}
    scale["t"] = like.frame_interval or 1.0
    datasets = []
    for number, level in enumerate(levels):
        reduced = {axis: level if axis in "yx" else 1 for axis in axes}
        half = {axis: (reduced[axis] - 1) / 2 if centered else 0.0 for axis in axes}
        shift = [origin.get(axis, 0.0) + half[axis] * scale.get(axis, 1.0) for axis in axes]
        steps: list[dict[str, Any]] = [{"type": "scale", "scale": [scale.get(a, 1.0) * reduced[a] for a in axes]}]
        if any(shift):
            steps.append({"type": "translation", "translation": shift})
        datasets.append({"path": str(number), "coordinateTransformations": steps})
    scene = {
        "name": like.path.name,
        "axes": [_axis(axis, like) for axis in axes],
        "datasets": datasets,
        "type": "mean" if centered else "nearest",
    }
    attributes: dict[str, Any] = {"multiscales": [scene]}
    if labels is not None:
        label: dict[str, Any] = {"version": version}
        if labels:
            label["colors"] = [
                {"label-value": i, "rgba": [*map(int, rgb), 255 * (i > 0)]} for i, rgb in enumerate(labels)
            ]
        attributes["image-label"] = label
    if channels:
        end = 255.0 if picture else 1.0
        window = {"start": 0.0, "end": end, "min": 0.0, "max": end}
        colors = _RGB if picture else ("FFFFFF",) * channels
        names = ("red", "green", "blue") if picture else [f"class {number}" for number in range(channels)]
        shown = [
            {"label": name, "color": color, "window": window, "active": True}
            for name, color in zip(names, colors, strict=True)
        ]
        attributes["omero"] = {"version": version, "channels": shown}
    if version == "0.4":
        scene["version"] = version
        return attributes
    return {"ome": {"version": version, **attributes}}


def _axis(axis: str, like: ImageInfo) -> dict[str, str]:
    if axis == "c":
        return {"name": axis, "type": "channel"}
    if axis == "t":
        unit = {"unit": "second"} if like.frame_interval is not None else {}
        return {"name": axis, "type": "time", **unit}
    size = like.pixel_size
    stated = size is not None and size.unit in _UNITS and not (axis == "z" and size.z is None)
    return {"name": axis, "type": "space", **({"unit": _UNITS[size.unit]} if stated and size is not None else {})}
