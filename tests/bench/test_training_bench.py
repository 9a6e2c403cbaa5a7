"""A training step with and without the data pipeline, in the same run."""

import time

import numpy as np
import pytest
import torch

from unetcli.dataset.augmentation import Augmentation, AugmentationSettings
from unetcli.dataset.patches import PatchDataset, Sample, Weighting
from unetcli.images import intensity_range
from unetcli.inference.predict import TileSize
from unetcli.models import build_network, geometry_of
from unetcli.models.device import choose_device, move_network, set_threads
from unetcli.training.config import RECIPES
from unetcli.training.loop import Trainer
from unetcli.training.records import Limits, StepRecord

pytestmark = pytest.mark.bench
FEATURES = 24


class OnePatch(PatchDataset):
    """The same patch again and again: a step without its data pipeline."""

    patch = None

    def __getitem__(self, key):
        if self.patch is None:
            self.patch = super().__getitem__(key)
        return self.patch


def trainer_of(kind, task):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (512, 512, 1), dtype=np.uint8)
    cells = np.kron(np.arange(1, 257, dtype=np.int32).reshape(16, 16), np.ones((32, 32), np.int32))
    labels = cells if task == "instances" else (cells % 3).astype(np.int32)
    sample = Sample("one", pixels, intensity_range([pixels]), labels)
    device = choose_device()
    torch.manual_seed(0)
    classes = 2 if task == "instances" else 3
    network = move_network(build_network("unet", channels=1, classes=classes, features=FEATURES), device)
    output = geometry_of(network).output_size(572)
    dataset = kind(
        [sample],
        task=task,
        augmentation=Augmentation(AugmentationSettings(), patch_size=572, output_size=output),
        shift=True,
        weighting=Weighting((1.0,) * classes),
        seed=0,
    )
    return Trainer(
        network,
        dataset,
        [sample],
        classes=classes,
        device=device,
        recipe=RECIPES["default"],
        patches_per_epoch=64,
        batch_size=1,
        limits=Limits(1, None, None),
        seed=0,
        workers=0,
        tile=TileSize(572),
    )


def seconds_per_step(trainer, steps):
    records = trainer.run()
    times = []
    for _ in range(steps):
        began = time.perf_counter()
        assert isinstance(next(records), StepRecord)
        times.append(time.perf_counter() - began)
    records.close()
    return float(np.median(times[3:]))


@pytest.mark.parametrize("task", ["instances", "semantic"])
def test_a_step_with_its_data(benchmark, task):
    set_threads()
    rounds = 20
    alone = seconds_per_step(trainer_of(OnePatch, task), rounds)
    whole = benchmark.pedantic(seconds_per_step, args=(trainer_of(PatchDataset, task), rounds), rounds=1)
    benchmark.extra_info.update(
        {"ms per step": round(whole * 1e3), "ms without data": round(alone * 1e3), "ratio": round(whole / alone, 3)}
    )
    print(benchmark.extra_info)
