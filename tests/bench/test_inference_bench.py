"""Inference: Mpx/s against a plain float32 loop over classic 388-pixel outputs, in the same run."""

import time
from functools import partial

import numpy as np
import pytest
import torch

from unetcli.images import IntensityRange, normalize
from unetcli.inference.predict import Ensemble, predict_bands
from unetcli.inference.tilesize import choose_tile
from unetcli.models import build_network
from unetcli.models.device import choose_device, move_network, set_threads

pytestmark = pytest.mark.bench
FEATURES = 32
INTENSITY = IntensityRange((0.0,), (255.0,), (128.0,))


def plain_loop(network, image):
    """What a notebook does: pad, cut 572 tiles at steps of 388, predict in float32, paste. (Not seamless.)"""
    height, width, _ = image.shape
    padded = np.pad(image[..., 0].astype(np.float32) / 255, ((92, 92 + 388), (92, 92 + 388)), mode="reflect")
    mask = np.zeros((height + 388, width + 388), np.uint8)
    with torch.inference_mode():
        for top in range(0, height, 388):
            for left in range(0, width, 388):
                tile = torch.from_numpy(padded[top : top + 572, left : left + 572].copy())[None, None]
                mask[top : top + 388, left : left + 388] = network(tile).argmax(1)[0].numpy()
    return mask[:height, :width]


def ours(network, device, size, image):
    prepare = partial(normalize, intensity=INTENSITY)
    return np.concatenate([band.classes for band in predict_bands(Ensemble([network], device), image, prepare, size)])


@pytest.mark.parametrize("side", [2048, pytest.param(8192, marks=pytest.mark.slow)])
def test_megapixels_per_second(benchmark, side):
    set_threads()
    image = np.random.default_rng(0).integers(0, 256, (side, side, 1), dtype=np.uint8)
    torch.manual_seed(0)
    plain = build_network("unet", channels=1, classes=2, features=FEATURES).eval()
    device = choose_device()
    fast = move_network(build_network("unet", channels=1, classes=2, features=FEATURES), device).eval()
    size = choose_tile(fast, 1, device)
    ours(fast, device, size, image[:600, :600])

    began = time.perf_counter()
    plain_loop(plain, image)
    plain_seconds = time.perf_counter() - began
    benchmark.pedantic(ours, args=(fast, device, size, image), rounds=3 if side < 5000 else 1)
    seconds = benchmark.stats.stats.median
    benchmark.extra_info.update(
        {
            "Mpx/s": round(side**2 / 1e6 / seconds, 3),
            "plain Mpx/s": round(side**2 / 1e6 / plain_seconds, 3),
            "times the plain loop": round(plain_seconds / seconds, 2),
            "tile": size.tile,
            "precision": device.precision,
        }
    )
    print(benchmark.extra_info)


@pytest.mark.parametrize("tile", [572, 764, 956, 1148, 1532, 2044])
def test_tile_sizes(benchmark, tile):
    set_threads()
    device = choose_device()
    torch.manual_seed(0)
    network = move_network(build_network("unet", channels=1, classes=2, features=FEATURES), device).eval()
    image = np.random.default_rng(0).integers(0, 256, (2048, 2048, 1), dtype=np.uint8)
    size = choose_tile(network, 1, device, tile=tile)
    benchmark.pedantic(ours, args=(network, device, size, image), rounds=3, warmup_rounds=1)
    benchmark.extra_info["Mpx/s"] = round(2048**2 / 1e6 / benchmark.stats.stats.median, 3)
