"""Several processes that train one network, started by `torchrun`."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
import torch
from training.test_loop import CPU, trainer_of

from unetcli.errors import UsageError
from unetcli.models.modelfile import load_model
from unetcli.training.config import TrainConfig
from unetcli.training.processes import Processes
from unetcli.training.state import load_state
from unetcli.training.train import train

ROOT = Path(__file__).parents[2]
NETWORK = ["--features", "4", "--depth", "2", "--patch-size", "84", "--dropout", "0", "--precision", "fp32"]
OPTIONS = [*NETWORK, "--threads", "1", "--workers", "0", "--optimizer", "sgd", "--learning-rate", "0.001"]


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    folder = tmp_path_factory.mktemp("several") / "cells"
    rng = np.random.default_rng(0)
    for number in range(5):
        mask = np.kron(rng.integers(0, 2, (12, 12)), np.ones((7, 7))).astype(np.uint8)
        for kind, pixels in (("images", mask * 100 + rng.integers(0, 60, mask.shape)), ("masks", mask * 255)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(folder / kind / f"{number}.tif", pixels.astype(np.uint8))
    return folder


@contextlib.contextmanager
def started(processes, cells, place, *arguments):
    """A training in so many processes; none is left when the block ends."""
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)] if processes > 1 else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *launcher, "-m", "unetcli", "train", str(cells), *OPTIONS, *arguments]
    with (
        (place / "log").open("a") as log,
        subprocess.Popen(
            command, cwd=place, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        ) as process,
    ):
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def wait_for(place, said):
    deadline = time.monotonic() + 120
    while said not in (place / "log").read_text():
        assert time.monotonic() < deadline, (place / "log").read_text()
        time.sleep(0.05)


def weights(place):
    return load_model(place / "unet.safetensors")[0].state_dict()


def test_two_processes_equal_one_with_the_doubled_batch(cells, tmp_path):
    places = [tmp_path / "one", tmp_path / "two"]
    for place in places:
        place.mkdir()
    with (
        started(1, cells, places[0], "--epochs", "2", "--batch-size", "8") as one,
        started(2, cells, places[1], "--epochs", "2", "--batch-size", "4", "--json", "train.json") as two,
    ):
        for process, place in zip((one, two), places, strict=True):
            assert process.wait(120) == 0, (place / "log").read_text()
    log = (places[1] / "log").read_text()
    assert log.count("epoch 1/2") == 1  # the first process speaks
    assert (places[1] / "train.json").exists()
    learned = weights(places[1])
    for name, tensor in weights(places[0]).items():
        torch.testing.assert_close(learned[name], tensor, rtol=1e-4, atol=1e-6)
    begun = load_state(places[1] / "unet.run").tensors
    assert len(begun) == len(load_state(places[0] / "unet.run").tensors)


@pytest.mark.slow
def test_folds_are_trained_one_after_the_other_by_the_same_processes(cells, tmp_path):
    with started(2, cells, tmp_path, "--epochs", "1", "--batch-size", "4", "--folds", "2") as process:
        assert process.wait(120) == 0, (tmp_path / "log").read_text()
    assert (tmp_path / "unet.fold2.safetensors").exists()


def test_a_killed_process_ends_all_and_the_training_can_go_on(cells, tmp_path):
    arguments = (2, cells, tmp_path, "--epochs", "100000", "--batch-size", "4")
    with started(*arguments) as launcher:
        wait_for(tmp_path, "epoch 2/")
        children = children_of(launcher)
        os.kill(second_of(children), signal.SIGKILL)
        assert launcher.wait(60) != 0
        time.sleep(0.5)
        assert not [child for child in children if Path(f"/proc/{child}").exists()]
    done = len(load_state(tmp_path / "unet.run").position["history"])
    assert done >= 2
    with started(*arguments, "--resume") as again:
        wait_for(tmp_path, f"epoch {done + 2}/")
        again.send_signal(signal.SIGTERM)
        again.wait(60)
    log = (tmp_path / "log").read_text()
    assert f"continues after epoch {done}/100000" in log
    assert "resume with: torchrun --nproc-per-node 2 -m unetcli train" in log


def test_a_stop_that_reached_one_process_stops_all(cells, tmp_path):
    with started(2, cells, tmp_path, "--epochs", "100000", "--batch-size", "4") as launcher:
        wait_for(tmp_path, "epoch 1/")
        os.kill(second_of(children_of(launcher)), signal.SIGTERM)
        assert launcher.wait(60) != 0
    assert "resume with: torchrun --nproc-per-node 2 -m unetcli train" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("rank", [0, 1])
def test_processes_that_stand_at_different_places_do_not_go_on(rank, tmp_path):
    """One of several machines does not see the run folder, in which the others found three epochs."""

    class WithOneAfterThreeEpochs(Processes):
        def join(self, device):
            pass

        def largest(self, values, device):
            return [max(value, other) for value, other in zip(values, (3.0, -3.0), strict=True)]

    trainer = trainer_of(processes=WithOneAfterThreeEpochs(rank, 2))
    config = TrainConfig(tmp_path / "unet.safetensors", resume=True)
    with pytest.raises(UsageError, match="some continue after 3 epochs, some after 0") as raised:
        next(train(config, None, SimpleNamespace(device=CPU), trainer, None))
    assert raised.value.path == config.run_folder
    assert not config.run_folder.exists()


def children_of(launcher):
    return Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()


def second_of(children):
    return next(int(child) for child in children if rank_of(child) == "1")


def rank_of(pid):
    words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next((word.removeprefix(b"RANK=").decode() for word in words if word.startswith(b"RANK=")), None)
