"""What an image file says about itself, as values."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

# How programs spell the units of length, and the one spelling used here.
_UNITS = {
    "µm": ("um", "\u03bcm", "micron", "microns", "micrometer", "micrometre", "\\u00b5m", "\\u03bcm"),
    "nm": ("nanometer", "nanometre", "nanometers"),
    "mm": ("millimeter", "millimetre", "millimeters"),
    "cm": ("centimeter", "centimetre", "centimeters"),
    "m": ("meter", "metre", "meters"),
    "Å": ("angstrom", "a"),
    "inch": ("in", "inches", '"'),
    "pixel": ("pixels", "px", ""),
}
_SPELLINGS = {spelling: unit for unit, spellings in _UNITS.items() for spelling in (unit, *spellings)}
MICROMETERS = {"µm": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6, "Å": 1e-4, "inch": 25400.0}


def canonical_unit(unit: str) -> str:
    """Return the one spelling of a unit of length used here; unknown units stay as they are."""
    stripped = unit.strip().strip("\x00")
    return _SPELLINGS.get(stripped) or _SPELLINGS.get(stripped.lower(), stripped)


@dataclass(frozen=True)
class PixelSize:
    """How large a pixel is; `z` is the distance between slices where the file states one."""

    y: float
    x: float
    unit: str
    z: float | None = None

    def in_micrometers(self) -> "PixelSize | None":
        """Return the same size in micrometers; None where the unit is not a length."""
        factor = MICROMETERS.get(self.unit)
        if factor is None:
            return None
        return PixelSize(self.y * factor, self.x * factor, "µm", None if self.z is None else self.z * factor)


@dataclass(frozen=True)
class ImageInfo:
    """Everything about an image that is known before a pixel is decoded.

    Parameters
    ----------
    path : the file, or the name given to a stream.
    format : "tiff", "png", "jpeg", "bmp", "gif", "nifti" or "dicom", by the file's first bytes; "ome-zarr".
    axes : one letter per entry of `file_shape`, as understood: C and S are channels, Y and X the image, all others
        pages; Q are pages of unknown meaning.
    file_shape : sizes in the file, in the order of `axes`.
    pages, height, width, channels : sizes of what `page` delivers.
    dtype, bits : type of the pixels delivered, and how many of its bits the file uses.
    pixel_size : None where the file states none.
    page_axes, page_shape : the axes that became pages, slowest first; empty for a single image.
    flavor : whose metadata a TIFF carries: "ome", "imagej" or "plain".
    frame_interval : seconds between frames (axis T), where stated.
    joint : whether the channels are the colors of one RGB image.
    colormap : red, green, blue of each index where a palette image is read as indices.
    notes : what the user should be told about the interpretation.
    orientation : for medical volumes, what is needed to write the same geometry back.
    origin : where an OME-Zarr puts its first pixel: (z, y, x) in the unit of `pixel_size`; None is nowhere special.
    """

    path: Path
    format: str
    axes: str
    file_shape: tuple[int, ...]
    pages: int
    height: int
    width: int
    channels: int
    dtype: np.dtype
    bits: int
    pixel_size: PixelSize | None = None
    page_axes: str = ""
    page_shape: tuple[int, ...] = ()
    flavor: str = "plain"
    frame_interval: float | None = None
    joint: bool = False
    colormap: tuple[tuple[int, int, int], ...] | None = None
    notes: tuple[str, ...] = ()
    orientation: tuple[tuple[float, ...], ...] | None = None
    origin: tuple[float, float, float] | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one page: height, width, channels."""
        return self.height, self.width, self.channels
