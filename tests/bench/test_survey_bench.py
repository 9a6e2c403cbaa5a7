"""The look at a data set before training: 1,000 pairs of 512 x 512, by one worker and by as many as there are cores."""

import os
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unetcli.dataset.pairs import find_pairs
from unetcli.dataset.survey import survey

pytestmark = pytest.mark.bench
PAIRS = 1000


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


def test_memory_is_flat(folder):
    pairing = find_pairs(folder)
    peaks = []
    for count in (PAIRS // 10, PAIRS):
        part = type(pairing)(pairing.layout, pairing.rule, pairing.pairs[:count])
        tracemalloc.start()
        survey(part)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    print({"peak MB": [round(peak / 1e6, 1) for peak in peaks]})
    assert peaks[1] - peaks[0] < 30e6  # records of 900 more pairs, not their pixels
