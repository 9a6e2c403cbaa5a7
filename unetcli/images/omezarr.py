"""OME-Zarr images, chunk by chunk: a folder with an image in several resolutions, of which the full one is read."""

from pathlib import Path
from typing import Any

import numpy as np

from unetcli.errors import InputError
from unetcli.images.axes import Layout, apply_axes, check_layout
from unetcli.images.info import ImageInfo
from unetcli.images.memory import check_memory
from unetcli.images.omezarr_metadata import ZARR_FORMATS, Multiscale, read_multiscale
from unetcli.images.planes import SegmentCache, plane_numbers
from unetcli.images.source import PageSource


class OmeZarrImage:
    """An open OME-Zarr, version 0.4 or 0.5; chunks are decoded when they are looked at."""

    def __init__(self, folder: Path, axes: str | None) -> None:
        self._path = folder
        self._scene = read_multiscale(folder)
        self._array = _open_array(self._scene, folder)
        self._check()
        whole = Layout(self._scene.axes, tuple(self._array.shape), stated=True)
        kept = _kept(whole) if axes is None or len(axes) != len(whole.axes) else list(range(len(axes)))
        found = Layout("".join(whole.axes[i] for i in kept), tuple(whole.shape[i] for i in kept), stated=True)
        named = found if axes is None else apply_axes(axes, found, folder)
        if len(named.axes) != len(found.axes):
            raise InputError(f"has the axes {found.axes}, not {axes}", path=folder, hint="leave --axes out")
        self._axis_of = dict(zip(named.axes, kept, strict=True))  # where each letter is among the axes of the array
        kept = _kept(named)
        self._layout = Layout("".join(named.axes[i] for i in kept), tuple(named.shape[i] for i in kept), stated=True)
        check_layout(self._layout, folder)
        self._cache = SegmentCache()
        self.info = self._make_info()

    def _check(self) -> None:
        array, path = self._array, self._path
        if len(array.shape) != len(self._scene.axes):
            raise InputError(
                f"has {len(array.shape)} axes, its metadata name {len(self._scene.axes)}",
                path=path,
                hint="save it again",
            )
        if array.dtype.kind not in "uifb" or array.dtype.itemsize > 8:
            raise InputError(f"has {array.dtype} pixels", path=path, hint="save it as numbers")
        decoded = int(np.prod(array.chunks)) * array.dtype.itemsize
        check_memory(
            2 * decoded,
            f"a chunk of {'x'.join(map(str, array.chunks))} pixels, decoded as a whole,",
            path=path,
            hint="save the image in smaller chunks, or use a machine with more memory",
        )

    def _make_info(self) -> ImageInfo:
        layout, scene, dtype = self._layout, self._scene, self._array.dtype
        dtype = np.dtype(np.uint8) if dtype.kind == "b" else dtype.newbyteorder("=")
        rgb = scene.rgb and layout.size("C") == 3 and dtype == np.uint8
        notes = (*layout.described(), *(("the channels are the colors of one RGB image",) if rgb else ()))
        return ImageInfo(
            path=self._path,
            format="ome-zarr",
            axes=layout.axes,
            file_shape=layout.shape,
            pages=layout.pages,
            height=layout.size("Y"),
            width=layout.size("X"),
            channels=layout.channels,
            dtype=dtype,
            bits=dtype.itemsize * 8,
            pixel_size=scene.pixel_size,
            page_axes=layout.page_axes,
            page_shape=layout.page_shape,
            frame_interval=scene.frame_interval,
            joint=rgb,
            notes=notes,
            origin=scene.origin,
        )

    def page(self, index: int) -> PageSource:
        """Return a page as a source; only the chunks that a region touches are decoded, and the last ones kept."""
        info, layout = self.info, self._layout
        leading = layout.axes.replace("Y", "").replace("X", "")
        sizes = [layout.size(letter) for letter in leading]
        places = [
            dict(zip(leading, (int(i) for i in np.unravel_index(number, sizes)), strict=True)) if leading else {}
            for number in plane_numbers(layout, index, leading)
        ]

        def read(y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
            region = np.empty((y1 - y0, x1 - x0, len(places)), info.dtype)
            for channel, place in enumerate(places):
                self._read_plane(region[:, :, channel], place, y0, x0)
            return region

        return PageSource(info.shape, info.dtype, read)

    def _read_plane(self, target: np.ndarray, place: dict[str, int], y0: int, x0: int) -> None:
        chunks, y, x = self._array.chunks, self._axis_of["Y"], self._axis_of["X"]
        bottom, right = y0 + target.shape[0], x0 + target.shape[1]
        at = [0] * len(chunks)  # a place on every axis of the array; those of one pixel stay at 0
        for letter, position in place.items():
            at[self._axis_of[letter]] = position
        for down in range(y0 // chunks[y], -(-bottom // chunks[y])):
            for across in range(x0 // chunks[x], -(-right // chunks[x])):
                top, left = down * chunks[y], across * chunks[x]
                a, b = max(y0, top), min(bottom, top + chunks[y])
                c, d = max(x0, left), min(right, left + chunks[x])
                at[y], at[x] = top, left
                number = tuple(position // size for position, size in zip(at, chunks, strict=True))
                chunk = self._cache.get(number, lambda number=number: self._decode(number))  # type: ignore[misc]
                inside: list[Any] = [position % size for position, size in zip(at, chunks, strict=True)]
                inside[y], inside[x] = slice(a - top, b - top), slice(c - left, d - left)
                pixels = chunk[tuple(inside)]
                target[a - y0 : b - y0, c - x0 : d - x0] = pixels if y < x else pixels.T

    def _decode(self, number: tuple[int, ...]) -> np.ndarray:
        bounds = zip(number, self._array.chunks, self._array.shape, strict=True)
        region = tuple(slice(n * size, min(whole, (n + 1) * size)) for n, size, whole in bounds)
        try:
            return np.asarray(self._array[region]).astype(self.info.dtype, copy=False)
        except MemoryError:
            raise
        except Exception as error:  # codecs and stores raise their own types
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(
                f"cannot read chunk {'/'.join(map(str, number))}: data damaged ({reason})",
                path=self._scene.array,
                hint="copy the folder again from its source",
            ) from error

    def close(self) -> None:
        """Nothing stays open."""


def _kept(layout: Layout) -> list[int]:
    """Return the axes that have more than one pixel, and those of the image."""
    return [i for i, size in enumerate(layout.shape) if size > 1 or layout.axes[i] in "YX"]


def _open_array(scene: Multiscale, folder: Path) -> Any:
    try:
        import zarr
    except ImportError:
        raise InputError("is OME-Zarr, which needs zarr", path=folder, hint="pip install 'unetcli[zarr]'") from None
    names = {2: ".zarray", 3: "zarr.json"}
    format = ZARR_FORMATS[scene.version]
    if not (scene.array / names[format]).is_file():
        raise InputError(
            f"its array {scene.array.relative_to(folder)} is missing", path=folder, hint="copy the folder, all of it"
        )
    try:
        return zarr.open_array(scene.array, mode="r", zarr_format=format)  # type: ignore[arg-type]
    except Exception as error:  # zarr and its codecs raise their own types
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"has a damaged array {scene.array.relative_to(folder)} ({reason})",
            path=folder,
            hint="copy the folder again from its source",
        ) from error
