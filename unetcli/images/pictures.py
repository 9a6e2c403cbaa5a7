"""PNG, JPEG, BMP and GIF files."""

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np

from unetcli.errors import InputError, warn
from unetcli.images.axes import Layout, apply_axes
from unetcli.images.files import InputFile, truncated
from unetcli.images.info import ImageInfo, PixelSize
from unetcli.images.memory import check_memory, readable_size
from unetcli.images.palettes import Colormap, is_gray_ramp
from unetcli.images.planes import missing_codec
from unetcli.images.source import PageSource
from unetcli.images.turned import warn_of_turned

PIXEL_LIMIT = 178_956_970  # pillow's own limit: beyond it a compressed picture counts as a decompression bomb
_DEFLATE = 1040  # bytes that one byte of deflate can become at most
_REFUSED = {"CMYK": "CMYK", "YCbCr": "YCbCr", "LAB": "CIELAB", "HSV": "HSV"}
_CHANNELS = {"1": 1, "L": 1, "I;16": 1, "I;16B": 1, "I": 1, "F": 1, "RGB": 3, "RGBX": 3}
_WITHOUT_ALPHA = {"LA": "L", "La": "L", "RGBA": "RGB", "RGBa": "RGB", "PA": "P"}
# Bytes per color of a palette, and which of them are red, green and blue.
_PALETTE_ORDERS = {"RGB": (3, [0, 1, 2]), "BGR": (3, [2, 1, 0]), "RGBA": (4, [0, 1, 2]), "BGRX": (4, [2, 1, 0])}
_ORIENTATION = 0x0112  # tag of EXIF
_PNG_END = b"IEND\xaeB`\x82"


