"""What is seen of a training: a line per epoch in a log, a live line besides on a terminal."""

import contextlib
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from training.test_runfolder import record_of

from unetcli.cli.console import Console
from unetcli.cli.following import Speed, TimeLeft, follow
from unetcli.training.records import StepRecord
from unetcli.training.train import Trained

PLAN = SimpleNamespace(batch_size=3, epochs=2)
LINE = re.compile(
    r"epoch (\d)/2  \d+ s  (?:(\d+) s left  )?loss 0\.3333  validation loss 0\.5000  "
    r"Dice (\d\.\d{4})(.*?)  7\.0 patches/s"
)


def step_of(number, *, steps=4, epochs=2, pace=10.0, start=100.0):
    """The step `number`, counted through all epochs, of a training that takes `pace` seconds for each."""
    epoch, step = divmod(number - 1, steps)
    return StepRecord(epoch + 1, step + 1, steps, 0.5, number / (steps * epochs), start + pace * number)


def events():
    """Two epochs of four steps, of which the first is the better one."""
    for epoch in (1, 2):
        for step in range(1, 5):
            yield step_of(4 * (epoch - 1) + step)
        yield record_of(epoch, best=epoch == 1)
    yield Trained(Path("m"), Path("m.run"), "", record_of(1, best=True), (), False)


def test_a_log_has_one_plain_line_per_epoch(capsys):
    follow(Console("train"), events(), PLAN)
    text = capsys.readouterr().err
    assert "\r" not in text
    assert "\x1b" not in text
    first, second = (LINE.fullmatch(line).groups() for line in text.splitlines())
    assert first == ("1", "40", "0.2500", " *")
    assert second == ("2", None, "0.5000", " (best 0.2500, epoch 1)")


def test_the_best_of_a_training_that_is_continued_is_known(capsys):
    follow(Console("train"), [*list(events())[5:]], PLAN, record_of(1, best=True, dice=0.75))
    assert " (best 0.7500, epoch 1)" in capsys.readouterr().err


def test_quiet_says_nothing(capsys):
    follow(Console("train", quiet=True), events(), PLAN)
    assert capsys.readouterr().err == ""


def read_to_end(reader):
    """Return what arrives at a terminal until nobody writes to it any more."""
    parts = []
    with contextlib.suppress(OSError):  # how its end is told
        while part := os.read(reader, 4096):
            parts.append(part)
    os.close(reader)
    return b"".join(parts).decode()


@pytest.mark.parametrize("columns", [50, 200])
def test_a_terminal_has_a_live_line(columns, monkeypatch):
    pty = pytest.importorskip("pty")
    for name, value in (("COLUMNS", str(columns)), ("TERM", "xterm")):
        monkeypatch.setenv(name, value)
    reader, writer = pty.openpty()
    with ThreadPoolExecutor(1) as threads, os.fdopen(writer, "w") as terminal:
        written = threads.submit(read_to_end, reader)
        monkeypatch.setattr(sys, "stderr", terminal)
        follow(Console("train"), events(), PLAN)
    text = written.result()
    assert "\x1b[" in text
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", plain) if line.strip()]
    drawn = [line for line in lines if line.startswith("━")]
    assert max(map(len, drawn)) <= columns  # a longer one would wrap and leave its rest behind
    assert any(line.startswith("epoch 2/2") and line.endswith("patches/s") for line in lines)  # a line stays one
    live = next(line for line in lines if "epoch 2/2  loss 0.500" in line)
    assert "100%" in live
    if columns > 100:
        assert "best Dice 0.250  0.3 patches/s  step 4/4" in live
    assert any("epoch 2/2" in line and "validation" in line for line in lines)


def test_time_left_follows_the_pace_since_the_first_look():
    left = TimeLeft()
    left.see(step_of(3))
    assert left.text == ""
    left.see(step_of(5))
    assert left.seconds == pytest.approx(30)
    assert left.text == "30 s left  "
    left.see(step_of(8))
    assert left.text == ""


def test_speed_is_of_the_present_epoch():
    speed = Speed(batch_size=3)
    assert speed.after(step_of(1)) == 0
    assert speed.after(step_of(3)) == pytest.approx(0.3)
    assert speed.after(step_of(5)) == 0
    assert speed.after(step_of(6, pace=10)) == pytest.approx(0.3)
