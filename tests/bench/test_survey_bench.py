"""The look at a data set before training: listing 100,000 files, and decoding 1,000 pairs of 512 x 512."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unetcli.dataset.pairs import find_pairs
from unetcli.dataset.survey import survey

pytestmark = pytest.mark.bench
PAIRS = 1000
FILES = 100_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("survey")
    generator = np.random.default_rng(0)
    squares = np.kron(np.arange(1, 257, dtype=np.uint16).reshape(16, 16), np.pad(np.ones((26, 26), np.uint16), 3))
    for part in ("images", "masks"):
        (root / part).mkdir()
    for number in range(PAIRS):
        noise = generator.integers(0, 256, (512, 512), dtype=np.uint8)
        Image.fromarray(noise).save(root / f"images/{number}.png", compress_level=1)
        Image.fromarray(np.where(squares <= 100 + number % 100, squares, 0)).save(root / f"masks/{number}.png")
    return root


def test_listing(benchmark, tmp_path):
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
        for number in range(FILES // 2):
            (tmp_path / part / f"cell_{number}.tif").touch()
    pairing = benchmark.pedantic(find_pairs, args=(tmp_path,), rounds=3)
    assert len(pairing.pairs) == FILES // 2
    print({"seconds": round(benchmark.stats.stats.min, 2)})


@pytest.mark.parametrize("workers", [1, None])
def test_survey(benchmark, folder, workers):
    pairing = find_pairs(folder)
    processor = time.process_time()
    found = benchmark.pedantic(survey, args=(pairing,), kwargs={"workers": workers}, rounds=1)
    benchmark.extra_info["pairs per second"] = round(PAIRS / benchmark.stats.stats.mean)
    benchmark.extra_info["cores used"] = round((time.process_time() - processor) / benchmark.stats.stats.mean, 2)
    benchmark.extra_info["cores"] = os.cpu_count()
    assert found.coding.task == "instances"
    print(benchmark.extra_info)


LOOK = """
import re, sys
from dataclasses import replace
from pathlib import Path
from unetcli.dataset.pairs import find_pairs
from unetcli.dataset.survey import survey
pairing = find_pairs(Path(sys.argv[1]))
survey(replace(pairing, pairs=pairing.pairs[: int(sys.argv[2])])).check()
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


def test_memory_is_flat(folder):
    """The whole process, libraries and decoders included, each time a fresh one."""
    peaks = []
    for count in (PAIRS // 10, PAIRS):
        ran = subprocess.run(
            [sys.executable, "-c", LOOK, str(folder), str(count)], check=True, capture_output=True, text=True
        )
        peaks.append(int(ran.stdout) / 1024)  # not of getrusage: that begins with what the parent has
    print({"peak MiB": [round(peak) for peak in peaks]})
    assert peaks[1] - peaks[0] < 30  # records of 900 more pairs, not their pixels
