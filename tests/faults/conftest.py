"""What every test of faults shares: a trained model, models of other channels, and a process to fork from."""

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from faults.harness import FAST
from faults.zygote import Zygote

from unetcli.cli import run
from unetcli.models import build_network
from unetcli.models.modelfile import load_model, save_model


def discs(seed, size=72):
    """A 16-bit image of bright discs, and where they are."""
    rng = np.random.default_rng(seed)
    inside = np.zeros((size, size), bool)
    y, x = np.mgrid[:size, :size]
    for _ in range(13 + 3 * seed):
        cy, cx, radius = *rng.uniform(6, size - 6, 2), rng.uniform(3, 6)
        inside |= (y - cy) ** 2 + (x - cx) ** 2 < radius**2
    return (1000 + 3000 * inside + rng.normal(0, 300, inside.shape)).astype(np.uint16), inside


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """A folder with a data set, and models for images of one, two and three channels; changed by no test."""
    folder = tmp_path_factory.mktemp("faults")
    for kind in ("images", "masks"):
        (folder / "cells" / kind).mkdir(parents=True)
    for seed in range(4):
        image, inside = discs(seed)
        tifffile.imwrite(folder / f"cells/images/c{seed}.tif", image)
        tifffile.imwrite(folder / f"cells/masks/c{seed}.tif", np.where(inside, 255, 0).astype(np.uint8))
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    assert run(["train", str(folder / "cells"), "-o", str(folder / "gray.safetensors"), *FAST, "-q"]) == 0
    description = load_model(folder / "gray.safetensors")[1]
    torch.manual_seed(1)
    for name, channels in (("two", 2), ("rgb", 3)):
        network = build_network("unet", channels=channels, classes=2, **description.arguments)
        save_model(folder / f"{name}.safetensors", network, replace(description, channels=channels))
    yield folder
    if before is None:
        del os.environ["OMP_NUM_THREADS"]
    else:
        os.environ["OMP_NUM_THREADS"] = before


@pytest.fixture(scope="session")
def models(home):
    return {name: str(home / f"{name}.safetensors") for name in ("gray", "two", "rgb")}


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def place_of_all():
    """An empty folder that every user may enter and write, as those of pytest are not.

    Skips where root tests code that the user without rights may not read, as in a folder of root alone.
    """
    closed = [folder for folder in Path(__file__).parents if not folder.stat().st_mode & 0o001]
    if os.geteuid() == 0 and closed:
        pytest.skip(f"other users may not enter {closed[-1]}")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


@pytest.fixture(scope="session")
def zygote():
    with Zygote() as process:
        yield process
