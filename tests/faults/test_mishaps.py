"""What can happen in the middle of a run: signals at every stage, little memory, a clock that jumps (FAULTS, B4)."""

import csv
import json
import os
import pkgutil
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from faults.conftest import discs
from faults.harness import FAST, OLD, Watch, check_form
from faults.test_resources import LONG, text, wait_for

from unetcli.cli import run
from unetcli.inference import infer, predict

IMAGE = discs(0)[0]
STAGES = {
    "infer-loading": ("unetcli.inference.infer", "load_model"),
    "infer-predicting": ("unetcli.inference.infer", "predict_bands"),
    "infer-writing": ("unetcli.images.writer:ImageWriter", "write_rows"),
    "evaluate-reading": ("unetcli.evaluation.inputs", "pair_files"),
    "evaluate-scoring": ("unetcli.evaluation.evaluate", "score_page"),
    "evaluate-report": ("unetcli.evaluation.outputs", "build_report"),
    "train-checking": ("unetcli.dataset.survey", "examine"),
    "train-planning": ("unetcli.training.plan", "_estimate"),
}


@pytest.mark.parametrize("stage", STAGES)
def test_an_interrupt_at_every_stage(stage, home, place, models, monkeypatch, capsys):
    """RES09: 130, old outputs as they were, nothing else left, no words about it."""
    where, name = STAGES[stage]
    owner = pkgutil.resolve_name(where)
    true, reached = getattr(owner, name), []

    def interrupted(*arguments, **options):
        reached.append(name)
        signal.raise_signal(signal.SIGINT)
        return true(*arguments, **options)

    monkeypatch.setattr(owner, name, interrupted)
    tifffile.imwrite("a.tif", IMAGE)
    shutil.copytree(home / "cells/masks", place / "predicted")
    outputs = ("m.tif", "r.html", "s.csv", "r.json")
    for output in outputs:
        (place / output).write_bytes(OLD if output != "r.json" else b'{"schema": 1}')
    arguments = {
        "infer": ["infer", "a.tif", "-o", "m.tif", "-m", models["gray"], "--json", "r.json"],
        "evaluate": ["evaluate", "predicted", str(home / "cells/masks"), "--report", "r.html", "--workers", "1"],
        "train": ["train", str(home / "cells"), "-o", "new.safetensors", *FAST],
    }[stage.partition("-")[0]]
    watch = Watch(place)
    assert run(arguments) == 130
    assert reached
    error = capsys.readouterr().err
    watch.check(130, error, ())
    assert "error:" not in error


def test_an_interrupt_while_the_model_is_written(home, place, monkeypatch, capsys):
    """RES08: the model is complete."""
    from unetcli.training import train

    true = train.save_model
    monkeypatch.setattr(train, "save_model", lambda *a, **o: (signal.raise_signal(signal.SIGINT), true(*a, **o))[1])
    watch = Watch(place)
    assert run(["train", str(home / "cells"), "-o", "new.safetensors", *LONG]) == 130
    watch.check(130, capsys.readouterr().err, ["new.safetensors", "new.run"])
    tifffile.imwrite("a.tif", IMAGE)
    assert run(["infer", "a.tif", "-o", "m.tif", "-m", "new.safetensors", "-q"]) == 0


def test_a_pause(home, place, zygote):
    """RES11: a training that was stopped and continued goes on, data workers and all."""
    running = zygote.start(["train", home / "cells", "-o", "new.safetensors", *LONG, "--workers", "2"], place)
    wait_for(lambda: "epoch 1" in text(place))
    os.killpg(running.pid, signal.SIGSTOP)
    time.sleep(1)
    before = text(place).count("epoch ")
    os.killpg(running.pid, signal.SIGCONT)
    wait_for(lambda: text(place).count("epoch ") > before)
    running.signal(signal.SIGTERM)
    assert running.wait() == 143, text(place)
    assert "warning" not in text(place)
    assert not running.has_children


