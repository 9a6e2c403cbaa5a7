"""What a CUDA device is used for: steps and inference of the classic network against its measured matrix rate."""

import time
from functools import partial

import numpy as np
import pytest
import torch
from bench.test_training_bench import trainer_of
from torch.utils.flop_counter import FlopCounterMode

from unetcli.dataset.patches import PatchDataset
from unetcli.images import IntensityRange, normalize
from unetcli.inference.predict import Ensemble, predict_bands
from unetcli.inference.tilesize import choose_tile
from unetcli.models import build_network, geometry_of
from unetcli.models.device import choose_device
from unetcli.models.fusion import ready
from unetcli.training.batches import batches
from unetcli.training.plan import default_workers

pytestmark = [pytest.mark.bench, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
FEATURES = 64
SIDE = 8192  # of the image to predict
PREPARE = partial(normalize, intensity=IntensityRange((0.0,), (255.0,), (128.0,)))


def timed(work, times):
    """Return the seconds that the device takes for each of several calls, after a few."""
    for _ in range(3):
        work()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(times):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / times


def matrix_rate():
    """Return the operations per second of a product of large bf16 matrices."""
    left, right = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * 8192**3 / timed(lambda: left @ right, 20)


def operations(tile, *, backwards):
    """Return the operations of the network for one tile."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        logits = build_network("unet", channels=1, classes=2, features=FEATURES)(torch.empty(1, 1, tile, tile))
        if backwards:
            logits.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("batch", [1, 8, 12, 16])
def test_a_step(benchmark, batch):
    trainer = trainer_of(PatchDataset, "semantic", features=FEATURES)
    patch = [tensor.expand(batch, *tensor.shape).contiguous().pin_memory() for tensor in trainer.dataset[1, 0]]
    trainer.rate = 1e-4
    trainer.network.train()
    seconds = benchmark.pedantic(timed, args=(lambda: trainer._step(trainer.network, tuple(patch), 1, 1), 20), rounds=1)
    share = batch * operations(572, backwards=True) / seconds / matrix_rate()
    benchmark.extra_info["result"] = (
        f"{seconds * 1e3:.1f} ms, {batch / seconds:.0f} patches/s, {share:.1%} of the matrix rate"
    )
    print(f"batches of {batch}: {benchmark.extra_info['result']}")


@pytest.mark.parametrize("task", ["semantic", "instances"])
def test_patches_from_workers(benchmark, task):
    trainer = trainer_of(PatchDataset, task)
    workers, size = default_workers(choose_device()), 12
    keys = partial(lambda: iter([[(1, number) for number in range(size)]] * 100_000))
    made = batches(trainer.dataset, keys, workers=workers, pinned=True, precision=torch.bfloat16)
    for _ in range(2 * workers):  # what was made while the first ones were waited for
        next(made)
    seconds = benchmark.pedantic(timed, args=(lambda: next(made), 100), rounds=1)
    made.close()
    benchmark.extra_info["result"] = f"{size / seconds:.0f} patches/s from {workers} workers"
    print(f"{task}: {benchmark.extra_info['result']}")


def test_inference(benchmark):
    device = choose_device()
    network = ready(build_network("unet", channels=1, classes=2, features=FEATURES).eval(), device)
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 1), dtype=np.uint8)
    size = choose_tile(network, 1, device)

    def predict():
        for _ in predict_bands(Ensemble([network], device), image, PREPARE, size):
            pass

    seconds = benchmark.pedantic(timed, args=(predict, 1), rounds=1)
    per_pixel = operations(size.tile, backwards=False) / geometry_of(network).core_of(size.tile) ** 2
    benchmark.extra_info["result"] = (
        f"{SIDE**2 / 1e6 / seconds:.0f} Mpx/s in tiles of {size.tile}, {size.batch} at once, "
        f"{per_pixel * SIDE**2 / seconds / matrix_rate():.1%} of the matrix rate"
    )
    print(benchmark.extra_info["result"])
