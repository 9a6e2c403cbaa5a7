"""Damaged files give an error of ours or an image, within bounds of time and memory, and nothing else."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("fuzz_images.py")


def check(seed, count):
    run = subprocess.run(
        [sys.executable, str(SCRIPT), str(seed), str(count)], capture_output=True, text=True, timeout=280, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert "FAILED" not in run.stdout, run.stdout
    assert "SLOW" not in run.stdout, run.stdout
    assert "'InputError'" in run.stdout
    assert "'read'" in run.stdout


def test_damaged_files():
    check(seed=7, count=300)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_many_damaged_files(seed):
    check(seed, 5000)
