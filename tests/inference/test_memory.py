"""Peak memory of ``unet infer`` on images of 16 and of 268 million pixels."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from handmade import CODINGS, write_model

from unetcli.images import open_image

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
LIMIT = 6 << 30  # bytes of address space, as of ulimit -v
ROOT = Path(__file__).parents[2]
PITCH, STRIPE = 100, 1000
# A process of its own, as the peak memory of a child begins with that of the process it was forked from.
MEASURE = """
import os, resource, subprocess, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
child = subprocess.Popen([sys.executable, "-m", "unetcli", *sys.argv[2:]])
_, status, usage = os.wait4(child.pid, 0)
print(os.waitstatus_to_exitcode(status), usage.ru_maxrss)
"""


def drawn(top, left, height, width):
    """Pixels of a scan: a disc in every square of `PITCH` pixels, and a line from top to bottom every `STRIPE`."""
    y, x = np.arange(top, top + height)[:, None], np.arange(left, left + width)
    discs = (y % PITCH - 50) ** 2 + (x % PITCH - 50) ** 2 < 30**2
    return np.where(discs | (x % STRIPE < 3), 200, 20).astype(np.uint8)


def write_scan(path, side):
    tiles = (drawn(top, left, 256, 256) for top in range(0, side, 256) for left in range(0, side, 256))
    tifffile.imwrite(path, tiles, shape=(side, side), dtype=np.uint8, tile=(256, 256), photometric="minisblack")


def peak_of(place, scan, kind):
    """Return the bytes that a segmentation needed at its peak, after a look at what it wrote."""
    more = ["--objects", "cells.csv", "--overlay", "overlay.png", "--fill-holes"] if kind == "instances" else []
    command = ["infer", scan, "-o", f"{kind}.tif", "-m", f"{kind}.safetensors", "--json", "r.json", "-q", *more]
    command += ["--precision", "fp32", "--device", "cpu"]
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, str(LIMIT), *command],
        cwd=place, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    code, peak = map(int, run.stdout.split())
    assert code == 0, run.stderr
    with open_image(place / f"{kind}.tif") as written:
        side = written.info.height
        last = written.page(0)[side - 300 : side, 0:side]
        assert (last[:, :, 0] > 0).tolist() == (drawn(side - 300, 0, 300, side) > 100).tolist()
    if kind == "instances":
        (output,) = json.loads((place / "r.json").read_text())["outputs"]
        assert output["objects"] == len((place / "cells.csv").read_text().splitlines()) - 1
        assert output["objects"] == count_of(side)
    return peak << 10


def count_of(side):
    """Whole discs, those cut off at the right and at the bottom, and lines."""
    return len(range(21, side, PITCH)) ** 2 + len(range(0, side, STRIPE))


@pytest.mark.parametrize("kind", list(CODINGS))
def test_memory_is_flat(tmp_path, kind):
    write_model(tmp_path / f"{kind}.safetensors", kind)
    peaks = {}
    for side in (4096, 16384):
        write_scan(tmp_path / "scan.tif", side)
        peaks[side] = peak_of(tmp_path, "scan.tif", kind)
    print(kind, {side: f"{peak / 2**20:.0f} MiB" for side, peak in peaks.items()})
    assert peaks[16384] < 1.1 * peaks[4096]
