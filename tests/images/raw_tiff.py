"""TIFF files built entry by entry, so that every lie a file can tell can be told."""

import struct

SHORT, LONG, RATIONAL, ASCII = 3, 4, 5, 2
_FORMATS = {SHORT: "H", LONG: "I", ASCII: "s"}
TAGS = {
    "width": (256, LONG),
    "height": (257, LONG),
    "bits": (258, SHORT),
    "compression": (259, SHORT),
    "photometric": (262, SHORT),
    "description": (270, ASCII),
    "offsets": (273, LONG),
    "samples": (277, SHORT),
    "rows": (278, LONG),
    "counts": (279, LONG),
    "planar": (284, SHORT),
    "colormap": (320, SHORT),
    "tile_width": (322, LONG),
    "tile_height": (323, LONG),
    "tile_offsets": (324, LONG),
    "tile_counts": (325, LONG),
    "extra": (338, SHORT),
    "format": (339, SHORT),
    "micromanager": (51123, ASCII),
}


def raw_tiff(*pages, order="<", next_of_last=0):
    """Return the bytes of a classic TIFF.

    Each page is a dict of tag names (above) to a value or tuple, with the bytes of its one strip as `data` (offset
    and count are filled in unless given), and `lie` = {tag: (count, value)} for entries that say something else.
    """
    out = bytearray(struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, 8))
    for number, page in enumerate(pages):
        page = {"bits": 8, "compression": 1, "photometric": 1, "samples": 1, **page}
        data, lies = page.pop("data", b""), page.pop("lie", {})
        tiled = "tile_width" in page
        page.setdefault("tile_offsets" if tiled else "offsets", -1)
        page.setdefault("tile_counts" if tiled else "counts", len(data))
        entries = sorted((*TAGS[name], name, value) for name, value in page.items())
        start = len(out)
        extra_at = start + 2 + 12 * len(entries) + 4
        extra, body = bytearray(), bytearray(struct.pack(order + "H", len(entries)))
        sizes = {name: _pack(order, kind, value) for _, kind, name, value in entries}
        data_at = extra_at + sum(len(packed) for _, packed in sizes.values() if len(packed) > 4)
        for tag, kind, name, value in entries:
            if value == -1:
                value = data_at
            count, packed = _pack(order, kind, value)
            if name in lies:
                count, value = lies[name]
                packed = struct.pack(order + "I", value)
            body += struct.pack(order + "HHI", tag, kind, count)
            if len(packed) > 4:
                body += struct.pack(order + "I", extra_at + len(extra))
                extra += packed
            else:
                body += packed.ljust(4, b"\0")
        last = number == len(pages) - 1
        following = next_of_last if last else data_at + len(data)
        out += body + struct.pack(order + "I", following) + extra + data
    return bytes(out)


def _pack(order, kind, value):
    if kind == ASCII:
        return len(value) + 1, value.encode() + b"\0"
    values = value if isinstance(value, tuple) else (value,)
    packed = struct.pack(f"{order}{len(values)}{_FORMATS[kind]}", *(v if v != -1 else 0 for v in values))
    return len(values), packed
