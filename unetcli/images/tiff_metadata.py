"""Pixel size and the like, as ImageJ, OME and plain TIFF files state them."""

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from unetcli.images.info import PixelSize, canonical_unit

_RESOLUTION_UNITS = {2: "inch", 3: "cm", 4: "mm", 5: "µm"}
_SECONDS = {"s": 1.0, "sec": 1.0, "ms": 1e-3, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Description:
    """What the metadata states besides axes."""

    flavor: str
    pixel_size: PixelSize | None
    frame_interval: float | None = None


def describe(tiff: Any, key: Any, kind: str) -> Description:
    """Return pixel size, frame interval and flavor of an open tifffile."""
    plain = _resolution(key)
    if tiff.is_ome and (stated := _ome(tiff.ome_metadata or "")) is not None:
        return stated if stated.pixel_size is not None else Description("ome", plain, stated.frame_interval)
    if tiff.is_imagej:
        return _imagej(tiff.imagej_metadata or {}, key, plain)
    if kind == "svs" and (size := _aperio(str(key.description))) is not None:
        return Description("plain", size)
    return Description("plain", plain)


def _resolution(key: Any) -> PixelSize | None:
    """Return the size by the resolution tags; None where they are absent or say one pixel per pixel."""
    stated = key.tags.valueof(296, default=2)
    unit = int(stated) if isinstance(stated, int) else 1
    sizes = []
    for tag in (283, 282):
        value = key.tags.valueof(tag)
        numerator, denominator = value if isinstance(value, tuple) and len(value) == 2 else (0, 0)
        if not numerator or not denominator:
            return None
        sizes.append(denominator / numerator)
    if unit not in _RESOLUTION_UNITS and sizes == [1.0, 1.0]:
        return None
    return PixelSize(sizes[0], sizes[1], _RESOLUTION_UNITS.get(unit, "pixel"))


def _imagej(metadata: dict[str, Any], key: Any, plain: PixelSize | None) -> Description:
    unit = canonical_unit(str(metadata.get("unit", "")))
    spacing = _positive(metadata.get("spacing"))
    interval = _positive(metadata.get("finterval"))
    if plain is None:
        if unit in ("pixel", "") and spacing is None:
            return Description("imagej", None, interval)
        plain = PixelSize(1.0, 1.0, "pixel")
    stated = unit != "pixel" or "unit" in metadata
    size = PixelSize(plain.y, plain.x, unit if stated else plain.unit, spacing)
    return Description("imagej", size, interval)


def _aperio(description: str) -> PixelSize | None:
    """Return the size that Aperio states as MPP, micrometers per pixel."""
    for part in description.split("|"):
        name, _, value = part.partition("=")
        if name.strip() == "MPP" and (size := _positive(value)) is not None:
            return PixelSize(size, size, "µm")
    return None


def _ome(xml: str) -> Description | None:
    pixels = next(_elements(xml, "Pixels"), None)
    if pixels is None:
        return None
    sizes: dict[str, tuple[float, str]] = {}
    for axis in "XYZ":
        size = _positive(pixels.get(f"PhysicalSize{axis}"))
        if size is not None:
            sizes[axis] = size, canonical_unit(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
    interval = _positive(pixels.get("TimeIncrement"))
    if interval is not None:
        interval *= _SECONDS.get(pixels.get("TimeIncrementUnit", "s"), 1.0)
    if not sizes:
        return Description("ome", None, interval)
    x, unit = sizes.get("X") or sizes.get("Y") or (1.0, "pixel")
    y = _converted(sizes.get("Y"), unit) or x
    return Description("ome", PixelSize(y, x, unit, _converted(sizes.get("Z"), unit)), interval)


def _converted(size: tuple[float, str] | None, unit: str) -> float | None:
    """Return a size in another unit; None where there is none or the units cannot be compared."""
    if size is None:
        return None
    if size[1] == unit:
        return size[0]
    one = PixelSize(size[0], size[0], size[1]).in_micrometers()
    per = PixelSize(1.0, 1.0, unit).in_micrometers()
    return None if one is None or per is None else one.x / per.x


def ome_files(xml: str) -> tuple[str, ...]:
    """Return the names of the files that OME metadata refers to."""
    names = [uuid.get("FileName") for uuid in _elements(xml, "UUID")]
    names += [only.get("MetadataFile") for only in _elements(xml, "BinaryOnly")]
    return tuple(dict.fromkeys(name for name in names if name))


def _elements(xml: str, name: str) -> Iterator[ElementTree.Element]:
    try:
        root = ElementTree.fromstring(xml)
    except (ElementTree.ParseError, ValueError):
        return iter(())
    return (element for element in root.iter() if element.tag.rpartition("}")[2] == name)


def _positive(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and number > 0 else None
