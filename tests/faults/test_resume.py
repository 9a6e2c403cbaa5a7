"""What a training keeps through kills, damage and full disks (FAULTS, B3 and B4), and what `--resume` makes of it."""

import contextlib
import csv
import errno
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from faults.conftest import discs
from faults.harness import FAST, check_form
from faults.test_resources import small_disk, text, wait_for

from unetcli.cli import run
from unetcli.cli.train_options import resume_command
from unetcli.dataset import samples
from unetcli.errors import OutputError
from unetcli.models.modelfile import load_model
from unetcli.training import batches, loop, plan
from unetcli.training import train as training
from unetcli.training.runfolder import PREVIOUS, STATE, RunFolder
from unetcli.training.state import load_state

EPOCHS = 4
OPTIONS = ["--features", "4", "--depth", "2", "--patch-size", "84", "--threads", "1", "--workers", "0"]
UNTIMED = {"seconds", "patches_per_second"}


@pytest.fixture(scope="module")
def uninterrupted(home, tmp_path_factory):
    """The hash and the history of a training that nothing disturbed."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    arguments = [*OPTIONS, "--epochs", str(EPOCHS), "-o", str(folder / "a.safetensors"), "-q"]
    assert run(["train", str(home / "cells"), *arguments]) == 0
    return load_model(folder / "a.safetensors")[2], history(folder / "a.run")


def history(folder):
    with (folder / "history.csv").open() as file:
        return [{k: v for k, v in row.items() if k not in UNTIMED} for row in csv.DictReader(file)]


def crash_after(monkeypatch, epochs):
    """Let the training die after so many epochs, as its process would: nothing is cleaned up."""
    save = training.save_state

    def dying(folder, state):
        save(folder, state)
        if len(state.position["history"]) == epochs:
            raise SystemExit("killed")

    monkeypatch.setattr(training, "save_state", dying)


@pytest.fixture
def interrupted(home, place, monkeypatch):
    """A training of four epochs that died after two."""
    shutil.copytree(home / "cells", place / "cells")
    with monkeypatch.context() as patched:
        crash_after(patched, 2)
        with pytest.raises(SystemExit):
            run(["train", "cells", *OPTIONS, "--epochs", str(EPOCHS), "-q"])
    return place


@pytest.mark.parametrize("workers", ["0", "2"])
def test_resumed_is_uninterrupted(interrupted, uninterrupted, workers, capsys):
    """RES25: the same weights and the same history."""
    assert run(["train", "--resume", "--workers", workers]) == 0
    assert "continues after epoch 2/4, step 0 of" in capsys.readouterr().err
    assert (load_model(interrupted / "unet.safetensors")[2], history(interrupted / "unet.run")) == uninterrupted


def test_an_epoch_keeps_its_length(interrupted, uninterrupted, monkeypatch):
    """It may be another on another device."""
    monkeypatch.setattr(plan, "FEWEST_PATCHES", 96)
    assert run(["train", "--resume", "-q"]) == 0
    assert (load_model(interrupted / "unet.safetensors")[2], history(interrupted / "unet.run")) == uninterrupted


def kill_and_resume(home, place, zygote, uninterrupted, delays):
    """RES06: after every kill the state is whole, and the end is as if nothing had been."""
    arguments = ["train", home / "cells", "-o", "new.safetensors", *OPTIONS, "--epochs", str(EPOCHS)]
    for delay in delays:
        running = zygote.start([*arguments, "--resume"], place)
        time.sleep(delay)
        number = random.Random(delay).choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        with contextlib.suppress(ProcessLookupError):
            running.signal(number)
        assert running.wait(30) in (0, 128 + number), text(place)
        assert not running.has_children
        if (place / "new.run").exists() and any((place / "new.run").glob("state*")):
            load_state(place / "new.run")  # raises where it is damaged
        if (place / "new.safetensors").exists():
            load_model(place / "new.safetensors")
    running = zygote.start([*arguments, "--resume"], place)
    assert running.wait(120) == 0, text(place)
    assert (load_model(place / "new.safetensors")[2], history(place / "new.run")) == uninterrupted
    assert not [path for path in place.rglob("*") if ".tmp" in path.name]
    assert not (place / "new.run/lock").exists()
    assert "Traceback" not in text(place)


def test_killed_at_any_moment(home, place, zygote, uninterrupted):
    kill_and_resume(home, place, zygote, uninterrupted, [0.2, 0.6, 0.9, 1.3, 1.1])


def test_stopped_before_the_first_step(home, place, uninterrupted, monkeypatch):
    """The model that is written then is continued too."""
    arguments = ["train", str(home / "cells"), *OPTIONS, "--epochs", str(EPOCHS), "-q"]
    command = sys.modules["unetcli.cli.train"]
    told = command.Stop()
    told.number = signal.SIGTERM
    with monkeypatch.context() as patched:
        patched.setattr(command, "stopping_on_signals", lambda: contextlib.nullcontext(told))
        assert run(arguments) == 143
    assert load_state(place / "unet.run").position["losses"] == []
    load_model(place / "unet.safetensors")
    assert run(["train", "--resume", "-q"]) == 0
    assert (load_model(place / "unet.safetensors")[2], history(place / "unet.run")) == uninterrupted


def test_a_model_that_is_to_be_replaced_stays_until_there_is_a_better_one(home, place, monkeypatch):
    arguments = ["train", str(home / "cells"), *OPTIONS, "-q"]
    assert run([*arguments, "--epochs", "1"]) == 0
    before = (place / "unet.safetensors").read_bytes()
    command = sys.modules["unetcli.cli.train"]
    told = command.Stop()
    told.number = signal.SIGTERM
    with monkeypatch.context() as patched:
        patched.setattr(command, "stopping_on_signals", lambda: contextlib.nullcontext(told))
        assert run([*arguments, "--epochs", "2", "--seed", "1", "--overwrite"]) == 143
    assert (place / "unet.safetensors").read_bytes() == before
    assert run(["train", "--resume", "-q"]) == 0
    assert (place / "unet.safetensors").read_bytes() != before
    assert len(history(place / "unet.run")) == 2


def test_the_model_that_a_training_started_from_may_be_gone(home, place, monkeypatch):
    assert run(["train", str(home / "cells"), *OPTIONS, "--epochs", "1", "-q", "-o", "first.safetensors"]) == 0
    arguments = ["train", str(home / "cells"), "--patch-size", "84", "--threads", "1", "--workers", "0", "-q"]
    arguments += ["--init", "first.safetensors", "--freeze", "contracting", "--epochs", "3"]
    assert run([*arguments, "-o", "whole.safetensors"]) == 0
    with monkeypatch.context() as patched:
        crash_after(patched, 1)
        with pytest.raises(SystemExit):
            run(arguments)
    (place / "first.safetensors").unlink()
    assert run(["train", "--resume", "-q"]) == 0
    assert load_model(place / "unet.safetensors")[2] == load_model(place / "whole.safetensors")[2]


def test_another_number_of_processes(interrupted, capsys, monkeypatch):
    """Its steps would be others."""
    state = load_state(interrupted / "unet.run")
    state.chosen["processes"] = 4
    training.save_state(interrupted / "unet.run", state)
    assert run(["train", "--resume"]) == 2
    error = capsys.readouterr().err
    assert "unet.run: the training began with 4 processes, now there are 1" in error
    check_form(2, error)


def test_folds_of_an_earlier_training_are_not_taken_for_those_to_come(home, place, monkeypatch):
    """`--overwrite` begins all of them anew, and only them, also where it is interrupted in the second one."""
    arguments = ["train", str(home / "cells"), *OPTIONS, "-q", "--folds"]
    assert run([*arguments, "4", "--epochs", "1"]) == 0
    shutil.copytree("unet.fold1.run", "unet.folded.run")
    before = [load_model(place / f"unet.fold{fold}.safetensors")[2] for fold in (1, 2, 3)]
    save = training.save_state

    def dying(folder, state):
        save(folder, state)
        if folder.stem == "unet.fold2":
            raise SystemExit("killed")

    with monkeypatch.context() as patched:
        patched.setattr(training, "save_state", dying)
        with pytest.raises(SystemExit):
            run([*arguments, "3", "--epochs", "2", "--learning-rate", "1e-4", "--overwrite"])
    states = [load_state(place / f"unet.{name}.run") for name in ("fold1", "fold2", "fold3", "fold4", "folded")]
    assert [state is None for state in states] == [False, False, True, True, False]
    assert load_model(place / "unet.fold3.safetensors")[2] == before[2]
    first = (place / "unet.fold1.safetensors").read_bytes()
    assert run(["train", "--resume", "-q"]) == 0
    rows = [history(place / f"unet.fold{fold}.run") for fold in (1, 2, 3)]
    assert [len(each) for each in rows] == [2, 2, 2]
    assert max(float(row["learning_rate"]) for each in rows for row in each) <= 1e-4
    assert (place / "unet.fold1.safetensors").read_bytes() == first
    assert not {load_model(place / f"unet.fold{fold}.safetensors")[2] for fold in (1, 2, 3)} & set(before)


def test_another_training_that_has_ended_meanwhile(home, place, capsys, monkeypatch):
    """Two that begin at the same time find no model; the one that has to wait must not replace that of the other."""
    lock = RunFolder.lock

    def late(folder):
        monkeypatch.setattr(RunFolder, "lock", lock)
        assert run(["train", str(home / "cells"), *FAST, "-q"]) == 0
        return lock(folder)

    monkeypatch.setattr(RunFolder, "lock", late)
    assert run(["train", str(home / "cells"), *FAST, "--seed", "1"]) == 5
    assert "unet.safetensors: exists already" in capsys.readouterr().err
    assert load_state(place / "unet.run").options["seed"] == 0


def test_a_model_to_start_from_in_the_run_folder_is_not_lost(interrupted, capsys):
    best = interrupted / "unet.run/best.safetensors"
    before = best.read_bytes()
    arguments = ["train", "cells", "--init", str(best), "--epochs", "1", "-q"]
    assert run([*arguments, "--overwrite"]) == 2
    error = capsys.readouterr().err
    assert "lies in the run folder, which begins anew" in error
    check_form(2, error)
    assert best.read_bytes() == before
    assert run([*arguments, "-o", "other.safetensors"]) == 0


def test_a_limit_of_time_that_is_said_again_holds(home, place, capsys):
    arguments = ["train", str(home / "cells"), *OPTIONS, "--max-time", "8h"]
    assert run([*arguments, "--epochs", "1", "-q"]) == 0
    for more in (["--epochs", "2"], ["--epochs", "3"]):
        assert run([*arguments, *more, "--resume"]) == 0
        assert f"{more[1]} epochs, at most 8 h" in capsys.readouterr().err
    assert len(history(place / "unet.run")) == 3
    assert run(["train", "--resume", "--epochs", "4", "--dry-run"]) == 0
    assert "4 epochs, no time limit" in capsys.readouterr().err


@pytest.mark.parametrize("more", [["--resume"], ["--folds", "2"], []])
def test_an_output_without_a_name(more, home, place, capsys):
    assert run(["train", str(home / "cells"), *FAST, "-o", ".", *more]) == 2
    error = capsys.readouterr().err
    assert "is no name of a file" in error
    check_form(2, error)


def test_a_glob_of_held_out_images_is_found_again(home, place):
    shutil.copytree(home / "cells", place / "cells")
    arguments = ["train", "cells", *OPTIONS, "--validation", "cells/images/c1*", "-q"]
    assert run([*arguments, "--epochs", "1"]) == 0
    assert run(["train", "--resume", "--epochs", "2", "-q"]) == 0
    assert len(history(place / "unet.run")) == 2


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(10))
def test_killed_at_fifty_moments(home, place, zygote, uninterrupted, seed):
    draws = random.Random(seed)
    kill_and_resume(home, place, zygote, uninterrupted, [draws.uniform(0.05, 2) for _ in range(5)])


def test_a_finished_training(interrupted, uninterrupted, capsys):
    """RES24: nothing to do is no error; more epochs are a new phase; other options are named, all of them."""
    assert run(["train", "cells", "--resume", "-q"]) == 0
    assert run(["train", "cells", "--resume"]) == 0
    said = capsys.readouterr().err
    assert "already 4/4 epochs, those are all: nothing is left to do" in said
    assert "this will take about 0 s" in said
    assert load_model(interrupted / "unet.safetensors")[2] == uninterrupted[0]

    assert run(["train", "cells", "--resume", "--epochs", "3", "--features", "8", "--seed", "1"]) == 2
    error = capsys.readouterr().err
    assert "--epochs 3 (it began with 4), --features 8 (it began with 4), --seed 1 (it began with 0)" in error
    check_form(2, error)

    assert run(["train", "cells", "--resume", "--epochs", "6"]) == 0
    assert "the schedule begins anew for those up to 6" in capsys.readouterr().err
    rows = history(interrupted / "unet.run")
    assert len(rows) == 6
    assert rows[:4] == uninterrupted[1]
    assert float(rows[4]["learning_rate"]) > 2 * float(rows[3]["learning_rate"])
    assert run(["train", "--resume"]) == 0
    assert "already 6/6 epochs" in capsys.readouterr().err


def test_changed_data(interrupted, capsys):
    """DS24: named, before anything is trained."""
    tifffile.imwrite("cells/images/c1.tif", discs(7)[0])
    before = (interrupted / "unet.safetensors").read_bytes()
    assert run(["train", "--resume"]) == 3
    error = capsys.readouterr().err
    assert "unet.run: 1 of 4 pairs differ from those the training began with: c1" in error
    check_form(3, error)
    assert (interrupted / "unet.safetensors").read_bytes() == before


def test_other_images_held_out(home, place, capsys):
    """A list of them may change like the data; what was held out must not be trained on."""
    (place / "list.txt").write_text("c1\n")
    arguments = ["train", str(home / "cells"), *OPTIONS, "--validation", "list.txt"]
    assert run([*arguments, "--epochs", "1", "-q"]) == 0
    (place / "list.txt").write_text("c2\n")
    assert run([*arguments, "--resume", "--epochs", "2"]) == 3
    error = capsys.readouterr().err
    assert "unet.run: held out are other images than when the training began: c1, c2 (1 then, 1 now)" in error
    check_form(3, error)
    (place / "list.txt").write_text("id,split\nc1,val\nc2,test\n")
    assert run([*arguments, "--resume", "--epochs", "2"]) == 3
    error = capsys.readouterr().err
    assert "unet.run: trained on are other images than when the training began: c2 (3 then, 2 now)" in error
    (place / "list.txt").write_text("c1\n")
    assert run([*arguments, "--resume", "--epochs", "2", "-q"]) == 0
    assert len(history(place / "unet.run")) == 2


@pytest.mark.parametrize("limits", [["--max-time", "1s"], ["--max-time", "1s", "--epochs", "1000"]])
def test_more_epochs_than_fitted_the_time(limits, home, place, capsys):
    arguments = ["train", str(home / "cells"), *OPTIONS]
    assert run([*arguments, *limits, "-q"]) == 0
    done = len(history(place / "unet.run"))
    epochs = max(done + 2, 1002 if "--epochs" in limits else 0)
    if "--epochs" in limits:
        assert run(["train", "--resume", "--epochs", str(epochs), "--dry-run"]) == 0
        assert f"{epochs} epochs, no time limit" in capsys.readouterr().err
        return
    assert run(["train", "--resume", "--epochs", str(done)]) == 2
    assert f"--epochs {done} (it began with the default)" in capsys.readouterr().err
    assert run(["train", "--resume", "--epochs", str(epochs)]) == 0
    said = capsys.readouterr().err
    assert f"as many epochs as fit its time, {done} of them done: the schedule begins anew" in said
    rows = history(place / "unet.run")
    assert len(rows) == epochs
    assert float(rows[done]["learning_rate"]) > 2 * float(rows[done - 1]["learning_rate"])


def test_moved_data(interrupted, uninterrupted):
    """The same images elsewhere are the same images."""
    (interrupted / "cells").rename(interrupted / "moved")
    assert run(["train", "moved", "--resume", "-q"]) == 0
    assert load_model(interrupted / "unet.safetensors")[2] == uninterrupted[0]


def test_other_channels_and_classes(interrupted, capsys):
    """CK10: with both numbers."""
    for path in (interrupted / "cells/images").iterdir():
        tifffile.imwrite(path, np.stack([tifffile.imread(path)] * 3, axis=-1), photometric="rgb")
    assert run(["train", "--resume"]) == 4
    assert "began with 1 channels, the data have 3" in capsys.readouterr().err


def test_damaged_state(interrupted, uninterrupted, capsys):
    """CK14: the one before is taken, and the result is the same."""
    path = interrupted / "unet.run" / STATE
    damaged = bytearray(path.read_bytes())
    damaged[-5] ^= 1
    path.write_bytes(damaged)
    assert run(["train", "--resume"]) == 0
    error = capsys.readouterr().err
    assert "checksum mismatch" in error
    assert "continues after epoch 1/4" in error
    assert load_model(interrupted / "unet.safetensors")[2] == uninterrupted[0]


def test_state_that_is_a_pickle(interrupted, capsys):
    """SEC01: nothing of it is run."""
    canary = interrupted / "canary"
    for name in (STATE, PREVIOUS):
        (interrupted / "unet.run" / name).write_bytes(
            b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x0ctouch canary\x85R."
        )
    assert run(["train", "--resume"]) == 4
    assert "pickle" in capsys.readouterr().err
    assert not canary.exists()


def test_lost_model(interrupted, uninterrupted, capsys):
    """The best model is kept twice; where both are gone, that is an error."""
    (interrupted / "unet.safetensors").unlink()
    assert run(["train", "--resume", "-q"]) == 0
    assert load_model(interrupted / "unet.safetensors")[2] == uninterrupted[0]
    (interrupted / "unet.safetensors").unlink()
    (interrupted / "unet.run/best.safetensors").unlink()
    assert run(["train", "--resume"]) == 4
    assert "is gone" in capsys.readouterr().err


def test_an_interrupted_training_is_not_replaced_unasked(interrupted, capsys):
    (interrupted / "unet.safetensors").unlink()
    assert run(["train", "cells", *FAST]) == 5
    error = capsys.readouterr().err
    assert "holds a training that was interrupted" in error
    check_form(5, error)
    assert run(["train", "cells", *FAST, "--resume", "--overwrite"]) == 2
    assert "--resume continues a training, --overwrite begins anew" in capsys.readouterr().err
    assert run(["train", "cells", *FAST, "--overwrite", "-q"]) == 0
    assert len(history(interrupted / "unet.run")) == 1
    assert not (interrupted / "unet.run" / PREVIOUS).exists()


def test_a_model_without_a_state_is_not_continued(interrupted, capsys):
    for name in (STATE, PREVIOUS):
        (interrupted / "unet.run" / name).unlink()
    assert run(["train", "cells", *FAST, "--resume"]) == 5
    assert "no state to continue" in capsys.readouterr().err


def test_a_model_from_elsewhere_is_not_replaced(interrupted, capsys):
    shutil.rmtree(interrupted / "unet.run")
    before = (interrupted / "unet.safetensors").read_bytes()
    assert run(["train", "cells", *FAST, "--resume"]) == 5
    assert "no state to continue" in capsys.readouterr().err
    assert (interrupted / "unet.safetensors").read_bytes() == before


def test_killed_between_the_first_model_and_its_state(interrupted, capsys):
    """RES06: the first epoch begins anew."""
    for name in (STATE, PREVIOUS, "history.csv", "history.jsonl"):
        (interrupted / "unet.run" / name).unlink(missing_ok=True)
    assert run(["train", "cells", *FAST, "--resume"]) == 0
    assert "nothing to continue in unet.run yet" in capsys.readouterr().err
    assert len(history(interrupted / "unet.run")) == 1


def test_nothing_to_resume_yet(home, place, capsys):
    """A pipeline may always say `--resume`."""
    assert run(["train", str(home / "cells"), *FAST, "--resume"]) == 0
    assert "nothing to continue in unet.run yet" in capsys.readouterr().err
    assert run(["train", "-o", "other.safetensors", "--resume"]) == 2
    assert "no data named" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["state", "history", "page"])
def test_side_files_that_cannot_be_written(what, home, place, capsys, monkeypatch):
    """RES02, RES03: training goes on, one warning, and the exit code says it at the end."""
    failures = []

    def full(*rest):
        failures.append(what)
        raise OutputError(f"disk full ({what})", path=place / "unet.run")

    if what == "state":
        monkeypatch.setattr(training, "save_state", full)
    else:
        monkeypatch.setattr(RunFolder, f"write_{what}", full)
    assert run(["train", str(home / "cells"), *OPTIONS, "--epochs", "3"]) == 5
    error = capsys.readouterr().err
    assert len(failures) == {"state": 3, "history": 3, "page": 5}[what]  # the page also at the start and at the end
    assert error.count("warning: ") - error.count("predict nothing") == 1
    assert "the training goes on as long as its model can be written" in error
    load_model(place / "unet.safetensors")
    assert "epoch 3/3" in error


def test_a_full_disk_keeps_the_last_state(home, place, capsys):
    """RES02: on a disk that the second state does not fit."""
    with small_disk(place / "disk", "size=300k") as disk:
        code = run(["train", str(home / "cells"), *OPTIONS, "--epochs", "3", "-o", "disk/a.safetensors"])
        error = capsys.readouterr().err
        assert code == 5, error
        assert "disk full" in error
        load_model(disk / "a.safetensors")
        assert load_state(disk / "a.run") is not None
        assert not [path for path in disk.rglob("*") if ".tmp" in path.name]


def test_a_killed_worker(home, place, zygote):
    """RES17: named, with the remedy."""
    arguments = ["train", home / "cells", *OPTIONS, "--epochs", "100000", "--workers", "2"]
    running = zygote.start(arguments, place)
    wait_for(lambda: "epoch 1" in text(place))
    workers = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
    os.kill(int(workers[0]), signal.SIGKILL)
    assert running.wait(30) == 6, text(place)
    assert "a data worker was killed" in text(place)
    assert "--workers 0" in text(place)
    assert "Traceback" not in text(place)
    assert not running.has_children


def test_a_worker_that_is_killed_between_steps(home, place, capsys, monkeypatch):
    """RES17: torch raises from a signal handler, wherever the program just is."""

    def killed(*rest):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    monkeypatch.setattr(training, "save_state", killed)
    assert run(["train", str(home / "cells"), *FAST]) == 6
    error = capsys.readouterr().err
    assert "a data worker was killed" in error
    assert "--workers 0" in error


def test_an_image_that_vanishes_while_workers_read(home, place, capsys, monkeypatch):
    """RES21: the message names the file, from whichever process."""
    shutil.copytree(home / "cells", place / "cells")
    monkeypatch.setattr(samples, "CACHE_SHARE", 0.0)
    read = batches._loader

    def late(*rest, **options):
        shutil.rmtree(place / "cells/images")
        return read(*rest, **options)

    monkeypatch.setattr(batches, "_loader", late)
    assert run(["train", "cells", *OPTIONS, "--epochs", "1", "--workers", "2"]) in (2, 3)
    error = capsys.readouterr().err
    assert "cells/images/c" in error
    assert "DataLoader" not in error


@pytest.mark.parametrize("failure", [
    RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that ..."),
    BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"),
])  # fmt: skip
def test_no_other_processes(failure, home, place, capsys, monkeypatch):
    """RES18, RES20: patches are made without them; they are the same."""
    make = batches._loader

    def failing(dataset, keys, done, workers, *rest):
        if workers:
            raise failure
        return make(dataset, keys, done, workers, *rest)

    assert run(["train", str(home / "cells"), *FAST, "-q"]) == 0
    expected = load_model(place / "unet.safetensors")[2]
    monkeypatch.setattr(batches, "_loader", failing)
    assert run(["train", str(home / "cells"), *FAST, "--workers", "2", "--overwrite"]) == 0
    assert "without --workers" in capsys.readouterr().err
    assert load_model(place / "unet.safetensors")[2] == expected


@pytest.mark.parametrize(
    ("limits", "said"), [({"RLIMIT_NOFILE": 64}, "too many open files"), ({"RLIMIT_AS": 2**30}, "memory")]
)
def test_limits_in_training(limits, said, home, place, zygote):
    """RES13, RES19: named with the remedy, or it works."""
    arguments = ["train", home / "cells", "--features", "64", "--epochs", "1", "--threads", "1", "--workers", "4"]
    if "RLIMIT_NOFILE" in limits:
        arguments = ["train", home / "cells", *FAST, "--workers", "8"]
    running = zygote.start(arguments, place, limits=limits)
    code = running.wait(120)
    assert code in (0, 6), text(place)
    assert code == 0 or said in text(place)
    assert "Traceback" not in text(place)
    assert not running.has_children


def test_folds(home, place, capsys):
    """Every image is held out once; a run that was cut short goes on with the fold it was at."""
    assert run(["train", str(home / "cells"), *FAST, "--folds", "2", "--json", "folds.json"]) == 0
    document = json.loads((place / "folds.json").read_text())
    assert document["model"] == ["unet.fold1.safetensors", "unet.fold2.safetensors"]
    assert document["score"] == pytest.approx(np.mean([fold["score"] for fold in document["folds"]]))
    assert "mean and SD over 2 folds" in capsys.readouterr().err
    models = [word for model in document["model"] for word in ("-m", model)]
    assert run(["infer", str(home / "cells/images/c0.tif"), "-o", "m.tif", *models]) == 0
    shutil.rmtree("unet.fold2.run")
    (place / "unet.fold2.safetensors").unlink()
    assert run(["train", "--resume", "--json", "again.json"]) == 0
    again = json.loads((place / "again.json").read_text())
    assert [fold["weights_sha256"] for fold in again["folds"]] == [fold["weights_sha256"] for fold in document["folds"]]
    assert run(["train", str(home / "cells"), *FAST, "--folds", "5", "--overwrite"]) == 2
    assert "4 images do not make 5 folds" in capsys.readouterr().err


def test_folds_beside_a_training_of_the_same_name(home, place, capsys):
    """Each is continued as what it is."""
    arguments = ["train", str(home / "cells"), *FAST]
    assert run([*arguments, "--folds", "2", "-q"]) == 0
    folds = [load_model(place / f"unet.fold{fold}.safetensors")[2] for fold in (1, 2)]
    assert run([*arguments, "--resume"]) == 0  # nothing of this name yet: it begins
    assert "nothing to continue" in capsys.readouterr().err
    model = load_model(place / "unet.safetensors")[2]
    shutil.rmtree("unet.fold2.run")
    (place / "unet.fold2.safetensors").unlink()
    assert run([*arguments, "--folds", "2", "--resume", "-q"]) == 0
    assert [load_model(place / f"unet.fold{fold}.safetensors")[2] for fold in (1, 2)] == folds
    assert load_model(place / "unet.safetensors")[2] == model
    (place / "unet.fold1.safetensors").unlink()
    assert run([*arguments, "--folds", "2", "--dry-run", "-q"]) == 5
    assert resume_command({"data": ["cells"], "output": "unet.safetensors", "folds": 2}) == (
        "unet train cells --resume --folds 2"
    )


def test_an_error_in_the_middle_of_a_step_leaves_the_last_whole_epoch(interrupted, uninterrupted, monkeypatch):
    """A second Ctrl-C may come while weights are being changed: such a state is never saved."""
    before = load_state(interrupted / "unet.run")
    with monkeypatch.context() as patched:
        steps = iter(range(3))
        update = loop.AveragedWeights.update

        def broken(self):
            if next(steps, None) is None:
                raise SystemExit("killed")
            update(self)

        patched.setattr(loop.AveragedWeights, "update", broken)
        with pytest.raises(SystemExit):
            run(["train", "--resume", "-q"])
    after = load_state(interrupted / "unet.run")
    assert after.position == before.position
    assert run(["train", "--resume", "-q"]) == 0
    assert load_model(interrupted / "unet.safetensors")[2] == uninterrupted[0]
