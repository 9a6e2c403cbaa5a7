"""Start-up: `unet --help` and `--version` against an empty Typer program with three commands, in the same run."""

import statistics
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.bench
EMPTY = """
import typer
app = typer.Typer()
@app.command()
def train(x: int): pass
@app.command()
def infer(x: int): pass
@app.command()
def evaluate(x: int): pass
app()
"""


def seconds(command, rounds=7):
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_start_up(benchmark, option):
    empty = seconds([sys.executable, "-c", EMPTY, "--help"])
    command = [sys.executable, "-m", "unetcli", option]
    benchmark.pedantic(subprocess.run, args=(command,), kwargs={"capture_output": True}, rounds=7)
    ratio = benchmark.stats.stats.median / empty
    benchmark.extra_info["times an empty program"] = round(ratio, 2)
    print(benchmark.extra_info)
