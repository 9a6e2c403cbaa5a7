"""What inference and evaluation leave behind when they are killed at any moment (FAULTS, B4)."""

import json
import random
import shutil
import signal
import time
from contextlib import suppress

import numpy as np
import pytest
import tifffile
from faults.conftest import discs
from faults.harness import OLD
from faults.test_resources import text

SLOW = 0.02  # seconds before every write of rows and every flush to the disk, so that kills hit these moments
COMMANDS = {
    "infer": (
        ["infer", "a.tif", "-o", "m.tif", "-m", "{gray}", "--tile", "92", "--threads", "1", "--overlay", "o.png",
         "--objects", "t.csv", "--probabilities", "p.tif", "--json", "r.json"],
        ["m.tif", "o.png", "t.csv", "p.tif"],
    ),
    "evaluate": (
        ["evaluate", "predicted", "{home}/cells/masks", "--csv", "t.csv", "--overlays", "pictures",
         "--report", "r.html", "--json", "r.json", "--workers", "1"],
        ["t.csv", *(f"pictures/c{number}.png" for number in range(4))],
    ),
}  # fmt: skip


class Killed:
    """A command whose complete outputs are known, to be killed in one folder again and again."""

    def __init__(self, command, place, zygote, models, home) -> None:
        arguments, self.repeatable = COMMANDS[command]
        self.arguments = [argument.format(**models, home=home) for argument in arguments]
        self.place, self.zygote = place, zygote
        tifffile.imwrite(place / "a.tif", np.tile(discs(0)[0], (3, 2)))
        shutil.copytree(home / "cells/masks", place / "predicted")
        self.inputs = {path: path.read_bytes() for path in [*place.rglob("*.tif"), *home.rglob("*.tif")]}
        given = self.files() | {"err", "out"}
        began = time.monotonic()
        assert self.start().wait(60) == 0, text(place)
        self.seconds = time.monotonic() - began
        self.complete = {name: (place / name).read_bytes() for name in self.repeatable}
        self.names = self.files() - given

    def start(self):
        return self.zygote.start(self.arguments, self.place, slow=SLOW)

    def files(self):
        return {str(path.relative_to(self.place)) for path in self.place.rglob("*") if path.is_file()}

    def left(self):
        """Files that are neither inputs nor outputs."""
        return {name for name in self.files() - self.names - {"err", "out"} if self.place / name not in self.inputs}

    def kill(self, draws: random.Random) -> int:
        """Kill it once and check what is left: every output old, complete or absent; return the exit code."""
        before, of_kills_before = {}, self.left()
        for name in self.names:
            (self.place / name).unlink(missing_ok=True)
            if draws.random() < 0.5 and not name.endswith(".json"):  # which replaces nothing but a document
                (self.place / name).write_bytes(OLD)
                before[name] = OLD
        number = draws.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        running = self.start()
        time.sleep(draws.uniform(0, self.seconds))
        with suppress(ProcessLookupError):
            running.signal(number)
        code = running.wait(30)
        assert code in (0, 128 + number), text(self.place)
        assert not running.has_children
        for name in self.names:
            path = self.place / name
            if not path.exists():
                assert name not in before, f"the old {name} is gone"
            elif path.read_bytes() != before.get(name):
                self.check_complete(name)
        left = self.left() - of_kills_before
        assert not left or number == signal.SIGKILL, f"left: {left}"
        assert all(".tmp" in name for name in left), f"left: {left}"
        assert {path: path.read_bytes() for path in self.inputs} == self.inputs
        return code

    def check_complete(self, name: str) -> None:
        content = (self.place / name).read_bytes()
        if name in self.complete:
            assert content == self.complete[name], f"{name} is neither old nor complete"
        elif name.endswith(".json"):
            assert json.loads(content)["schema"] == 1
        else:
            assert content.rstrip().endswith(b"</html>")

    def finish(self) -> None:
        """The next start removes what kills left, and ends well."""
        assert self.start().wait(60) == 0, text(self.place)
        assert not self.left()
        for name in self.names:
            self.check_complete(name)
        assert "Traceback" not in text(self.place)


def kill_often(command, place, zygote, models, home, seed, times):
    killed = Killed(command, place, zygote, models, home)
    draws = random.Random(seed)
    codes = [killed.kill(draws) for _ in range(times)]
    assert any(codes), "every kill came too late"
    killed.finish()


@pytest.mark.parametrize("command", COMMANDS)
def test_killed_at_any_moment(command, place, zygote, models, home):
    kill_often(command, place, zygote, models, home, 0, 5)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize("command", COMMANDS)
def test_killed_at_fifty_moments(command, seed, place, zygote, models, home):
    kill_often(command, place, zygote, models, home, seed, 10)
