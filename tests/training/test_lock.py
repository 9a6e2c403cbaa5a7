"""One training at a time owns a run folder, whatever became of those before."""

import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from unetcli.errors import OutputError
from unetcli.training.runfolder import RunFolder


@pytest.fixture
def dead():
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def owned_by(folder, pid, host=None):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "owner.json").write_text(json.dumps({"pid": pid, "host": host or socket.gethostname(), "since": "now"}))


def test_a_lock_is_there_while_it_is_held_and_gone_afterwards(tmp_path):
    folder = RunFolder(tmp_path / "a.run")
    with folder.lock():
        assert json.loads((tmp_path / "a.run/lock/owner.json").read_text())["host"] == socket.gethostname()
        with pytest.raises(OutputError, match="is in use by pid"), RunFolder(tmp_path / "a.run").lock():
            pass
        assert (tmp_path / "a.run/lock/owner.json").exists()
    assert list((tmp_path / "a.run").iterdir()) == []


@pytest.mark.parametrize("left", ["an owner that is dead", "nothing in it", "half made"])
def test_what_a_killed_process_left_is_taken_over(tmp_path, dead, left):
    if left == "an owner that is dead":
        owned_by(tmp_path / "lock", dead)
    elif left == "nothing in it":
        (tmp_path / "lock").mkdir()
    else:
        owned_by(tmp_path / f".lock.tmp-{socket.gethostname()}-{dead}", dead)
    with RunFolder(tmp_path).lock():
        assert {path.name for path in tmp_path.iterdir()} == {"lock"}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the system does not tell when a process began")
def test_a_number_that_passed_to_another_process_is_no_owner(tmp_path):
    """As in a container that was started again, where the same command gets the same number."""
    owned_by(tmp_path / "lock", os.getpid())
    owner = json.loads((tmp_path / "lock/owner.json").read_text())
    with pytest.raises(OutputError, match="is in use by pid"), RunFolder(tmp_path).lock():
        pass
    (tmp_path / "lock/owner.json").write_text(json.dumps({**owner, "began": "1"}))
    with RunFolder(tmp_path).lock():
        pass
    assert list(tmp_path.iterdir()) == []


def test_another_machine_is_asked_for(tmp_path, dead):
    owned_by(tmp_path / "lock", dead, host="another-machine")
    with pytest.raises(OutputError, match="on host another-machine since now"), RunFolder(tmp_path).lock():
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"lock"}


def test_one_of_many_gets_it(tmp_path, dead):
    """Processes that all find the same stale lock."""
    owned_by(tmp_path / "lock", dead)
    script = (
        "import sys, time; from pathlib import Path; from unetcli.training.runfolder import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])).lock(): print('mine', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]

    def outcome(process):
        said = process.stdout.readline()
        if said:
            return "mine"
        return "in use" if "is in use by pid" in process.stderr.read() else "failed"

    with ThreadPoolExecutor(4) as pool:
        outcomes = sorted(pool.map(outcome, processes))
    for process in processes:
        process.communicate("")
    assert outcomes == ["in use"] * 3 + ["mine"]
    assert list(tmp_path.iterdir()) == []
