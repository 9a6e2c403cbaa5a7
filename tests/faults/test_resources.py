"""Full disks, read-only places, signals (FAULTS, B4)."""

import contextlib
import pkgutil
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tifffile
from faults.conftest import discs
from faults.harness import FAST, OLD, check_form

from unetcli.cli import run
from unetcli.cli.console import Interrupted, signals_raise
from unetcli.cli.train import stopping_on_signals
from unetcli.models.modelfile import load_model

IMAGE = discs(0)[0]
LONG = [*FAST, "--epochs", "100000"]


def text(place):
    return (place / "err").read_text(encoding="utf-8") if (place / "err").exists() else ""


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


@contextlib.contextmanager
def small_disk(folder, options):
    """A file system of its own, where mounting is allowed."""
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", folder], check=False).returncode:
        pytest.skip("mounting a small tmpfs is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_full_disk(place, models, capsys):
    """RES01: the old mask stays, nothing temporary."""
    tifffile.imwrite("a.tif", np.random.default_rng(0).integers(0, 4000, (724, 724)).astype(np.uint16))
    with small_disk(place / "disk", "size=1m") as disk:
        (disk / "m.tif").write_bytes(OLD)
        arguments = ["infer", "a.tif", "-o", "disk/m.tif", "-m", models["gray"], "--output-kind", "probabilities"]
        assert run(arguments) == 5
        error = capsys.readouterr().err
        assert "error: disk/m.tif: disk full (needs 4.0 MiB)" in error
        check_form(5, error)
        assert [path.name for path in disk.iterdir()] == ["m.tif"]
        assert (disk / "m.tif").read_bytes() == OLD


def test_file_size_limit(place, models, zygote):
    """RES01, where nothing can be mounted: a limit of the file size fails alike."""
    tifffile.imwrite("a.tif", IMAGE)
    (place / "m.tif").write_bytes(OLD)
    arguments = ["infer", "a.tif", "-o", "m.tif", "-m", models["gray"], "--output-kind", "probabilities"]
    running = zygote.start(arguments, place, limits={"RLIMIT_FSIZE": 10_000})
    assert running.wait() == 5, text(place)
    assert "error: m.tif: disk full" in text(place)
    assert sorted(path.name for path in place.iterdir()) == ["a.tif", "err", "m.tif", "out"]
    assert (place / "m.tif").read_bytes() == OLD


@pytest.mark.parametrize("command", ["infer", "train", "evaluate", "json"])
def test_read_only_places(command, home, place, models, capsys):
    """RES04: found before the work."""
    tifffile.imwrite("a.tif", IMAGE)
    shutil.copytree(home / "cells/masks", place / "predicted")
    arguments = {
        "infer": ["infer", "a.tif", "-o", "disk/m.tif", "-m", models["gray"]],
        "train": ["train", str(home / "cells"), "-o", "disk/new.safetensors", *LONG],
        "evaluate": ["evaluate", "predicted", str(home / "cells/masks"), "--csv", "disk/s.csv"],
        "json": ["infer", "a.tif", "-o", "m.tif", "-m", models["gray"], "--json", "disk/r.json"],
    }[command]
    with small_disk(place / "disk", "size=1m,ro"):
        assert run(arguments) == 5
    error = capsys.readouterr().err
    assert "error: disk/" in error
    assert "read-only" in error
    check_form(5, error)
    assert "epoch" not in error
    assert not (place / "m.tif").exists()


def test_read_only_surroundings(home, place_of_all, zygote):
    """RES05: nothing is written but the outputs; home, cache and temporary folders are not needed."""
    shutil.copytree(home / "cells", place_of_all / "cells")
    for folder in ("cells/images", "cells/masks", "cells"):
        (place_of_all / folder).chmod(0o555)
    (place_of_all / "locked").mkdir(0o555)
    (place_of_all / "work").mkdir()
    (place_of_all / "work").chmod(0o777)
    locked = str(place_of_all / "locked")
    environment = dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"), locked)
    arguments = ["train", "../cells", "-o", "new.safetensors", *FAST]
    running = zygote.start(arguments, place_of_all / "work", environment=environment, nobody=True)
    assert running.wait() == 0, text(place_of_all / "work")
    running = zygote.start(["infer", "../cells/images", "-o", "masks", "-m", "new.safetensors"], place_of_all / "work",
                           environment={"TMPDIR": locked}, nobody=True)  # fmt: skip
    assert running.wait() == 0, text(place_of_all / "work")
    assert list((place_of_all / "locked").iterdir()) == []
    for folder in ("cells/images", "cells/masks", "cells", "locked"):
        (place_of_all / folder).chmod(0o755)


@pytest.mark.parametrize(("row", "number", "code", "workers", "to_all"), [
    ("RES07", signal.SIGTERM, 143, "0", False), ("RES08", signal.SIGINT, 130, "2", False),
    ("RES10", signal.SIGHUP, 129, "2", True), ("RES07", signal.SIGTERM, 143, "2", True),
    pytest.param("RES07", signal.SIGTERM, 143, "2", False, marks=pytest.mark.slow),
    pytest.param("RES10", signal.SIGHUP, 129, "0", False, marks=pytest.mark.slow),
])  # fmt: skip
def test_one_signal(row, number, code, workers, to_all, home, place, zygote):
    """The step is finished, the best model is there, no process is left."""
    arguments = ["train", home / "cells", "-o", "new.safetensors", *LONG, "--workers", workers]
    running = zygote.start(arguments, place)
    wait_for(lambda: "epoch 1" in text(place))
    (running.signal_all if to_all else running.signal)(number)
    assert running.wait(30) == code, text(place)
    assert text(place).count("stopping after this step") == 1
    assert "Traceback" not in text(place)
    load_model(place / "new.safetensors")
    assert not running.has_children
    assert sorted(path.name for path in place.iterdir()) == ["err", "new.run", "new.safetensors", "out"]
    assert {path.name for path in (place / "new.run").iterdir()} >= {"config.json", "history.csv", "report.html"}


def test_two_interrupts(home, place, zygote):
    """RES08: the second one ends it at once."""
    running = zygote.start(["train", home / "cells", "-o", "new.safetensors", *LONG, "--workers", "2"], place)
    wait_for(lambda: "epoch 1" in text(place))
    running.signal(signal.SIGINT)
    wait_for(lambda: "stopping" in text(place))
    with contextlib.suppress(ProcessLookupError):
        running.signal(signal.SIGINT)
    assert running.wait(10) == 130
    assert "Traceback" not in text(place)
    load_model(place / "new.safetensors")
    assert not running.has_children
    assert not (place / "new.run/lock").exists()


ABANDONED = """
import os, socket
from multiprocessing.resource_sharer import DupFd
from unetcli.training.batches import _quiet_worker

_quiet_worker(0)
handed_over = DupFd(os.open(os.devnull, os.O_RDONLY))
with socket.socket(socket.AF_UNIX) as main_process:  # which ends while it fetches
    main_process.connect(handed_over._id[0])
os.close(handed_over.detach())
print("served")
"""


def test_a_worker_whose_main_process_ends_is_silent():
    done = subprocess.run([sys.executable, "-c", ABANDONED], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("served\n", "")


def test_interrupts_before_and_during_work(home, place, models, zygote):
    """RES09: a check of the data and an inference end at once, with the old mask in place."""
    (place / "m.tif").write_bytes(OLD)
    tifffile.imwrite("a.tif", np.tile(IMAGE, (30, 30)))
    for arguments, delay in (
        (["infer", "a.tif", "-o", "m.tif", "-m", models["gray"]], 0.3),
        (["train", home / "cells", "-o", "new.safetensors", *LONG], 0.03),
    ):
        (place / "err").unlink(missing_ok=True)
        running = zygote.start(arguments, place)
        wait_for((place / "err").exists)
        time.sleep(delay)
        running.signal(signal.SIGINT)
        began = time.monotonic()
        assert running.wait(10) in (130, 128 + signal.SIGINT), text(place)
        assert time.monotonic() - began < 5
        assert "Traceback" not in text(place)
        assert (place / "m.tif").read_bytes() == OLD
        assert not [path for path in place.rglob("*") if ".tmp" in path.name]


def test_the_interrupt_key_alone_counts_twice():
    """A launcher that forwards a signal which its processes got anyway does not mean it twice."""
    with stopping_on_signals() as stop:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGHUP):
            signal.raise_signal(number)
        assert stop.number == signal.SIGTERM
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGINT)


