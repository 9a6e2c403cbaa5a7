"""Several processes at once, and the threads of each (FAULTS, B5)."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch
from faults.conftest import discs
from faults.harness import FAST, Watch, check_form
from faults.test_resources import LONG, text, wait_for

from unetcli.cli import run
from unetcli.dataset import examination
from unetcli.evaluation import evaluate
from unetcli.images import threads as threads_module
from unetcli.images import tiff_encoder

IMAGE = discs(0)[0]


def test_two_trainings_of_one_model(home, place, zygote):
    """CON01: the second is told who owns the run folder; the first goes on and its files are whole."""
    arguments = ["train", home / "cells", "-o", "new.safetensors"]
    first = zygote.start([*arguments, *LONG], place)
    wait_for(lambda: "epoch 1" in text(place))
    second = zygote.start([*arguments, *FAST, "--overwrite"], place, streams=(os.devnull, "out", "err2"))
    assert second.wait() == 5
    error = (place / "err2").read_text()
    owner = rf"error: new\.run: is in use by pid {first.pid} on host {re.escape(socket.gethostname())} since \d{{4}}-"
    assert re.search(owner, error), error
    check_form(5, error)
    first.signal(signal.SIGTERM)
    assert first.wait() == 143, text(place)
    epochs = [line.split(",")[0] for line in (place / "new.run/history.csv").read_text().splitlines()[1:]]
    assert epochs == [str(1 + number) for number in range(len(epochs))]
    assert not (place / "new.run/lock").exists()


@pytest.mark.parametrize(("owner", "code"), [
    ("killed", 0),
    ({"pid": 1, "host": "another-machine", "since": "2026-01-01 00:00:00"}, 5),
    ("damaged", 5),
])  # fmt: skip
def test_a_stale_lock(owner, code, home, place, zygote, capsys):
    """CON03: taken over from a process that was killed here; else it is said what to remove."""
    arguments = ["train", str(home / "cells"), "-o", "new.safetensors", *FAST, "--overwrite"]
    if owner == "killed":
        running = zygote.start([*arguments, *LONG[-2:]], place)
        wait_for(lambda: "epoch 1" in text(place))
        running.signal(signal.SIGKILL)
        assert running.wait() == 128 + signal.SIGKILL
        assert (place / "new.run/lock/owner.json").exists()
    else:
        (place / "new.run/lock").mkdir(parents=True)
        (place / "new.run/lock/owner.json").write_text("{" if owner == "damaged" else json.dumps(owner))
    assert run(arguments) == code
    error = capsys.readouterr().err
    check_form(code, error)
    if code:
        assert "error: new.run: is in use by pid" in error
        assert "remove new.run/lock if it is stale" in error
        assert not (place / "new.safetensors").exists()
    else:
        assert not (place / "new.run/lock").exists()
        assert not [path for path in place.rglob("*") if ".tmp" in path.name]


def test_two_writers_of_one_mask(place, models, zygote):
    """CON04: one of the two masks, whole."""
    masks = {}
    for kind in ("mask", "probabilities"):
        tifffile.imwrite("a.tif", IMAGE)
        assert run(["infer", "a.tif", "-o", f"{kind}.tif", "-m", models["gray"], "--output-kind", kind, "-q"]) == 0
        masks[kind] = (place / f"{kind}.tif").read_bytes()
    for _ in range(3):
        running = [
            zygote.start(["infer", "a.tif", "-o", "m.tif", "-m", models["gray"], "--output-kind", kind], place)
            for kind in masks
        ]
        assert [one.wait() for one in running] == [0, 0], text(place)
        assert (place / "m.tif").read_bytes() in masks.values()
    assert not [path for path in place.iterdir() if ".tmp" in path.name]


def test_infer_while_the_model_is_replaced(place, home, models):
    """CON05: the old or the new one, never a mixture or an error."""
    tifffile.imwrite("a.tif", IMAGE)
    shutil.copytree(home / "cells", place / "cells")
    assert run(["train", "cells", "-o", "b.safetensors", *FAST, "--seed", "5", "-q"]) == 0
    contents = [Path(name).read_bytes() for name in (models["gray"], "b.safetensors")]
    Path("x.safetensors").write_bytes(contents[0])
    possible = []
    for model in (models["gray"], "b.safetensors"):
        assert run(["infer", "a.tif", "-o", "m.tif", "-m", model, "-q"]) == 0
        possible.append(Path("m.tif").read_bytes())
    done = threading.Event()

    def replace():
        number = 0
        while not done.is_set():
            number += 1
            Path("y.safetensors").write_bytes(contents[number % 2])
            Path("y.safetensors").replace("x.safetensors")

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        for _ in range(8):
            assert run(["infer", "a.tif", "-o", "m.tif", "-m", "x.safetensors", "-q"]) == 0
            assert Path("m.tif").read_bytes() in possible
    finally:
        done.set()
        writer.join()


@pytest.mark.parametrize("threads", [
    {"environment": {"OMP_NUM_THREADS": "1"}},
    pytest.param({"arguments": ["--threads", "1"]}, marks=pytest.mark.slow),
])  # fmt: skip
def test_eight_side_by_side(threads, place, models, zygote):
    """CON07: eight inferences at once have no more than a few threads each."""
    tifffile.imwrite("a.tif", np.tile(IMAGE, (3, 3)))
    environment = threads.get("environment", {"OMP_NUM_THREADS": ""})
    running = [
        zygote.start(
            ["infer", "a.tif", "-o", f"m{number}.tif", "-m", models["gray"], *threads.get("arguments", [])],
            place,
            environment=environment,
        )
        for number in range(8)
    ]
    most = 0
    left = set(running)
    while left:
        for one in set(left):
            with contextlib.suppress(OSError):
                most = max(most, len(os.listdir(f"/proc/{one.pid}/task")))  # noqa: PTH208
            code = zygote.ask({"poll": one.pid})["code"]
            if code is not None:
                assert code == 0, text(place)
                left.remove(one)
    assert most <= 4  # the main one, the one that reads ahead, and what torch keeps
    assert len({(place / f"m{number}.tif").read_bytes() for number in range(8)}) == 1


@pytest.fixture
def pools(monkeypatch):
    """The sizes of the pools of threads that read, score and compress; the process is as before afterwards."""
    sizes = []
    for module in (tiff_encoder, examination, evaluate):
        true = module.ThreadPoolExecutor

        def recording(workers, *rest, true=true, module=module, **options):
            if options.get("thread_name_prefix") != "store":  # one thread, whatever is said
                sizes.append((module.__name__.rpartition(".")[2], workers))
            return true(workers, *rest, **options)

        monkeypatch.setattr(module, "ThreadPoolExecutor", recording)
    before = torch.get_num_threads(), cv2.getNumThreads(), threads_module._limit
    yield sizes
    torch.set_num_threads(before[0])
    cv2.setNumThreads(before[1])
    threads_module._limit = before[2]


@pytest.mark.parametrize("number", [1, 3])
def test_threads_are_obeyed(number, home, place, models, pools):
    """CON07: by torch, by OpenCV, and by what reads, scores and compresses."""
    cells, scan = str(home / "cells"), str(home / "cells/images/c0.tif")
    shutil.copytree(home / "cells/masks", place / "predicted")
    more = ["--threads", str(number), "-q"]
    for arguments in (
        ["infer", scan, "-o", "m.tif", "-m", models["gray"], *more],
        ["train", cells, "-o", "new.safetensors", *FAST, *more],
        ["evaluate", "predicted", f"{cells}/masks", *more],
    ):
        torch.set_num_threads(2)
        assert run(arguments) == 0
        assert cv2.getNumThreads() <= number
        assert arguments[0] == "evaluate" or torch.get_num_threads() == number
    expected = {"tiff_encoder"} if number == 1 else {"tiff_encoder", "examination", "evaluate"}  # one needs no pool
    assert set(pools) == {(module, number) for module in expected}


def test_links(home, place, models, capsys):
    """Images, masks, a model and an output folder that are symbolic links, as workflow programs make them."""
    for kind in ("images", "masks"):
        (place / "cells" / kind).mkdir(parents=True)
        for path in (home / "cells" / kind).iterdir():
            (place / "cells" / kind / path.name).symlink_to(path)
    (place / "model.safetensors").symlink_to(models["gray"])
    (place / "elsewhere").mkdir()
    (place / "out").symlink_to("elsewhere")
    watch = Watch(place)
    assert run(["train", "cells", "-o", "new.safetensors", *FAST]) == 0
    assert run(["infer", "cells/images", "-o", "out", "-m", "model.safetensors"]) == 0
    assert run(["evaluate", "out", "cells/masks", "-q"]) == 0
    watch.check(0, capsys.readouterr().err, ["new.safetensors", "new.run", "elsewhere", "out"])
    assert sorted(path.name for path in (place / "elsewhere").iterdir()) == [f"c{number}.tif" for number in range(4)]
