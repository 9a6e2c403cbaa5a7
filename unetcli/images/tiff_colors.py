"""From the samples of a TIFF page to the pixels of the image: palettes, alpha, inversion, bits."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from unetcli.errors import InputError, warn
from unetcli.images.files import InputFile
from unetcli.images.palettes import Colormap, is_gray_ramp

_WHITE_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 2, 3, 5, 6
_REFUSED = {
    _CMYK: "CMYK",
    8: "CIELAB",
    9: "ICC L*a*b*",
    10: "ITU L*a*b*",
    32803: "color filter array (raw camera)",
    32844: "LogL",
    32845: "LogLuv",
}
_ALPHA = (1, 2)


@dataclass(frozen=True)
class Conversion:
    """What happens to the samples of each plane.

    Parameters
    ----------
    samples : channels of one plane afterwards.
    dtype, bits : of the pixels afterwards.
    kept : samples that stay, from the first on; the rest is alpha.
    highest : the value that becomes 0 where white is stored as 0; None where nothing is inverted.
    palette : the colors to look up, (n, 3) uint8; None where there is nothing to look up.
    joint : whether the samples are red, green and blue.
    colormap : the colors of the indices, where the file has some.
    """

    samples: int
    dtype: np.dtype
    bits: int
    kept: int
    highest: int | None
    palette: np.ndarray | None
    joint: bool
    colormap: Colormap | None
    notes: tuple[str, ...]

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Return the pixels of the image for those of the file; the last axis is the samples."""
        if self.palette is not None:
            indices = np.clip(pixels[..., 0].astype(np.intp), 0, len(self.palette) - 1)
            looked_up: np.ndarray = self.palette[indices]
            return looked_up
        if self.kept < pixels.shape[-1]:
            pixels = np.ascontiguousarray(pixels[..., : self.kept])  # a view would keep alpha in memory
        pixels = pixels.astype(self.dtype, copy=False)
        return pixels if self.highest is None else np.asarray(self.highest - pixels, dtype=self.dtype)


def conversion_of(key: Any, file: InputFile, *, palette: str, colors: bool) -> Conversion:
    """Return how the samples of a tifffile page become pixels; warns where alpha is dropped.

    Parameters
    ----------
    palette : "colors" looks palettes up, unless they are gray; "indices" leaves values as they are stored, as those of
        masks must be: also where white is stored as 0, which only says how a mask is shown (by ImageJ) or nothing at
        all (1-bit masks); "mask colors" does the same, but looks every palette up.
    colors : whether the samples of a pixel are colors (axis S) and not channels that the user named.

    Raises
    ------
    InputError : a color space that is not RGB.
    """
    photometric = None if key.photometric is None else int(key.photometric)
    _check_colors(photometric, key.compression, file)
    dtype = np.dtype(key.dtype).newbyteorder("=")
    bits = max(key.bitspersample) if isinstance(key.bitspersample, tuple) else key.bitspersample
    notes: list[str] = []
    samples = key.samplesperpixel
    colormap, lookup, highest = None, None, None
    if dtype.kind == "b":
        dtype = np.dtype(np.uint8)
    if photometric == _PALETTE and key.colormap is not None:
        table = _colors_of(key.colormap)
        colormap = tuple((int(r), int(g), int(b)) for r, g, b in table)
        if palette == "mask colors" or (palette == "colors" and not is_gray_ramp(table)):
            lookup, samples, dtype, bits = table, 3, np.dtype(np.uint8), 8
            notes.append("palette colors as RGB")
    kept = samples if lookup is not None or not colors else samples - _alpha_samples(key, photometric)
    if kept < samples:
        warn("alpha is dropped", path=file.path)
        notes.append("alpha dropped")
    if photometric == _WHITE_IS_ZERO and palette == "colors":
        if dtype.kind == "u":
            highest = (1 << bits) - 1
            notes.append("inverted (white is stored as 0)")
        else:
            notes.append("white is stored as the smallest value; not inverted")
    joint = lookup is not None or (colors and kept == 3 and photometric in (_RGB, _YCBCR))
    samples = samples if lookup is not None else kept
    return Conversion(samples, dtype, bits, kept, highest, lookup, joint, colormap, tuple(notes))


def _check_colors(photometric: int | None, compression: int, file: InputFile) -> None:
    import tifffile

    name = _REFUSED.get(-1 if photometric is None else photometric)
    if photometric == _YCBCR and compression not in tifffile.TIFF.IMAGE_COMPRESSIONS | {6, 7, 33007, 34892}:
        name = "YCbCr"
    if name is not None:
        raise InputError(f"has {name} colors", path=file.path, hint="convert to RGB and save again")


def _alpha_samples(key: Any, photometric: int | None) -> int:
    """Return how many samples at the end of a pixel are alpha."""
    extra = tuple(int(e) for e in key.extrasamples)
    last = next((i for i, kind in enumerate(reversed(extra)) if kind not in _ALPHA), len(extra))
    samples, count = int(key.samplesperpixel), last
    if photometric == _RGB and samples == 4 and not extra:
        count = 1  # writers that leave the tag out mean alpha
    return min(count, samples - 1)


def _colors_of(colormap: np.ndarray) -> np.ndarray:
    """Return the (n, 3) uint8 colors of a TIFF color map (3, n), which has 16 bits; some writers use only 8."""
    wide = colormap.max() > 255
    return np.ascontiguousarray((colormap >> 8 if wide else colormap).astype(np.uint8).T)