class PictureImage:
    """An open picture; each page is decoded as a whole."""

    def __init__(self, file: InputFile, format: str, axes: str | None, palette: str) -> None:
        self._file = file
        self._format = format
        self._palette = palette
        self._decoded: tuple[int, np.ndarray] | None = None
        try:
            self._picture = _plugin(format)(file.file, str(file.path))
        except (MemoryError, InputError):
            raise
        except Exception as error:
            raise _damaged(file, format, error) from error
        self._check_size()
        self.info = self._make_info(axes)

    def _check_size(self) -> None:
        width, height = self._picture.size
        path, size = self._file.path, f"{width}x{height}"
        if width < 1 or height < 1:
            raise InputError(f"has no pixels ({size})", path=path, hint="save the image again")
        declared = width * height * (2 if self._wide() else 1)
        if width * height > PIXEL_LIMIT or (self._format == "png" and declared > _DEFLATE * 8 * self._file.size):
            raise InputError(
                f"declares {size} pixels ({readable_size(declared)}) but the file has {self._file.size} bytes; "
                f"{self._format.upper()} files of more than {PIXEL_LIMIT} pixels are not opened",
                path=path,
                hint="copy it again from its source; save very large images as tiled TIFF",
            )
        if self._format == "png" and _PNG_END not in self._tail():
            raise truncated(path, self._file.size + 1, self._file.size)
        if self._format == "jpeg" and b"\xff\xd9" not in self._tail():
            raise truncated(path, self._file.size + 1, self._file.size)

    def _tail(self) -> bytes:
        count = min(self._file.size, 1 << 16)
        return bytes(self._file.read(self._file.size - count, count))

    def _wide(self) -> bool:
        return self._png_header()[0] == 16

    def _png_header(self) -> tuple[int, int]:
        """Return bits per sample and color type of a PNG; 8 bits for others."""
        if self._format != "png":
            return 8, -1
        head = bytes(self._file.read(24, 2))
        return head[0], head[1]

    def _make_info(self, axes: str | None) -> ImageInfo:
        picture, path = self._picture, self._file.path
        pages = getattr(picture, "n_frames", 1)
        mode = picture.mode
        if mode in _REFUSED:
            raise InputError(f"has {_REFUSED[mode]} colors", path=path, hint="convert to RGB and save again")
        notes: list[str] = []
        bits, color = self._png_header()
        dtype = np.dtype(np.uint16 if bits == 16 or mode.startswith("I") else np.uint8)
        if mode == "F":
            dtype = np.dtype(np.float32)
        base = "L" if (bits, color) == (16, 4) else _WITHOUT_ALPHA.get(mode, mode)  # gray, which pillow makes RGB
        if base != mode or "transparency" in picture.info:
            warn("alpha is dropped", path=path)
            notes.append("alpha dropped")
        colormap = self._colormap() if base == "P" and pages == 1 else None
        self._looked_up = base == "P" and not self._keeps_indices(colormap)
        channels = 3 if base == "RGB" or self._looked_up or pages > 1 else 1
        if self._looked_up:
            notes.append("palette colors as RGB")
        warn_of_turned(self._orientation(), path)
        if base not in {*_CHANNELS, "P"}:
            raise InputError(f"has pixels of kind {mode}", path=path, hint="convert to gray or RGB and save again")
        width, height = picture.size
        shape = (height, width, 3) if channels == 3 else (height, width)
        layout = Layout("YXS"[: len(shape)], shape, stated=True)
        if pages > 1:
            layout = Layout("Q" + layout.axes, (pages, *shape), stated=False)
        if axes is not None:
            layout = self._renamed(axes, layout)
        return ImageInfo(
            path=path,
            format=self._format,
            axes=layout.axes,
            file_shape=layout.shape,
            pages=pages,
            height=height,
            width=width,
            channels=channels,
            dtype=dtype,
            bits=1 if mode == "1" else max(1, bits if base != "P" else 8),
            pixel_size=self._pixel_size(),
            page_axes=layout.page_axes,
            page_shape=layout.page_shape,
            joint=channels == 3,
            colormap=colormap if self._palette == "indices" else None,
            notes=(*notes, *layout.described()),
        )

    def _renamed(self, axes: str, layout: Layout) -> Layout:
        renamed = apply_axes(axes, layout, self._file.path)
        if [a for a in renamed.axes if a in "YX"] != ["Y", "X"] or renamed.axes.index("Y") != layout.axes.index("Y"):
            raise InputError(
                f"a {self._format.upper()} has the axes {layout.axes}, not {axes}",
                path=self._file.path,
                hint="leave --axes out for this file, or save it as TIFF",
            )
        return renamed

    def _orientation(self) -> object:
        """Return what EXIF says of it in the header; pillow decodes a picture to find what stands behind it."""
        if "exif" not in self._picture.info:
            return None
        with contextlib.suppress(Exception):  # damaged EXIF says nothing
            return self._picture.getexif().get(_ORIENTATION)
        return None

    def _colormap(self) -> Colormap | None:
        """Return the palette as it stands in the header; pillow's own way to it decodes the picture."""
        palette = self._picture.palette
        if palette is None:
            raise InputError(
                "has pixels that are indices, and no palette", path=self._file.path, hint="copy or save it again"
            )
        order = _PALETTE_ORDERS.get(palette.rawmode or palette.mode)
        if order is None:
            raise InputError(
                f"has a palette of kind {palette.mode}", path=self._file.path, hint="convert to RGB and save again"
            )
        data = np.frombuffer(bytes(palette.palette), np.uint8)
        colors = data[: len(data) // order[0] * order[0]].reshape(-1, order[0])[:, order[1]]
        return tuple((int(r), int(g), int(b)) for r, g, b in colors) or None

    def _keeps_indices(self, colormap: Colormap | None) -> bool:
        if self._palette == "indices":
            if colormap is None:
                raise InputError(
                    "an animation has no single palette", path=self._file.path, hint="save the mask as TIFF or PNG"
                )
            return True
        return self._palette == "colors" and colormap is not None and is_gray_ramp(np.array(colormap, dtype=np.uint8))

    def _pixel_size(self) -> PixelSize | None:
        dpi = self._picture.info.get("dpi")
        if self._format not in ("png", "jpeg") or not dpi:
            return None
        x, y = float(dpi[0]), float(dpi[1])
        return PixelSize(1 / y, 1 / x, "inch") if x > 0 and y > 0 else None

    def page(self, index: int) -> PageSource:
        """Return page `index`, which is decoded when it is first looked at."""
        info = self.info
        shape = (info.height, info.width, info.channels)

        def read(y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
            return self._pixels(index)[y0:y1, x0:x1].copy()

        return PageSource(shape, info.dtype, read)

    def _pixels(self, index: int) -> np.ndarray:
        kept = self._decoded
        if kept is not None and kept[0] == index:
            return kept[1]
        info = self.info
        needed = info.height * info.width * info.channels * info.dtype.itemsize
        check_memory(3 * needed, f"the picture, {info.width}x{info.height} pixels,", path=info.path)
        try:
            pixels = self._decode(index)
        except (MemoryError, InputError):
            raise
        except Exception as error:
            raise _damaged(self._file, self._format, error) from error
        if pixels.ndim == 2:
            pixels = pixels[:, :, None]
        pixels = np.ascontiguousarray(pixels[:, :, : info.channels], dtype=info.dtype)
        self._decoded = (index, pixels)
        return pixels

    def _decode(self, index: int) -> np.ndarray:
        bits, color = self._png_header()
        if bits == 16 and color in (2, 4, 6):  # pillow would keep eight of the bits
            return self._decode_wide()
        picture: Any = self._picture
        if self.info.pages > 1:
            picture.seek(index)
            return np.asarray(picture.convert("RGB"))
        if picture.mode in ("P", "PA") and not self._looked_up:
            return np.asarray(picture if picture.mode == "P" else picture.getchannel(0))
        if self._looked_up:
            return np.asarray(picture.convert("RGB"))
        pixels = np.asarray(picture)
        if bits in (2, 4) and picture.mode == "L":
            pixels = pixels // np.uint8(255 // ((1 << bits) - 1))  # pillow stretches them to eight bits
        return pixels

    def _decode_wide(self) -> np.ndarray:
        try:
            import imagecodecs
        except ImportError:
            raise missing_codec(self._file, "a PNG of 16-bit colors") from None
        data = bytes(self._file.read(0, self._file.size))
        decoded: np.ndarray = imagecodecs.png_decode(data)
        return decoded

    def close(self) -> None:
        """Forget what was decoded."""
        self._decoded = None


def _plugin(format: str) -> Callable[..., Any]:
    """Return pillow's reader of one format; no other is tried."""
    if format == "png":
        from PIL.PngImagePlugin import PngImageFile

        return PngImageFile
    if format == "jpeg":
        from PIL.JpegImagePlugin import JpegImageFile

        return JpegImageFile
    if format == "bmp":
        from PIL.BmpImagePlugin import BmpImageFile

        return BmpImageFile
    from PIL.GifImagePlugin import GifImageFile

    return GifImageFile


def _damaged(file: InputFile, format: str, error: Exception) -> InputError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return InputError(
        f"is a truncated or damaged {format.upper()} of {file.size} bytes ({reason})",
        path=file.path,
        hint="copy the file again from its source, or save it again",
    )
