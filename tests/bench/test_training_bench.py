"""A training step with and without the data pipeline, in the same run."""

import itertools
import time

import numpy as np
import pytest
import torch

from unetcli.dataset.augmentation import Augmentation, AugmentationSettings
from unetcli.dataset.patches import PatchDataset, Sample, Weighting
from unetcli.images import intensity_range
from unetcli.images.memory import keep_freed_memory
from unetcli.inference.predict import TileSize
from unetcli.models import build_network, geometry_of
from unetcli.models.device import choose_device, move_network, set_threads, training_layout
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


def trainer_of(kind, task, workers=0, features=FEATURES):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (512, 512, 1), dtype=np.uint8)
    cells = np.kron(np.arange(1, 257, dtype=np.int32).reshape(16, 16), np.ones((32, 32), np.int32))
    labels = cells if task == "instances" else (cells % 3).astype(np.int32)
    sample = Sample("one", pixels, intensity_range([pixels]), labels)
    device = choose_device()
    keep_freed_memory()  # as a training does on a CPU
    torch.manual_seed(0)
    classes = 2 if task == "instances" else 3
    network = move_network(
        build_network("unet", channels=1, classes=classes, features=features), device, training_layout(choose_device())
    )
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
        workers=workers,
        tile=TileSize(572),
    )


def seconds_per_step(trainers, *, rounds=4, steps=5, waits=3):
    """The fastest of several turns of each trainer, a few steps each: whatever else runs disturbs all alike."""
    running = {name: trainer.run() for name, trainer in trainers.items()}
    best = dict.fromkeys(running, float("inf"))
    for _ in range(rounds):
        for name, records in running.items():
            for _ in range(waits):  # the first step prepares convolutions; workers made patches during others' turns
                next(records)
            began = time.perf_counter()
            for _ in range(steps):
                assert isinstance(next(records), StepRecord)
            best[name] = min(best[name], (time.perf_counter() - began) / steps)
    for records in running.values():
        records.close()
    return best


@pytest.mark.parametrize("task", ["instances", "semantic"])
def test_a_step_with_its_data(benchmark, task):
    set_threads()
    trainers = {
        "without data": trainer_of(OnePatch, task),
        "workers 0": trainer_of(PatchDataset, task),
        "workers 1": trainer_of(PatchDataset, task, workers=1),
    }
    best = benchmark.pedantic(seconds_per_step, args=(trainers,), rounds=1)
    alone = best["without data"]
    benchmark.extra_info.update({f"ms per step, {name}": round(seconds * 1e3) for name, seconds in best.items()})
    benchmark.extra_info.update(
        {f"ratio, {name}": round(seconds / alone, 3) for name, seconds in best.items() if seconds is not alone}
    )
    print(benchmark.extra_info)


@pytest.mark.parametrize("task", ["instances", "semantic"])
@pytest.mark.benchmark(group="a patch with its weights, 572 -> 388")
def test_a_patch(benchmark, task):
    dataset = trainer_of(PatchDataset, task).dataset
    indices = itertools.count()
    image, target, weights = benchmark(lambda: dataset[1, next(indices)])
    assert (image.shape, target.shape, weights.shape) == ((1, 572, 572), (388, 388), (388, 388))
