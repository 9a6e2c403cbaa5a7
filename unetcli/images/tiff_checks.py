"""What a TIFF directory declares, compared with the file, before anything is decoded."""

from typing import Any

import numpy as np

from unetcli.errors import InputError, warn
from unetcli.images.axes import MAX_CHANNELS
from unetcli.images.files import InputFile, truncated
from unetcli.images.memory import readable_size
from unetcli.images.planes import compression_name, decoded_bytes, is_jpeg, missing_codec, segment_size

# How many bytes one compressed byte can become at most, by the definition of the format.
_EXPANSION = {1: 1, 5: 4096, 8: 1040, 32946: 1040, 32773: 64}
_IMPLAUSIBLE = 100  # a file this many times smaller than declared is not merely cut off
_MOST_ENTRIES = 4096
_NUMBERS = ("imagewidth", "imagelength", "imagedepth", "samplesperpixel", "rowsperstrip", "tilewidth", "tilelength",
            "compression", "planarconfig", "predictor", "fillorder", "sampleformat", "subfiletype")  # fmt: skip
_TYPE_SIZES = np.array([0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8], dtype=np.uint64)
# Tags without which the pixels cannot be read right; a damaged one among the others is only worth a warning.
_NEEDED_TAGS = {*range(254, 267), 273, 277, 278, 279, 284, 317, 320, *range(322, 326), 330, 338, 339, 347}


def check_directories(file: InputFile) -> None:
    """Raise unless every directory of the file and all their values lie within it; warns where they form a circle.

    Raises
    ------
    InputError : truncated, or a directory that cannot be one.
    """
    if file.path.suffix.lower() == ".ndpi":  # has offsets of its own kind
        return
    head = bytes(file.read(0, min(16, file.size)))
    order = "<" if head[:2] == b"II" else ">"
    big = head[2:4] in (b"+\0", b"\0+")
    offset, count = (np.dtype(order + "u8"), np.dtype(order + "u8")) if big else (np.dtype(order + "u4"),) * 2
    if not big:
        count = np.dtype(order + "u2")
    entry = np.dtype([("tag", order + "u2"), ("type", order + "u2"), ("count", offset), ("value", offset)])
    start = 8 if big else 4
    if file.size < start + offset.itemsize:
        raise truncated(file.path, start + offset.itemsize, file.size)
    at = int(np.frombuffer(head, offset, 1, start)[0])
    seen: set[int] = set()
    while at:
        if at in seen:
            warn("the list of pages is circular; each page is read once", path=file.path)
            return
        seen.add(at)
        if at + count.itemsize > file.size:
            raise truncated(file.path, at + count.itemsize, file.size)
        entries = int(np.frombuffer(file.read(at, count.itemsize), count)[0])
        length = entries * entry.itemsize + offset.itemsize
        at += count.itemsize
        if not 0 < entries <= _MOST_ENTRIES:
            raise _corrupt(file, f"{entries} entries at byte {at}")
        if at + length > file.size:
            raise _corrupt(file, f"truncated, {at + length} bytes expected, {file.size} present")
        data = file.read(at, length)
        _check_values(np.frombuffer(data, entry, entries), offset.itemsize, file)
        at = int(np.frombuffer(data, offset, 1, length - offset.itemsize)[0])


def _check_values(entries: np.ndarray, inline: int, file: InputFile) -> None:
    """Raise where a value that is stored elsewhere ends behind the file."""
    sizes = _TYPE_SIZES[np.minimum(entries["type"], len(_TYPE_SIZES) - 1)] * entries["count"].astype(np.float64)
    ends = np.where(sizes > inline, entries["value"].astype(np.float64) + sizes, 0)
    for entry in entries[ends > file.size]:
        tag, start, end = int(entry["tag"]), int(entry["value"]), int(ends[entries["tag"] == entry["tag"]].max())
        if end - start > file.size and tag in _NEEDED_TAGS:
            raise _corrupt(file, f"tag {tag} has {entry['count']} values, the file {file.size} bytes")
        if tag in _NEEDED_TAGS or start <= file.size:
            raise truncated(file.path, end, file.size)
        warn(f"TIFF tag {tag} is damaged and left out", path=file.path)


def check_pixels(key: Any, file: InputFile) -> None:
    """Raise unless pixels of this kind can be read.

    Raises
    ------
    InputError : no pixels, complex numbers, odd bits, too many samples, or an unknown compression.
    """
    _check_kinds(key, file)
    path, bits = file.path, key.bitspersample
    if key.imagewidth == 0 or key.imagelength == 0:
        raise InputError(f"has no pixels ({key.imagewidth}x{key.imagelength})", path=path, hint="save the image again")
    if key.samplesperpixel > MAX_CHANNELS or key.samplesperpixel < 1:
        raise InputError(
            f"has {key.samplesperpixel} channels, at most {MAX_CHANNELS} can be read",
            path=path,
            hint="save the channels that matter",
        )
    if 0 in segment_size(key):
        raise _corrupt(file, f"tiles of {key.tilewidth}x{key.tilelength} pixels")
    if key.imagedepth > 1:
        raise InputError("has volumes as pages", path=path, hint="save the slices as pages, for instance with Fiji")
    if key.sampleformat in (5, 6) or (key.dtype is not None and np.dtype(key.dtype).kind == "c"):
        raise InputError("has complex pixels", path=path, hint="save the magnitude first")
    if key.dtype is None:
        raise InputError(f"has pixels of {bits} bits", path=path, hint="save it with 8, 16 or 32 bits per channel")
    _check_compression(key.compression, file)


