"""What a TIFF says about its axes and pixel size: in the words of ImageJ, of OME, or of tifffile."""

import json
import struct
from xml.sax.saxutils import quoteattr

import numpy as np

from unetcli.images.info import ImageInfo, PixelSize

Shown = tuple[float, float]
_IMAGEJ_TYPES = ("uint8", "uint16", "float32")
_OME_TYPES = {
    **{name: name for name in ("int8", "int16", "int32", "uint8", "uint16", "uint32")},
    "float32": "float",
    "float64": "double",
}
_OME_UNITS = {"µm", "nm", "mm", "cm", "m", "Å", "pixel"}


def describe(
    like: ImageInfo, dtype: np.dtype, planes: int, samples: int, *, ome: bool, big: bool, shown: Shown | None
) -> str:
    """Return the image description of a file with the pages of `like`.

    OME where it is wanted or the input had it; else ImageJ, which Fiji shows with slices, frames and channels; OME
    again for pixels that ImageJ does not know; else the words of tifffile.

    Parameters
    ----------
    planes : channels, each a plane of its own, the fastest axis.
    samples : values per pixel within a plane.
    shown : values shown as black and white; None leaves the viewer to choose.
    """
    name = dtype.newbyteorder("=").name
    axes = like.page_axes.replace("I", "Q")
    regular = axes in ("", "T", "Z", "TZ", "ZT")
    if (ome or like.flavor == "ome") and name in _OME_TYPES:
        return _ome(like, _OME_TYPES[name], axes if regular else "", planes, samples)
    if name in _IMAGEJ_TYPES and not big and axes in ("", "T", "Z", "TZ", "Q"):
        return _imagej(like, axes, planes, shown)
    if name in _OME_TYPES and regular:
        return _ome(like, _OME_TYPES[name], axes, planes, samples)
    return _tifffile(like, planes, samples)


def _imagej(like: ImageInfo, axes: str, channels: int, shown: Shown | None) -> str:
    sizes = dict(zip(axes, like.page_shape, strict=True))
    if channels > 1 and "Q" in sizes:
        sizes["Z"] = sizes["Q"]  # a hyperstack has to name what stands beside the channels
    lines = ["ImageJ=1.53t"]
    if like.pages * channels > 1:
        lines.append(f"images={like.pages * channels}")
    lines += [
        f"{word}={count}"
        for word, count in (("channels", channels), ("slices", sizes.get("Z", 1)), ("frames", sizes.get("T", 1)))
        if count > 1
    ]
    if channels > 1 or len(axes) > 1 or axes == "T":
        lines.append("hyperstack=true")
    if channels > 1:
        lines.append("mode=grayscale")
    size = like.pixel_size
    if size is not None:
        lines.append(f"unit={'micron' if size.unit == 'µm' else _escaped(size.unit)}")
        if size.z is not None:
            lines.append(f"spacing={size.z!r}")
    if like.frame_interval is not None:
        lines.append(f"finterval={like.frame_interval!r}")
    lines.append("loop=false")
    if shown is not None:
        lines += [f"min={shown[0]!r}", f"max={shown[1]!r}"]
    return "\n".join(lines) + "\n"


def imagej_ranges(channels: int, shown: Shown) -> tuple[bytes, tuple[int, int]]:
    """Return ImageJ's binary metadata with the display range of each channel, and the sizes of its two parts.

    A hyperstack takes its ranges from there and not from the description.
    """
    header = struct.pack("<III", 0x494A494A, 0x72616E67, 1)  # "IJIJ", one entry of kind "rang"
    ranges = struct.pack(f"<{2 * channels}d", *shown * channels)
    return header + ranges, (len(header), len(ranges))


def _escaped(text: str) -> str:
    return "".join(c if c.isascii() and c.isprintable() else f"\\u{ord(c):04x}" for c in text if ord(c) < 0x10000)


def _ome(like: ImageInfo, kind: str, axes: str, channels: int, samples: int) -> str:
    sizes = dict(zip(axes, like.page_shape, strict=True)) if axes else {"Z": like.pages}
    order = "XYC" + axes[::-1]  # OME lists axes fastest first
    order += "".join(letter for letter in "ZT" if letter not in order)
    attributes = {
        "ID": "Pixels:0",
        "DimensionOrder": order,
        "Type": kind,
        "SizeX": like.width,
        "SizeY": like.height,
        "SizeC": channels * samples,
        "SizeZ": sizes.get("Z", 1),
        "SizeT": sizes.get("T", 1),
        **_ome_sizes(like.pixel_size),
    }
    if like.frame_interval is not None:
        attributes |= {"TimeIncrement": repr(like.frame_interval), "TimeIncrementUnit": "s"}
    stated = " ".join(f"{key}={quoteattr(str(value))}" for key, value in attributes.items())
    listed = "".join(f'<Channel ID="Channel:0:{c}" SamplesPerPixel="{samples}"/>' for c in range(channels))
    schema = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        f'<OME xmlns="{schema}" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
        f'xsi:schemaLocation="{schema} {schema}/ome.xsd" Creator="unetcli">'
        f'<Image ID="Image:0" Name={quoteattr(_printable(like.path.name))}><Pixels {stated}>{listed}'
        f'<TiffData IFD="0" PlaneCount="{like.pages * channels}"/></Pixels></Image></OME>'
    )


def _printable(name: str) -> str:
    return name.encode(errors="replace").decode() if name.isprintable() else ascii(name)


def _ome_sizes(size: PixelSize | None) -> dict[str, str]:
    if size is None or size.unit == "pixel":
        return {}
    known = size if size.unit in _OME_UNITS else size.in_micrometers()
    if known is None:
        return {}
    values = {"X": known.x, "Y": known.y} | ({} if known.z is None else {"Z": known.z})
    stated = {f"PhysicalSize{axis}": repr(value) for axis, value in values.items()}
    return stated | {f"PhysicalSize{axis}Unit": known.unit for axis in values}


def _tifffile(like: ImageInfo, planes: int, samples: int) -> str:
    axes = like.page_axes + ("C" if planes > 1 else "") + "YX" + ("S" if samples > 1 else "")
    shape = [*like.page_shape, *([planes] if planes > 1 else []), like.height, like.width]
    if samples > 1:
        shape.append(samples)
    return json.dumps({"shape": shape, "axes": axes})
