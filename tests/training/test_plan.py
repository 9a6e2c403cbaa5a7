"""What is decided before the first step."""

import numpy as np
import pytest
import tifffile
import torch
from training.test_loop import trainer_of

from unetcli.dataset.pairs import find_pairs
from unetcli.dataset.survey import survey
from unetcli.models import build_network
from unetcli.models.device import Device, move_network, training_layout
from unetcli.training import plan, processes
from unetcli.training.config import RECIPES, TrainConfig


@pytest.mark.parametrize(("name", "precision", "layout"), [
    ("cpu", "fp32", torch.contiguous_format), ("cpu", "bf16", torch.channels_last),
    ("cuda:0", "fp32", torch.channels_last), ("cuda:0", "bf16", torch.channels_last),
])  # fmt: skip
def test_layout_of_a_training(name, precision, layout):
    assert training_layout(Device(name, precision, "test")) == layout


def test_networks_move_to_a_layout():
    network = build_network("unet", channels=3, classes=2, features=2, depth=1)
    device = Device("cpu", "fp32", "test")
    for layout in (torch.channels_last, torch.contiguous_format):
        weight = next(move_network(network, device, layout).parameters())
        assert weight.is_contiguous(memory_format=layout)


def test_the_estimate_takes_parts_of_a_batch_where_memory_is_short(monkeypatch):
    seen = []

    def seconds(device, network, shape):
        seen.append(shape[0])
        if shape[0] > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 2.0

    monkeypatch.setattr(plan, "_seconds", seconds)
    assert plan._seconds_per_step(trainer_of(), (10, 1, 84, 84)) == 8.0
    assert seen == [10, 5, 3, 3, 3]


def test_an_estimate_without_memory_for_a_patch_is_an_error(monkeypatch):
    monkeypatch.setattr(plan, "_seconds", lambda *_: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(MemoryError):
        plan._seconds_per_step(trainer_of(), (4, 1, 84, 84))


@pytest.mark.parametrize(("device", "cores", "processes_here", "workers"), [
    ("cuda:0", 16, "1", 15), ("cuda:0", 64, "1", 16), ("cuda:0", 64, "8", 7), ("cuda:0", 2, "4", 0),
    ("cpu", 2, "1", 0), ("cpu", 8, "1", 2), ("cpu", 8, "4", 0),
])  # fmt: skip
def test_workers_share_the_cores_of_a_machine(device, cores, processes_here, workers, monkeypatch):
    monkeypatch.setattr(processes, "cores", lambda: cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes_here)
    assert plan.default_workers(Device(device, "bf16", "test")) == workers


def test_patches_are_weighted_as_the_recipe_says(tmp_path):
    cells = np.zeros((2, 64, 64), np.uint8)
    cells[:, 8:56, 8:28] = cells[:, 8:56, 34:56] = 255
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        for number, page in enumerate(cells):
            tifffile.imwrite(tmp_path / kind / f"{number}.tif", page // (2 if kind == "images" else 1))
    found = survey(find_pairs(tmp_path))
    arguments = {"features": 2, "depth": 1}
    for name, recipe in RECIPES.items():
        config = TrainConfig(tmp_path / "no.safetensors", arguments=arguments, epochs=1, device="cpu", recipe=name)
        _, trainer = plan.plan(config, found)
        target, weights = trainer.dataset.weighting((cells[0] > 0).astype(np.int32), "semantic")
        inside = weights[target == 1]
        assert (np.ptp(inside) > 0) == (recipe.border_smoothing > 0)
        assert weights[target == 0].max() > weights[target == 0].min()
