"""Bytes of good, bad and odd image files (FAULTS, B1), for the readers and for the commands."""

import io
import zlib

import numpy as np
import tifffile
from images.raw_tiff import raw_tiff
from PIL import Image as Picture


def plain(shape=(64, 64), dtype="uint8", **options):
    """Return the bytes of a good TIFF."""
    file = io.BytesIO()
    options.setdefault("photometric", "minisblack")
    tifffile.imwrite(file, np.arange(np.prod(shape)).reshape(shape).astype(dtype), **options)
    return file.getvalue()


def png(array, **options):
    file = io.BytesIO()
    Picture.fromarray(array).save(file, "PNG", **options)
    return file.getvalue()


def png_header(width, height):
    data = bytearray(png(np.zeros((4, 4), np.uint8)))
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


def without_palette():
    """A PNG of indices from which the chunk of the palette was cut; found by tests/faults/fuzz.py (833)."""
    file = io.BytesIO()
    Picture.fromarray(np.zeros((4, 4), np.uint8)).convert("P").save(file, "PNG")
    data = file.getvalue()
    at = data.index(b"PLTE") - 4
    return data[:at] + data[at + 12 + int.from_bytes(data[at : at + 4], "big") :]


SIDE = (1 << 31) - 1
REFUSED = [
    # id, name, bytes, what the message must say
    ("IMG01", "a.tif", b"", r"is empty \(0 bytes\)"),
    ("IMG02", "a.tif", plain((128, 128))[:8448], r"truncated: \d{5} bytes expected, 8448 present"),
    ("IMG02-deflate", "a.tif", plain((128, 128), compression="zlib")[:-40], r"truncated: \d+ bytes expected"),
    ("IMG02-stack", "a.tif", plain((9, 32, 32))[:5000], r"truncated: \d+ bytes expected, 5000 present"),
    ("IMG02-pages", "a.tif", plain((9, 32, 32), compression="zlib", metadata=None)[:1500], "truncated"),
    ("IMG02-png", "a.png", png(np.random.default_rng(0).integers(0, 255, (64, 64)).astype("u1"))[:2000], "truncated"),
    ("IMG03", "a.tif", plain()[:-1], r"truncated: (\d+) bytes expected, \d+ present"),
    ("IMG03-png", "a.png", png(np.zeros((8, 8), np.uint8))[:-1], "truncated"),
    ("IMG04", "a.tif", plain()[:20], "corrupt TIFF directory"),
    ("IMG07-text", "a.tif", b"hello world", r"not an image \(starts with b'hello?'\)"),
    ("IMG07-html", "a.tif", b"<html><body>", "not an image"),
    ("IMG07-pdf", "a.tif", b"%PDF-1.7 ...", "not an image"),
    ("IMG07-zip", "a.tif", b"PK\3\4" + bytes(40), "not an image"),
    ("IMG08", "a.tif", raw_tiff({"width": SIDE, "height": SIDE, "data": bytes(100)}),
     r"declares 2147483647x2147483647 pixels \(4\.0 EiB\) but the file has \d+ bytes"),
    ("IMG09", "a.tif", raw_tiff({"width": 60000, "height": 60000, "compression": 8, "rows": 60000, "data": bytes(100)}),
     r"declares 60000x60000 .* holds 100 bytes"),
    ("IMG11", "a.png", png_header(30000, 30000), r"declares 30000x30000 .* has \d+ bytes"),
    ("IMG11-header", "a.png", png_header(SIDE, SIDE), "declares 2147483647x2147483647"),
    ("IMG12-samples", "a.tif", raw_tiff({"width": 64, "height": 64, "samples": 65535, "data": bytes(100)}),
     "65535 channels"),
    ("IMG12-bits", "a.tif", raw_tiff({"width": 64, "height": 64, "bits": 65535, "data": bytes(100)}), "65535 bits"),
    ("IMG13", "a.tif", raw_tiff({"width": 0, "height": 0, "data": bytes(10)}), r"no pixels \(0x0\)"),
    ("IMG13-width", "a.tif", raw_tiff({"width": 0, "height": 5, "data": bytes(10)}), r"no pixels \(0x5\)"),
    ("IMG15-count", "a.tif", raw_tiff({"width": 8, "height": 8, "data": bytes(64), "lie": {"offsets": (1 << 31, 8)}}),
     "truncated|corrupt"),
    ("IMG15-offset", "a.tif",
     raw_tiff({"width": 8, "height": 8, "data": bytes(64), "lie": {"bits": (9, 1 << 31)}}), "truncated|corrupt"),
    ("IMG16", "a.tif", raw_tiff({"width": 8, "height": 8, "data": bytes(64), "offsets": 100_000}),
     "truncated: 100064 bytes expected"),
    ("IMG18", "a.tif", raw_tiff({"width": 8, "height": 8, "compression": 9999, "data": bytes(64)}),
     "unknown compression 9999"),
    ("IMG27", "a.tif", plain(dtype="complex64"), "complex pixels"),
    ("IMG29-none", "a.png", without_palette(), "no palette"),
    ("IMG31-cmyk", "a.tif", plain((32, 32, 4), photometric="separated"), "CMYK"),
    ("IMG31-lab", "a.tif", plain((32, 32, 3), photometric="cielab"), "CIELAB"),
    ("IMG31-ycbcr", "a.tif", raw_tiff({"width": 4, "height": 4, "bits": (8, 8, 8), "samples": 3, "photometric": 6,
                                       "data": bytes(48)}), "YCbCr"),
    ("IMG36", "a.tif", plain((64, 64, 2)), r"axes QYX 64x64x2 look wrong"),
]  # fmt: skip

OME = (
    '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
    '<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="8" SizeY="8" SizeZ="2" SizeC="1" SizeT="1">'
    '<Channel ID="Channel:0:0" SamplesPerPixel="1"/>'
    '<TiffData IFD="0" FirstZ="0"><UUID FileName="a.tif">urn:uuid:1</UUID></TiffData>'
    '<TiffData IFD="0" FirstZ="1"><UUID FileName="{other}">urn:uuid:2</UUID></TiffData></Pixels></Image></OME>'
)