def test_a_hang_up_that_nohup_ignores_stops_nothing():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals_raise(), stopping_on_signals() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert stop.number is None
            signal.raise_signal(signal.SIGTERM)
            assert stop.number == signal.SIGTERM
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_interrupt_that_a_library_stumbles_over(home, place, capsys, monkeypatch):
    """It comes at any line of a library, whose own way out may then fail, as that of torch's modes did."""

    def stumbling(*_, **__):
        try:
            raise Interrupted(signal.SIGTERM)
        finally:
            raise RuntimeError("trying to pop from empty mode stack")

    monkeypatch.setattr("unetcli.dataset.survey.survey", stumbling)
    assert run(["train", str(home / "cells"), "--json", "-"]) == 128 + signal.SIGTERM
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.modules["unetcli.cli"], "_call", stumbling)
    assert run(["--help"]) == 128 + signal.SIGTERM
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("command", "swallowing"), [
    ("train", "unetcli.dataset.survey.survey"),
    ("infer", "unetcli.inference.infer.load_model"),
])  # fmt: skip
def test_an_interrupt_that_a_library_swallows(command, swallowing, home, place, models, capsys, monkeypatch):
    """C code may drop what is raised inside it; then the program must not go on for hours."""
    tifffile.imwrite("a.tif", IMAGE)
    original = pkgutil.resolve_name(swallowing)

    def deaf(*arguments, **settings):
        with contextlib.suppress(Interrupted):
            signal.raise_signal(signal.SIGTERM)
        return original(*arguments, **settings)

    monkeypatch.setattr(swallowing, deaf)
    arguments = {"train": [home / "cells", *FAST, "--epochs", "1"], "infer": ["a.tif", "-m", models["gray"]]}[command]
    output = {"train": "new.safetensors", "infer": "new.tif"}[command]
    assert run([command, *map(str, arguments), "-o", output]) == 128 + signal.SIGTERM
    assert "epoch 1/1" not in capsys.readouterr().err
    assert not (place / output).exists()


