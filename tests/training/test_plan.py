"""What is decided before the first step."""

import numpy as np
import pytest
import tifffile
import torch
from training.test_loop import trainer_of

from unetcli.dataset.labels import LabelCoding
from unetcli.dataset.pairs import Pair, find_pairs
from unetcli.dataset.samples import SampleCache
from unetcli.dataset.survey import survey
from unetcli.errors import InputError, ResourceError
from unetcli.inference.predict import is_out_of_memory
from unetcli.models import build_network
from unetcli.models.device import Device, choose_device, move_network, training_layout
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


@pytest.mark.parametrize(("said", "out_of_memory"), [
    ("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported", True),
    ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
    ("GET was unable to find an engine to execute this computation", True),
    ("FIND was unable to find an engine to execute this computation", True),
    ("CUDA error: an illegal memory access was encountered", False),
])  # fmt: skip
def test_lack_of_memory_has_many_names(said, out_of_memory):
    assert is_out_of_memory(RuntimeError(said)) == out_of_memory


def test_a_card_is_chosen_before_anything_is_put_on_one(tmp_path, monkeypatch):
    """Else every process of several would open a context on the first one too."""
    chosen = []

    def choose(device):
        chosen.append(str(device))
        raise RuntimeError("there is none here")

    monkeypatch.setattr(plan, "choose_device", lambda *_: Device("cuda:1", "fp32", "test"))
    monkeypatch.setattr(torch.cuda, "set_device", choose)
    stack_of(tmp_path, np.random.default_rng(0).integers(50, 100, (5, 64, 64)).astype(np.uint8))
    with pytest.raises(RuntimeError, match="there is none here"):
        planned(survey(find_pairs(tmp_path)), tmp_path)
    assert chosen == ["cuda:1"]


def test_a_card_that_is_too_old_for_this_torch_is_left_alone(monkeypatch):
    def refused(*_, **__):
        raise RuntimeError("CUDA error: no kernel image is available\nfor execution on the device")

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    for name, found in (("is_available", True), ("device_count", 1), ("get_device_name", "Old card")):
        monkeypatch.setattr(torch.cuda, name, lambda *_, found=found: found)

    def full(*_, **__):
        raise RuntimeError("CUDA out of memory.")

    with monkeypatch.context() as patched:
        patched.setattr(torch, "ones", full)  # others fill it at the moment: that is said when its memory is needed
        assert choose_device("auto", "fp32").name == "cuda:0"
    with monkeypatch.context() as patched:
        patched.setattr(torch, "ones", refused)
        chosen = choose_device("auto", "fp32")
        assert chosen.kind == "cpu"
        assert "no CUDA: Old card: CUDA error: no kernel image is available" in chosen.reason
        with pytest.raises(ResourceError, match=r"CUDA is not available \(Old card: CUDA error"):
            choose_device("cuda:0", "fp32")
        with pytest.raises(ResourceError, match="this machine has 1 CUDA devices"):
            choose_device("cuda:1", "fp32")


@pytest.mark.parametrize(("device", "cores", "processes_here", "workers"), [
    ("cuda:0", 16, "1", 15), ("cuda:0", 64, "1", 16), ("cuda:0", 64, "8", 7), ("cuda:0", 2, "4", 0),
    ("cpu", 2, "1", 0), ("cpu", 8, "1", 2), ("cpu", 8, "4", 0),
])  # fmt: skip
def test_workers_share_the_cores_of_a_machine(device, cores, processes_here, workers, monkeypatch):
    monkeypatch.setattr(processes, "cores", lambda: cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes_here)
    assert plan.default_workers(Device(device, "bf16", "test")) == workers


def stack_of(folder, pages):
    tifffile.imwrite(folder / "train-volume.tif", pages, photometric="minisblack")
    masks = np.zeros(pages.shape, np.uint8)
    masks[:, :20, :30] = 255
    tifffile.imwrite(folder / "train-labels.tif", masks, photometric="minisblack")
    return masks


def planned(found, folder, **options):
    arguments = {"features": 2, "depth": 1}
    return plan.plan(
        TrainConfig(folder / "no.safetensors", arguments=arguments, epochs=1, device="cpu", **options), found
    )[1]


@pytest.mark.parametrize("split", ["val", "test"])
def test_pages_that_are_held_out_do_not_take_part_in_the_normalization(tmp_path, split):
    pages = np.random.default_rng(0).integers(50, 100, (5, 64, 64)).astype(np.uint8)
    (tmp_path / "list.csv").write_text(f"id,split\ntrain-volume.tif[3],{split}\ntrain-volume.tif[4],val\n")
    ranges = []
    for bright in (1, 2):
        stack_of(tmp_path, np.concatenate([pages[:3], pages[3:] * bright]))
        found = survey(find_pairs([tmp_path / "train-volume.tif", tmp_path / "train-labels.tif"]))
        trainer = planned(found, tmp_path, validation=str(tmp_path / "list.csv"))
        ranges.append({sample.intensity for sample in trainer.dataset.samples})
        assert {sample.intensity.high for sample in trainer.held_out} == {(99.0 * bright,)}  # as they are predicted
    assert len(ranges[0]) == 1
    assert ranges[0] == ranges[1]


def test_what_is_held_out_must_be_labelled(tmp_path):
    masks = stack_of(tmp_path, np.random.default_rng(0).integers(50, 100, (5, 64, 64)).astype(np.uint8))
    masks[3] = 7
    tifffile.imwrite(tmp_path / "train-labels.tif", masks, photometric="minisblack")
    found = survey(find_pairs(tmp_path), ignore=7)
    with pytest.raises(InputError, match=r"nothing is labelled in what is held out .*validation 3"):
        planned(found, tmp_path, validation="3")
    planned(found, tmp_path, validation="3-4")


def test_an_image_too_large_to_be_kept_takes_no_room_from_the_others(tmp_path, monkeypatch):
    pairs = []
    for number, side in enumerate((200, 30, 30)):
        files = [tmp_path / f"{kind}{number}.tif" for kind in ("image", "mask")]
        for file in files:
            tifffile.imwrite(file, np.zeros((side, side), np.uint8))
        pairs.append(Pair(str(number), (files[0],), (files[1],), page=0))
    monkeypatch.setattr("unetcli.dataset.samples.usable_memory", lambda: 40_000)
    coding = LabelCoding("semantic", (0, 255), ("background", "foreground"))
    for here, kept in (("1", {1, 2}), ("2", {1}), ("8", set())):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", here)
        cache = SampleCache(pairs, coding)
        for number in range(3):
            assert cache[number].name == str(number)
        assert set(cache.kept) == kept


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
