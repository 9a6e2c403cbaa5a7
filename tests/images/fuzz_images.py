"""Opens damaged copies of good files under a memory limit: ``python fuzz_images.py SEED COUNT``.

Prints one line for every failure that is not an error of the package, and the number of files at the end.
"""

import io
import resource
import sys
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image as Picture

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from unetcli.errors import UnetError
from unetcli.images import open_image

MEMORY = 3 << 30
SECONDS = 5
NUMBERS = [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\1\0\0\0"]


def good_files(rng):
    """Return (name, bytes) of files of many kinds."""
    files = []

    def tiff(shape, dtype="uint8", **options):
        file = io.BytesIO()
        tifffile.imwrite(file, rng.integers(0, 200, shape).astype(dtype), **options)
        files.append(("a.tif", file.getvalue()))

    tiff((40, 50))
    tiff((3, 40, 50), photometric="minisblack")
    tiff((40, 50), bigtiff=True)
    tiff((40, 50), "uint16", compression="lzw", predictor=True, byteorder=">")
    tiff((40, 50), "float32", compression="zlib", predictor=True)
    tiff((64, 64, 3), photometric="rgb", compression="jpeg", tile=(32, 32))
    tiff((2, 3, 20, 20), imagej=True, metadata={"axes": "ZCYX"})
    tiff((2, 3, 20, 20), ome=True, metadata={"axes": "ZCYX"})
    tiff((40, 50), photometric="palette", colormap=np.zeros((3, 256), "uint16"))
    for compression in ("packbits", "zstd", "jpeg2000", "lerc", "jpegxl", "png"):
        tiff((64, 64), compression=compression)
    for kind, name in (("PNG", "a.png"), ("JPEG", "a.jpg"), ("BMP", "a.bmp"), ("GIF", "a.gif"), ("TIFF", "a.tif")):
        for mode in ("L", "RGB", "P")[: 2 if kind == "JPEG" else 3]:
            file = io.BytesIO()
            Picture.fromarray(rng.integers(0, 255, (30, 40, 3)).astype(np.uint8)).convert(mode).save(file, kind)
            files.append((name, file.getvalue()))
    return files


def damaged(data, rng):
    """Return a copy with one to four places overwritten, removed or cut off, mostly in the header."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        at = int(rng.integers(min(len(out), 400 if rng.random() < 0.7 else len(out))))
        kind = rng.random()
        if kind < 0.4:
            out[at] = int(rng.integers(256))
        elif kind < 0.6:
            out[at] ^= 1 << int(rng.integers(8))
        elif kind < 0.8:
            out[at : at + 4] = NUMBERS[int(rng.integers(len(NUMBERS)))]
        elif kind < 0.9:
            out = out[: at + 1]
        else:
            del out[at : at + int(rng.integers(1, 9))]
        if not out:
            return b"\0"
    return bytes(out)


def read_some(name, data):
    """Look at a corner of the first pages."""
    with open_image(io.BytesIO(data), name=name) as image:
        for index in range(min(image.info.pages, 20)):
            page = image.page(index)
            corner = page[: min(page.shape[0], 300), : min(page.shape[1], 300)]
            assert corner.dtype == image.info.dtype


def main(seed, count):
    """Damage and open `count` files."""
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    rng = np.random.default_rng(seed)
    files = good_files(rng)
    outcomes = Counter()
    for _ in range(count):
        name, data = files[int(rng.integers(len(files)))]
        start = time.monotonic()
        try:
            read_some(name, damaged(data, rng))
            outcomes["read"] += 1
        except UnetError as error:
            outcomes[type(error).__name__] += 1
            if not error.hint:
                print(f"FAILED {name}: {error} has no hint")
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            print(f"FAILED {name}: {error!r} at {Path(where.filename).name}:{where.lineno}")
        if time.monotonic() - start > SECONDS:
            print(f"SLOW {name}: {time.monotonic() - start:.1f} s")
    print(dict(outcomes))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
