"""Training on a CUDA device: `make gpu`."""

import numpy as np
import pytest
import tifffile
import torch

from unetcli.cli import run

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
def test_training_learns(tmp_path, monkeypatch, precision):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for number in range(5):
        mask = np.kron(rng.integers(0, 2, (12, 12)), np.ones((16, 16))).astype(np.uint8)
        for kind, pixels in (("images", mask * 100 + rng.integers(0, 60, mask.shape)), ("masks", mask * 255)):
            (tmp_path / kind).mkdir(exist_ok=True)
            tifffile.imwrite(tmp_path / kind / f"{number}.tif", pixels.astype(np.uint8))
    arguments = [
        "--features",
        "16",
        "--depth",
        "2",
        "--epochs",
        "4",
        "--device",
        "cuda",
        "--precision",
        precision,
        "-q",
    ]
    assert run(["train", ".", *arguments]) == 0
    assert run(["evaluate", ".", "-m", "unet.safetensors", "--fail-under", "dice=0.9", "-q"]) == 0
