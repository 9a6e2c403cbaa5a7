"""The processes of a cluster give the result of a single one, also when one of them dies, or all stop midway."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
import torch
from handmade import CODINGS, describe

from unetcli.cli import run
from unetcli.errors import ResourceError
from unetcli.images import open_image
from unetcli.images.atomic_folder import KEY
from unetcli.inference import cluster, work
from unetcli.models import build_network
from unetcli.models.modelfile import save_model

pytest.importorskip("distributed")
pytest.importorskip("zarr")

PAGES, HEIGHT, WIDTH, TILE = 3, 500, 300, 84
ROWS = PAGES * -(-HEIGHT // 44)  # a tile of 84 pixels writes 44


def save(path, task, seed):
    torch.manual_seed(seed)
    arguments = {"features": 4, "depth": 2}
    network = build_network("unet", channels=1, classes=2, **arguments)
    save_model(path, network, describe(arguments, coding=CODINGS["mask" if task == "semantic" else "instances"]))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a scan, a model for masks, one for instances, and what a single process makes of them."""
    folder = tmp_path_factory.mktemp("cluster")
    noise = np.random.default_rng(0).integers(500, 5000, (PAGES, HEIGHT // 4, WIDTH // 4)).astype(np.uint16)
    scan = np.kron(noise, np.ones((1, 4, 4), np.uint16))
    tifffile.imwrite(folder / "a.tif", scan, metadata={"axes": "ZYX"}, photometric="minisblack", tile=(64, 64))
    save(folder / "semantic.safetensors", "semantic", 3)
    save(folder / "instances.safetensors", "instances", 3)
    before = Path.cwd(), torch.get_num_threads()
    os.chdir(folder)
    assert infer("semantic", "one.tif", "--probabilities", "one_p.tif", "--objects", "one.csv") == 0
    assert infer("instances", "one_i.tif") == 0
    mask = tifffile.imread("one.tif")
    assert 0.01 < (mask > 0).mean() < 0.99
    yield folder
    os.chdir(before[0])
    torch.set_num_threads(before[1])


@pytest.fixture(scope="module")
def scheduler(place):
    """The address of a real scheduler with two workers, and the workers."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    common = ["--scheduler-file", "scheduler.json", "--host", "127.0.0.1"]
    commands = [
        ["dask_scheduler", *common, "--port", "0", "--no-dashboard"],
        *[["dask_worker", *common, "--no-nanny", "--nthreads", "1", "--no-dashboard", "--memory-limit", "0"]] * 2,
    ]
    running = [
        subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.{name}", *arguments],
            cwd=place,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for name, *arguments in commands
    ]
    file = place / "scheduler.json"
    while not file.exists() or not file.read_text():
        assert running[0].poll() is None
        time.sleep(0.02)
    try:
        yield json.loads(file.read_text())["address"], running[1:]
    finally:
        for process in running:
            process.kill()
            process.wait()


def infer(model, output, *more):
    """Segment the scan with one thread, which fixes the last digit of probabilities."""
    arguments = ["infer", "a.tif", "-o", output, "-m", f"{model}.safetensors", "--tile", str(TILE), "--threads", "1"]
    return run([*arguments, "-q", *more])


def same(first, second):
    """Whether two files have the same pixels."""
    with open_image(first) as one, open_image(second) as other:
        return one.info.pages == other.info.pages and all(
            np.array_equal(page[:], twin[:]) for page, twin in zip(one.pages(), other.pages(), strict=True)
        )


@pytest.fixture
def counted(monkeypatch):
    """Count the rows of tiles that are predicted, and those that are taken from what was done before."""
    counts = {"predicted": 0, "taken": 0}

    def counting(name, call):
        def counted(*arguments):
            counts[name] += 1
            return call(*arguments)

        return counted

    monkeypatch.setattr(cluster.Spread, "_result", counting("predicted", cluster.Spread._result))
    monkeypatch.setattr(cluster, "read_record", counting("taken", work.read_record))
    return counts


def test_tiff_and_all_extras(place, scheduler):
    more = ("--probabilities", "two_p.tif", "--objects", "two.csv", "--cluster", scheduler[0])
    assert infer("semantic", "two.tif", *more) == 0
    assert same("one.tif", "two.tif")
    assert same("one_p.tif", "two_p.tif")
    assert Path("one.csv").read_text() == Path("two.csv").read_text()


@pytest.mark.parametrize("kind", ["mask", "probabilities", "instances"])
def test_stores(place, scheduler, kind, counted):
    """Workers write the chunks of masks and probabilities themselves; ids are known only at the end."""
    single, model = {"probabilities": ("one_p", "semantic"), "instances": ("one_i", "instances")}.get(
        kind, ("one", "semantic")
    )
    more = () if kind == "instances" else ("--output-kind", kind, "--ngff", "0.5")
    assert infer(model, f"{kind}.zarr", *more, "--cluster", scheduler[0]) == 0
    assert same(f"{single}.tif", f"{kind}.zarr")
    assert counted == {"predicted": ROWS, "taken": 0}
    assert not Path(f"{kind}.zarr.part").exists()
    assert not Path(f"{kind}.zarr", KEY).exists()


@pytest.mark.parametrize("output", ["objects.tif", "objects.zarr"])
def test_masks_of_objects(place, scheduler, output, monkeypatch, counted):
    """Objects are known when their page is done, so this process writes; a restart goes on all the same."""
    options = ("--min-size", "30", "--fill-holes", "--objects", "objects.csv")
    assert infer("semantic", "single.tif", *options) == 0
    assert not same("one.tif", "single.tif")
    if output.endswith(".zarr"):
        with monkeypatch.context() as patched:
            fail_after(patched, ROWS - 2)
            assert infer("semantic", output, *options, "--cluster", scheduler[0]) == 6
        counted.update(predicted=0, taken=0)
    assert infer("semantic", output, *options, "--cluster", scheduler[0]) == 0
    assert counted["predicted"] + counted["taken"] == ROWS
    assert (counted["taken"] > 0) == output.endswith(".zarr")
    assert same("single.tif", output)


def test_chunks_belong_to_one_task(place, scheduler):
    import zarr

    assert infer("semantic", "large.zarr", "--tile", "1200", "--cluster", scheduler[0]) == 0
    assert zarr.open_array("large.zarr/0", mode="r").chunks == (1, 500, 300)
    assert cluster.whole_chunks(1808) == 452
    assert cluster.whole_chunks(384) == 384
    assert all(core % cluster.whole_chunks(core) == 0 for core in range(2, 4000, 2))


def test_a_file_system_that_does_not_answer_is_not_waited_for():
    """What a task raises comes out of the waiting for it."""
    failed = SimpleNamespace(
        status="error", result=lambda timeout: (_ for _ in ()).throw(TimeoutError(110, "timed out"))
    )
    spread = SimpleNamespace(
        _cluster=SimpleNamespace(address="here", client=SimpleNamespace(nthreads=lambda: {"w": 1}))
    )
    with pytest.raises(ResourceError, match=r"rows 0-9: .*did not answer \(.*timed out"):
        cluster.Spread._result(spread, failed, SimpleNamespace(top=0, height=10))


def fail_after(monkeypatch, count):
    """Let a run fail when some rows are done."""
    left = [count]
    result = cluster.Spread._result

    def failing(self, future, part):
        if not left[0]:
            raise ResourceError("the lights went out")
        left[0] -= 1
        return result(self, future, part)

    monkeypatch.setattr(cluster.Spread, "_result", failing)


@pytest.mark.parametrize(("model", "single"), [("semantic", "one"), ("instances", "one_i")])
def test_restart(place, scheduler, model, single, monkeypatch, counted):
    """What was done is not done again; the old store stays until the new one is complete."""
    target = f"again_{model}.zarr"
    assert infer(model, target) == 0
    (Path(target) / "old").touch()
    with monkeypatch.context() as patched:
        fail_after(patched, 7)
        assert infer(model, target, "--cluster", scheduler[0]) == 6
    assert (Path(target) / "old").exists()
    done = len(list(Path(f"{target}.part", KEY).glob("*.npz")))
    assert 7 <= done < ROWS
    counted.update(predicted=0, taken=0)
    assert infer(model, target, "--cluster", scheduler[0]) == 0
    assert counted["taken"] >= done  # more may have ended after the failure
    assert counted["predicted"] == ROWS - counted["taken"]
    assert same(f"{single}.tif", target)
    assert not (Path(target) / "old").exists()
    assert not Path(f"{target}.part").exists()


@pytest.mark.parametrize("change", ["options", "model", "image"])
def test_another_work_starts_anew(place, scheduler, change, monkeypatch, counted):
    with monkeypatch.context() as patched:
        fail_after(patched, 3)
        assert infer("semantic", "new.zarr", "--cluster", scheduler[0]) == 6
    assert Path("new.zarr.part").exists()
    counted.update(predicted=0, taken=0)
    model, more = "semantic", ()
    if change == "options":
        more = ("--threshold", "0.4")
    elif change == "model":
        save(place / "other.safetensors", "semantic", 4)
        model = "other"
    else:
        os.utime("a.tif")
    assert infer(model, "new.zarr", *more, "--cluster", scheduler[0]) == 0
    assert counted == {"predicted": ROWS, "taken": 0}
    assert infer(model, "single.tif", *more) == 0
    assert same("single.tif", "new.zarr")


def test_another_model_under_the_name(place, scheduler, monkeypatch, capsys):
    """What a worker raises is shown as if this process had."""
    monkeypatch.setattr(
        cluster, "Work", lambda **given: work.Work(**given | {"models": ((place / "semantic.safetensors", "0" * 64),)})
    )
    assert infer("semantic", "none.tif", "--cluster", scheduler[0]) == 4
    assert "semantic.safetensors: is another model than" in capsys.readouterr().err
    assert not Path("none.tif").exists()


def test_no_scheduler(place, monkeypatch, capsys):
    monkeypatch.setattr(cluster, "CONNECT", 0.5)
    assert infer("semantic", "none.zarr", "--cluster", "127.0.0.1:9") == 6
    assert "no scheduler with workers at 127.0.0.1:9" in capsys.readouterr().err
    assert infer("semantic", "none.zarr", "--cluster", "carrier-pigeon://loft") == 2
    assert not list(place.glob("none*"))


def test_what_cannot_be_spread(place, monkeypatch, capsys):
    assert run(["infer", "-", "-o", "none.tif", "-m", "semantic.safetensors", "--cluster", "local"]) == 2
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert infer("semantic", "none.zarr", "--cluster", "local") == 2
    assert "pip install 'unetcli[cluster]'" in capsys.readouterr().err


def test_a_worker_dies(place, scheduler, counted):
    """Its rows are predicted by the other one; the result is the same."""
    address, workers = scheduler
    killed_at = []

    def kill():
        records = Path("killed.zarr.part", KEY)
        while len(list(records.glob("*.npz"))) < 4:
            time.sleep(0.001)
        killed_at.append(len(list(records.glob("*.npz"))))
        workers[0].send_signal(signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    assert infer("semantic", "killed.zarr", "--objects", "killed.csv", "--cluster", address) == 0
    killer.join()
    assert workers[0].wait() == -signal.SIGKILL
    assert 4 <= killed_at[0] < ROWS
    assert same("one.tif", "killed.zarr")
    assert Path("one.csv").read_text() == Path("killed.csv").read_text()
    assert infer("semantic", "survivor.tif", "--cluster", address) == 0
    assert same("one.tif", "survivor.tif")


def test_processes_where_no_cores_are_assigned(monkeypatch):
    """As on macOS and Windows, which have no `sched_getaffinity`."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert cluster._local_processes(None, None) == (2, 1)


@pytest.mark.parametrize(
    ("workers", "threads", "cards", "expected"),
    [(None, 16, 0, (4, 4)), (None, 16, 3, (3, 5)), (0, 16, 3, (3, 5)), (2, 16, 3, (2, 8)), (5, 2, 0, (5, 1))],
)
def test_processes_that_were_asked_for(monkeypatch, workers, threads, cards, expected):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
    assert cluster._local_processes(workers, threads) == expected


@pytest.mark.slow
def test_processes_of_this_machine(place):
    assert infer("semantic", "local.zarr", "--objects", "local.csv", "--cluster", "local") == 0
    assert same("one.tif", "local.zarr")
    assert Path("one.csv").read_text() == Path("local.csv").read_text()