def limited_inference(side, limit, place, model, zygote, seconds):
    """The exit code, the messages and the mask of an image of that side, which is tiled, under a limit of memory."""
    with tifffile.TiffWriter(place / "a.tif", bigtiff=True) as tiff:
        tile = np.tile(IMAGE, (8, 8))[:512, :512]
        tiff.write((tile for _ in range((-(-side // 512)) ** 2)), shape=(side, side), dtype=tile.dtype,
                   tile=(512, 512), compression="zlib")  # fmt: skip
    arguments = ["infer", "a.tif", "-o", "m.tif", "-m", model, "--threads", "1"]
    running = zygote.start(arguments, place, limits={"RLIMIT_AS": limit} if limit else None)
    code = running.wait(seconds)
    return code, text(place), tifffile.imread(place / "m.tif") if code == 0 else None


def test_little_memory(place, models, zygote):
    """RES12: 400 MiB above what the program itself takes are enough, and the mask is the same."""
    pages = int(Path(f"/proc/{zygote.process.pid}/statm").read_text().split()[0])
    own = pages * os.sysconf("SC_PAGE_SIZE")
    masks = []
    for limit in (None, own + (400 << 20)):
        code, error, mask = limited_inference(1500, limit, place, models["gray"], zygote, 60)
        assert code == 0, error
        masks.append(mask)
        (place / "err").unlink()
    np.testing.assert_array_equal(*masks)
    code, error, _ = limited_inference(1500, own + (1 << 20), place, models["gray"], zygote, 60)
    assert code == 6, error
    check_form(6, error)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_large_image_in_4_gib(place, models, zygote):
    """RES12: 20,000 x 20,000 pixels."""
    code, error, mask = limited_inference(20_000, 4 << 30, place, models["gray"], zygote, 1000)
    assert code == 0, error
    assert mask.shape == (20_000, 20_000)


@pytest.mark.parametrize(("largest", "code"), [(60**2, 0), (0, 6)])
def test_a_full_graphics_memory(largest, code, place, models, monkeypatch, capsys):
    """RES14, as CUDA says it: smaller tiles, said, and the same mask; or 6 where not even one fits."""
    tifffile.imwrite("a.tif", IMAGE)
    arguments = ["infer", "a.tif", "-o", "m.tif", "-m", models["gray"], "--precision", "fp32", "--tile", "100"]
    assert run([*arguments, "-q"]) == 0
    expected = tifffile.imread("m.tif")
    true = predict.Ensemble.probabilities

    def refusing(ensemble, tiles, core):
        if tiles[0].shape[0] * tiles[0].shape[2] * tiles[0].shape[3] > largest:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.00 GiB free")
        return true(ensemble, tiles, core)

    monkeypatch.setattr(predict.Ensemble, "probabilities", refusing)
    watch = Watch(place)
    capsys.readouterr()
    assert run(arguments) == code
    error = capsys.readouterr().err
    watch.check(code, error, ["m.tif"])
    said = "warning: out of memory: going on with tiles of" if largest else "error: a.tif: out of memory with one tile"
    assert said in error, error
    np.testing.assert_array_equal(tifffile.imread("m.tif"), expected)


@pytest.mark.parametrize("command", ["infer", "train"])
def test_a_failed_assertion_on_the_device(command, home, place, models, monkeypatch, capsys):
    """RES16: a bug, said as one, and no hang."""

    def failing(*arguments, **options):
        raise RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronous")

    tifffile.imwrite("a.tif", IMAGE)
    if command == "infer":
        monkeypatch.setattr(infer, "predict_bands", failing)
        arguments = ["infer", "a.tif", "-o", "m.tif", "-m", models["gray"]]
    else:
        monkeypatch.setattr("unetcli.training.loop.weighted_cross_entropy", failing)
        arguments = ["train", str(home / "cells"), "-o", "new.safetensors", *FAST]
    assert run(arguments) == 1
    error = capsys.readouterr().err
    check_form(1, error)
    assert "device-side assert triggered" in error
    assert "hint: run again with --debug" in error
    assert not (place / "m.tif").exists()
    assert not (place / "new.safetensors").exists()
    assert not (place / "new.run/lock").exists()


def test_a_clock_that_jumps(home, place, monkeypatch, capsys):
    """RES23: durations come from a clock that nobody sets."""
    wall = iter(range(10**9, -(10**9), -86400))
    monkeypatch.setattr(time, "time", lambda: float(next(wall)))
    monkeypatch.setenv("TZ", "Nowhere/Atlantis")
    time.tzset()
    try:
        arguments = ["train", str(home / "cells"), "-o", "new.safetensors", *FAST, "--epochs", "2", "--json", "r.json"]
        assert run(arguments) == 0
    finally:
        monkeypatch.undo()
        time.tzset()
    assert 0 < json.loads((place / "r.json").read_text())["seconds"] < 1000
    with (place / "new.run/history.csv").open() as file:
        seconds = [float(row["seconds"]) for row in csv.DictReader(file)]
    assert 0 < seconds[0] < seconds[1] < 1000
    error = capsys.readouterr().err
    assert "-" not in error.partition("this will take about")[2].partition("\n")[0]


def test_workers_do_not_change_the_weights(home, place):
    """RES26: the same seed, augmented patches made here and in two other processes."""
    hashes = set()
    for workers in ("0", "2"):
        arguments = ["train", str(home / "cells"), "-o", f"{workers}.safetensors", *FAST[:-1], "--workers", workers]
        assert run([*arguments, "--json", "r.json", "-q"]) == 0
        hashes.add(json.loads((place / "r.json").read_text())["weights_sha256"])
    assert len(hashes) == 1
