"""What must hold on a CUDA device: `make gpu`."""

from functools import partial

import numpy as np
import pytest
import torch

from unetcli.images import IntensityRange, normalize
from unetcli.inference.predict import Ensemble, TileSize, predict_bands
from unetcli.inference.tilesize import choose_tile
from unetcli.models import build_network
from unetcli.models.device import Device, choose_device, move_network

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
PREPARE = partial(normalize, intensity=IntensityRange((0.0,), (255.0,), (128.0,)))
IMAGE = np.random.default_rng(0).integers(0, 256, (700, 613, 1), dtype=np.uint8)


def probabilities(device, size):
    torch.manual_seed(0)
    network = move_network(build_network("unet", channels=1, classes=2, features=16), device).eval()
    bands = predict_bands(Ensemble([network], device), IMAGE, PREPARE, size, keep_probabilities=True)
    return np.concatenate([band.probabilities for band in bands], axis=1)


def test_cuda_is_chosen():
    assert choose_device().kind == "cuda"


def test_cuda_agrees_with_the_cpu():
    cpu = probabilities(Device("cpu", "fp32", "test"), TileSize(572))
    cuda = probabilities(Device("cuda:0", "fp32", "test"), TileSize(572))
    assert np.abs(cpu - cuda).max() < 1e-3


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 5e-2), ("fp16", 2e-2)])
def test_tiles_do_not_matter(precision, tolerance):
    device = Device("cuda:0", precision, "test")
    small, large = (probabilities(device, size) for size in (TileSize(252, 4), TileSize(1500)))
    assert np.abs(small - large).max() < tolerance


def test_tiles_fit_the_memory():
    device = Device("cuda:0", "bf16", "test")
    network = move_network(build_network("unet", channels=1, classes=2), device).eval()
    size = choose_tile(network, 1, device)
    with torch.inference_mode(), device.arithmetic():
        network(torch.zeros(size.batch, 1, size.tile, size.tile, device="cuda:0"))