def _check_kinds(key: Any, file: InputFile) -> None:
    """Raise where the directory has lists or texts in places of numbers."""
    for name in _NUMBERS:
        if not isinstance(getattr(key, name), int):
            raise _corrupt(file, f"{name} is {str(getattr(key, name))[:40]!r}")
    bits = key.bitspersample if isinstance(key.bitspersample, tuple) else (key.bitspersample,)
    extra = key.extrasamples if isinstance(key.extrasamples, tuple) else (key.extrasamples,)
    if not all(isinstance(value, int) for value in (*bits, *extra)):
        raise _corrupt(file, f"bits per sample are {str(bits)[:40]}")
    photometric = key.photometric
    if photometric is not None and not isinstance(photometric, int):
        raise _corrupt(file, f"photometric is {str(photometric)[:40]!r}")
    if photometric == 3 and (
        key.colormap is None or np.ndim(key.colormap) != 2 or len(key.colormap) != 3 or np.size(key.colormap) == 0
    ):
        raise _corrupt(file, "the palette is damaged")


def _check_compression(compression: int, file: InputFile) -> None:
    import tifffile

    name = compression_name(compression)
    if name == str(int(compression)):
        raise InputError(
            f"unknown compression {int(compression)}", path=file.path, hint="save it uncompressed or with deflate"
        )
    if compression == 1:
        return
    try:
        import imagecodecs  # noqa: F401
    except ImportError:
        if is_jpeg(compression):
            raise missing_codec(file, f"{name} compression") from None
    try:
        tifffile.TIFF.DECOMPRESSORS[compression]
    except KeyError:
        if not is_jpeg(compression):
            raise missing_codec(file, f"{name} compression") from None


def check_size(page: Any, file: InputFile, planes: int) -> None:
    """Raise unless the file holds what a page declares.

    Parameters
    ----------
    planes : planes that follow each other from the page's first byte on; 1 unless the file has one page for all.

    Raises
    ------
    InputError : truncated, or a declared size that the bytes present can never fill.
    """
    key = page.keyframe
    declared = decoded_bytes(key) * planes
    size = f"{key.imagewidth}x{key.imagelength}"
    rows, columns = segment_size(key)
    count = -(-key.imagelength // rows) * -(-key.imagewidth // columns)
    count *= key.samplesperpixel if key.planarconfig == 2 else 1
    offsets, counts = _table(page.dataoffsets, file), _table(page.databytecounts, file)
    present = sum(map(int, counts)) if len(counts) < 64 else int(counts.astype(np.float64).sum())
    limit = present * _EXPANSION[key.compression] if key.compression in _EXPANSION else None
    if key.compression == 1:
        if declared > _IMPLAUSIBLE * file.size:
            raise _declares_more(file, size, declared)
    elif limit is not None and not key.is_tiled and declared > limit:
        raise InputError(
            f"declares {size} pixels ({readable_size(declared)}) but holds {present} bytes",
            path=file.path,
            hint="copy the file again from its source",
        )
    if len(offsets) < count or len(counts) < len(offsets):
        kind = "tiles" if key.is_tiled else "strips"
        listed = min(len(offsets), len(counts))
        raise _corrupt(file, f"{size} pixels are {count} {kind}, {listed} are listed")
    _check_segments(key, file, planes, offsets[:count], counts[:count])


def _table(values: Any, file: InputFile) -> np.ndarray:
    """Return a list of offsets or sizes as an array."""
    table = np.array(values)
    if table.size and table.dtype.kind not in "ui":
        raise _corrupt(file, "the list of strips or tiles is damaged")
    return table.astype(np.uint64).reshape(-1)


def _check_segments(key: Any, file: InputFile, planes: int, starts: np.ndarray, counts: np.ndarray) -> None:
    count = len(starts)
    if key.compression == 1 and not key.is_tiled:
        height, rows = key.imagelength, segment_size(key)[0]
        row_bytes = decoded_bytes(key) // height // (key.samplesperpixel if key.planarconfig == 2 else 1)
        down = -(-height // rows)
        heights = np.minimum(rows, height - np.arange(count, dtype=np.int64) % down * rows)
        counts = (heights * row_bytes).astype(np.uint64)
        if planes > 1:
            counts = np.array([decoded_bytes(key) * planes], dtype=np.uint64)
            starts = starts[:1]
    elif not key.is_tiled and (counts == 0).any():
        empty = int(np.flatnonzero(counts == 0)[0])
        raise InputError(
            f"strip {empty} of {count} holds no data", path=file.path, hint="copy the file again from its source"
        )
    if not counts.any():
        raise InputError(f"none of its {count} tiles holds data", path=file.path, hint="copy it again from its source")
    used = counts > 0
    end = max(int(a) + int(b) for a, b in _extremes(starts[used], counts[used]))
    if end > file.size:
        raise truncated(file.path, end, file.size)


def _extremes(starts: np.ndarray, counts: np.ndarray) -> list[tuple[int, int]]:
    """Return the segments that can end last, without adding in 64 bits, which a damaged file could overflow."""
    if starts.max() < 1 << 62 and counts.max() < 1 << 62:
        last = int(np.argmax(starts + counts))
        return [(int(starts[last]), int(counts[last]))]
    return list(zip(starts.tolist(), counts.tolist(), strict=True))


def _declares_more(file: InputFile, size: str, declared: int) -> InputError:
    return InputError(
        f"declares {size} pixels ({readable_size(declared)}) but the file has {file.size} bytes",
        path=file.path,
        hint="copy the file again from its source",
    )


def _corrupt(file: InputFile, what: str) -> InputError:
    return InputError(f"corrupt TIFF directory: {what}", path=file.path, hint="copy the file again from its source")