def test_absent_cuda(home, place, models, capsys):
    """RES15: said, and never the CPU in its place."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    for arguments in (
        ["infer", str(home / "cells/images/c0.tif"), "-o", "m.tif", "-m", models["gray"]],
        ["train", str(home / "cells"), "-o", "new.safetensors", *FAST],
    ):
        assert run([*arguments, "--device", "cuda"]) == 6
        error = capsys.readouterr().err
        assert "CUDA is not available" in error
        assert "hint: --device cpu" in error
        check_form(6, error)
    assert list(place.iterdir()) == []


def test_divergence_keeps_the_best_model(home, place, capsys, monkeypatch):
    """RES22: the loss becomes NaN in the third epoch; the model of the best one before stays."""
    from unetcli.training import loop

    true_loss = loop.weighted_cross_entropy
    count = 0

    def failing(logits, *rest):
        nonlocal count
        count += logits.requires_grad
        return true_loss(logits, *rest) * (float("nan") if count > 8 else 1)

    monkeypatch.setattr(loop, "weighted_cross_entropy", failing)
    arguments = ["train", str(home / "cells"), "-o", "new.safetensors", *FAST, "--epochs", "9"]
    assert run(arguments) == 8
    error = capsys.readouterr().err
    assert "error: the loss is not finite at epoch 4, step 1" in error
    assert "hint: lower --learning-rate" in error
    check_form(8, error)
    _network, description, _ = load_model(place / "new.safetensors")
    assert description.training["epoch"] in (1, 2)
    assert not (place / "new.run/lock").exists()
