"""Pipes, terminals and odd environments (FAULTS, B6)."""

import io
import json
import os
import pty
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from faults.conftest import discs
from faults.harness import FAST, OLD, Case, Watch, check_form, perform

from unetcli.cli import run
from unetcli.images import memory

ROOT = Path(__file__).parents[2]
IMAGE = discs(0)[0]


def infer(model, *more, name="a.tif", to="m.tif"):
    return ["infer", name, "-o", to, "-m", model, *more]


@pytest.fixture
def scan(place):
    """A folder with one image, the working folder."""
    tifffile.imwrite(place / "a.tif", IMAGE)
    return place


@pytest.fixture
def expected(scan, models):
    """The mask of that image, which then is removed."""
    assert run(infer(models["gray"], "-q")) == 0
    mask = tifffile.imread("m.tif")
    Path("m.tif").unlink()
    return mask


@pytest.fixture
def scored(home, place):
    """A folder with predictions and their truth, the working folder."""
    for name in ("predicted", "truth"):
        shutil.copytree(home / "cells/masks", place / name)
    return place


def real(arguments, place, **options):
    """Run the program as a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **options.pop("environment", {})}
    return subprocess.run(
        [sys.executable, "-m", "unetcli", *arguments], cwd=place, env=environment, timeout=60, check=False, **options
    )


def text(place, name="err"):
    return (place / name).read_text(encoding="utf-8")


def test_reader_of_stdout_leaves(scored, zygote):
    """PIP01: 141, silently."""
    os.mkfifo("pipe")
    reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
    running = zygote.start(["evaluate", "predicted", "truth", "-q"], scored, streams=(os.devnull, "pipe", "err"))
    while not Path("err").exists():  # stderr is opened after stdout
        time.sleep(0.001)
    os.close(reader)
    assert running.wait() == 141, text(scored)
    assert text(scored) == ""


def test_pipe_through(scan, models, zygote, expected):
    """PIP02: stdout has the bytes of a TIFF and nothing else, even with all messages on."""
    running = zygote.start(infer(models["gray"], "-v", name="-", to="-"), scan, streams=("a.tif", "out", "err"))
    assert running.wait() == 0, text(scan)
    np.testing.assert_array_equal(tifffile.imread(io.BytesIO((scan / "out").read_bytes())), expected)
    assert (scan / "out").read_bytes()[:2] in (b"II", b"MM")
    assert "device: cpu" in text(scan)


def test_a_stream_without_end_is_read_as_far_as_the_memory_goes(scan, models, capsys, monkeypatch):
    """PIP02."""

    class Endless(io.RawIOBase):
        def read(self, count=-1):
            assert 0 < count <= 1 << 20
            return bytes(count)

    monkeypatch.setattr(memory, "usable_memory", lambda: 200 << 20)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=Endless(), isatty=lambda: False))
    assert run(["infer", "-", "-o", "m.tif", "-m", models["gray"]]) == 6
    assert "error: stdin: " in (said := capsys.readouterr().err)
    assert "read from the stream so far" in said


def test_damaged_stdin(scan, models, zygote):
    (scan / "b.tif").write_bytes((scan / "a.tif").read_bytes()[:999])
    running = zygote.start(infer(models["gray"], name="-", to="-"), scan, streams=("b.tif", "out", "err"))
    assert running.wait() == 3
    assert "error: stdin: is truncated" in text(scan)
    assert (scan / "out").read_bytes() == b""


@pytest.mark.parametrize(("row", "arguments", "terminal", "words"), [
    ("PIP03", {"to": "-"}, 1, "refusing to write binary data to a terminal"),
    ("PIP04", {"name": "-"}, 0, "which is a terminal"),
])  # fmt: skip
def test_terminals(row, arguments, terminal, words, scan, models, zygote):
    """PIP03, PIP04: no binary to a terminal, none from one, and no hang."""
    ours, theirs = pty.openpty()
    streams = [os.devnull, "out", "err"]
    streams[terminal] = os.ttyname(theirs)
    running = zygote.start(infer(models["gray"], **arguments), scan, streams=streams)
    assert running.wait(10) == 2
    assert words in text(scan)
    check_form(2, text(scan))
    os.close(theirs)
    os.close(ours)
    assert not (scan / "m.tif").exists()


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)], ids=str)
def test_closed_streams(closed, scan, models, zygote, expected):
    """PIP05: the file is written all the same."""
    streams = [None if number in closed else name for number, name in enumerate((os.devnull, "out", "err"))]
    running = zygote.start(infer(models["gray"]), scan, streams=streams)
    assert running.wait() == 0
    np.testing.assert_array_equal(tifffile.imread(scan / "m.tif"), expected)
    assert not running.has_children


def test_closed_streams_from_the_start(scan, models, expected):
    """PIP05, as the shell closes them: before Python begins."""
    command = f'"{sys.executable}" -m unetcli infer a.tif -o m.tif -m "{models["gray"]}" <&- >&- 2>&-'
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run(["sh", "-c", command], cwd=scan, env=environment, timeout=60, check=False).returncode == 0
    np.testing.assert_array_equal(tifffile.imread(scan / "m.tif"), expected)


@pytest.mark.parametrize("arguments", [{"to": "-"}, {"name": "-"}], ids=["stdout", "stdin"])
def test_a_closed_stream_that_is_needed(arguments, scan, models, zygote):
    """PIP05: an image for a closed stdout is an error, and so is one from a closed stdin."""
    streams = (None, "out", "err") if "name" in arguments else (os.devnull, None, "err")
    running = zygote.start(infer(models["gray"], **arguments), scan, streams=streams)
    assert running.wait() == (2 if "name" in arguments else 5), text(scan)
    check_form(5, text(scan))


@pytest.mark.parametrize("what", ["image", "json", "table"])
def test_full_stdout(what, scored, scan, models, zygote):
    """PIP06: never 0 when a result is lost."""
    arguments = {
        "image": infer(models["gray"], to="-"),
        "json": infer(models["gray"], "--json", "-"),
        "table": ["evaluate", "predicted", "truth"],
    }[what]
    running = zygote.start(arguments, scan, streams=(os.devnull, "/dev/full", "err"))
    assert running.wait() == 5, text(scan)
    assert re.search("(?i)error: .*(no space|disk full)", text(scan))
    check_form(5, text(scan))


def test_a_log_is_plain_lines(home, scan, zygote):
    """PIP07: a line per epoch, nothing that moves or has colors."""
    arguments = ["train", home / "cells", "-o", "new.safetensors", *FAST, "--epochs", "2"]
    running = zygote.start(arguments, scan, environment={"FORCE_COLOR": "0", "TERM": "xterm"})
    assert running.wait() == 0, text(scan)
    assert "\r" not in text(scan)
    assert "\x1b" not in text(scan)
    assert len(re.findall(r"(?m)^epoch \d/2 ", text(scan))) == 2
    assert (scan / "out").read_bytes() == b""


def on_terminal(zygote, arguments, place, environment):
    """Run with stderr on a terminal and return what it shows."""
    ours, theirs = pty.openpty()
    running = zygote.start(arguments, place, streams=(os.devnull, "out", os.ttyname(theirs)), environment=environment)
    os.set_blocking(ours, False)
    shown = b""
    deadline = time.monotonic() + 120
    code = None
    while code is None and time.monotonic() < deadline:
        code = zygote.ask({"poll": running.pid})["code"]
        try:
            while part := os.read(ours, 65536):
                shown += part
        except BlockingIOError:
            time.sleep(0.01)
    os.close(theirs)
    os.close(ours)
    assert code is not None
    return code, shown.decode()


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1", "TERM": "xterm"}, {"TERM": "dumb"}, {"FORCE_COLOR": "1"}],
                         ids=str)  # fmt: skip
def test_colors(environment, scan, models, zygote):
    """PIP08: a terminal without colors gets none; the bar of one that can move is gone at the end."""
    code, shown = on_terminal(zygote, infer(models["gray"]), scan, environment)
    assert code == 0, shown
    assert "a.tif -> m.tif" in shown
    if "FORCE_COLOR" not in environment:
        assert not re.search(r"\x1b\[[\d;]*[34]\dm", shown)
    if environment.get("TERM") == "dumb":
        assert "\x1b" not in shown


@pytest.mark.parametrize("columns", ["10", "0", "abc", "99999999"])
def test_widths(columns, scan, models, zygote):
    """PIP09: a message is one line, whatever the terminal's width."""
    name = "a-name-that-is-longer-than-ten-columns.tif"
    (scan / name).write_bytes(b"")
    environment = {"COLUMNS": columns, "LINES": columns, "TERM": "xterm"}
    code, shown = on_terminal(zygote, infer(models["gray"], name=name), scan, environment)
    assert code == 3, shown
    plain = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]|\r", "", shown)
    assert any(line.endswith(f"error: {name}: is empty (0 bytes)") for line in plain.split("\n"))


ODD = "\u0436\u2013\u00e9.tif"


@pytest.fixture
def odd_names(place):
    tifffile.imwrite(place / ODD, IMAGE)
    (place / "bad\u2013.tif").write_bytes(b"")
    return place


def check_odd(place, code, error):
    assert code == 7, error
    assert b"error: bad" in error
    assert b"codec" not in error
    assert [path.name for path in (place / "out").iterdir()] == [ODD]


def test_ascii_only(odd_names, models):
    """PIP10: what cannot be shown is replaced."""
    environment = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "POSIX"}
    names = [ODD, "bad\u2013.tif"]
    ran = real(["infer", *names, "-o", "out", "-m", models["gray"]], odd_names, environment=environment,
               capture_output=True)  # fmt: skip
    check_odd(odd_names, ran.returncode, ran.stderr)


def test_latin_1(odd_names, models, zygote):
    """PIP10, with streams of another encoding."""
    names = [ODD, "bad\u2013.tif"]
    running = zygote.start(["infer", *names, "-o", "out", "-m", models["gray"]], odd_names, encoding="latin-1",
                           streams=(os.devnull, "stdout", "err"))  # fmt: skip
    check_odd(odd_names, running.wait(), (odd_names / "err").read_bytes())


def test_a_lost_working_folder(scan, models, zygote):
    """PIP11: the reason is said; absolute paths do not help, as the libraries of torch ask for the folder."""
    for arguments in (
        infer(models["gray"], name=scan / "a.tif", to=scan / "m.tif"),
        infer(models["gray"], name="a.tif", to="m3.tif"),
    ):
        (scan / "gone").mkdir()
        (scan / "err").unlink(missing_ok=True)
        running = zygote.start(arguments, scan / "gone", streams=(os.devnull, "../out", "../err"),
                               environment={"PWD": "/nowhere"}, remove=True)  # fmt: skip
        assert running.wait() == 2, text(scan)
        check_form(2, text(scan))
        assert "error: the current folder was removed" in text(scan)


def test_a_bad_one_among_good_ones(scan, models, capsys):
    """PIP12."""
    for name in "bcd":
        shutil.copy("a.tif", f"{name}.tif")
    Path("c.tif").write_bytes(Path("a.tif").read_bytes()[:2000])
    watch = Watch(scan)
    assert run(infer(models["gray"], name="*.tif", to="out/")) == 7
    error = capsys.readouterr().err
    watch.check(7, error, ["out"])
    assert re.search(r"error: c\.tif: is truncated", error)
    assert "error: 3 of 4 images done; failed: c.tif" in error
    assert sorted(path.name for path in Path("out").iterdir()) == ["a.tif", "b.tif", "d.tif"]


def test_only_bad_ones(scan, models, capsys):
    """The first failure's code."""
    for name in "ab":
        Path(f"{name}.tif").write_bytes(b"")
    assert run(infer(models["gray"], name="*.tif", to="out/")) == 3
    assert len(re.findall("(?m)^error: ", capsys.readouterr().err)) == 2


NO_INPUT = [
    Case("PIP13", lambda place: None, ["infer", "*.tiff", "-o", "m.tif", "-m", "{gray}"], 2,
         [r"error: no file matches \*\.tiff"]),
    Case("PIP14-input", lambda place: None, ["infer", "a.tif", "-o", "a.tif", "-m", "{gray}"], 2,
         ["would replace this input"], outputs=()),
    Case("PIP14-link", lambda place: (place / "b.tif").symlink_to("a.tif"),
         ["infer", "a.tif", "-o", "b.tif", "-m", "{gray}"], 2, ["would replace this input"], outputs=()),
    Case("PIP14-model", lambda place: None, ["infer", "a.tif", "-o", "{gray}", "-m", "{gray}"], 2, ["error: "],
         outputs=()),
    Case("PIP15-jpeg", lambda place: None, ["infer", "a.tif", "-o", "m.jpg", "-m", "{gray}"], 2,
         [r"m\.jpg: JPEG would damage labels", r"hint: .*\.tif"], outputs=()),
    Case("PIP15-unknown", lambda place: None, ["infer", "a.tif", "-o", "m.xyz", "-m", "{gray}"], 2,
         ["unknown extension"], outputs=()),
    Case("PIP16", lambda place: None, ["infer", "a.tif", "-o", "new/folder/m.tif", "-m", "{gray}"], 0,
         check=lambda place: tifffile.imread(place / "new/folder/m.tif"), outputs=("new",)),
    Case("PIP16-file", lambda place: (place / "new").write_bytes(b""),
         ["infer", "a.tif", "-o", "new/m.tif", "-m", "{gray}"], 5, ["error: new: .*"], outputs=()),
]  # fmt: skip


@pytest.mark.parametrize("case", NO_INPUT, ids=lambda case: case.id)
def test_outputs(case, scan, models, capsys):
    perform(case, scan, models, capsys)


def test_existing_outputs(home, scored, scan, models):
    """PIP14: infer and evaluate replace, train refuses, --skip-existing leaves."""
    (scan / "m.tif").write_bytes(OLD)
    assert run(infer(models["gray"], "--skip-existing", "-q")) == 0
    assert (scan / "m.tif").read_bytes() == OLD
    assert run(infer(models["gray"], "-q")) == 0
    assert tifffile.imread("m.tif").shape == IMAGE.shape
    (scan / "s.csv").write_bytes(OLD)
    assert run(["evaluate", "predicted", "truth", "--csv", "s.csv", "-q"]) == 0
    assert (scan / "s.csv").read_bytes() != OLD
    (scan / "new.safetensors").write_bytes(OLD)
    began = time.monotonic()
    assert run(["train", str(home / "cells"), "-o", "new.safetensors", *FAST]) == 5
    assert time.monotonic() - began < 5
    assert (scan / "new.safetensors").read_bytes() == OLD
    assert not (scan / "new.run").exists()


def test_no_network(home, scored, scan):
    """PIP17: not a single connection is tried, and nothing waits for one."""
    code = """
import sys
def refuse(event, arguments):
    if event.startswith("socket.") and event not in ("socket.__new__", "socket.gethostname"):
        print("NETWORK", event, arguments)
sys.addaudithook(refuse)
from unetcli.cli import run
codes = [run(command.split("|")) for command in sys.argv[1:]]
sys.exit(max(codes))
"""
    commands = [["train", home / "cells", "-o", "new.safetensors", *FAST[:-1], "-q"],
                infer("new.safetensors", "-q"), ["evaluate", "predicted", "truth", "-q", "--csv", "s.csv"]]  # fmt: skip
    joined = ["|".join(map(str, command)) for command in commands]
    environment = {key: value for key, value in os.environ.items() if key != "NO_ALBUMENTATIONS_UPDATE"}
    prefix = ["unshare", "-n"] if subprocess.run(["unshare", "-n", "true"], check=False).returncode == 0 else []
    ran = subprocess.run([*prefix, sys.executable, "-c", code, *joined], cwd=scan, timeout=100, check=False,
                         capture_output=True, text=True, env={**environment, "PYTHONPATH": str(ROOT)})  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "NETWORK" not in ran.stdout


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["infer", "a.tif", "-o", "m.tif", "-m", "{gray}", "--json", "-"], 0),
        (["infer", "b.tif", "-o", "m.tif", "-m", "{gray}", "--json", "-"], 3),
        (["infer", "*.tif", "-o", "out", "-m", "{gray}", "--json", "-"], 7),
        (["infer", "a.tif", "-o", "m.tif", "-m", "none", "--json", "-"], 2),
        (["infer", "a.tif", "-o", "m.tif", "-m", "b.tif", "--json", "-"], 4),
        (["train", "absent", "--json", "-"], 2),
        (["train", "{cells}", "-o", "n.safetensors", "--json", "-", *FAST], 0),
        (["evaluate", "predicted", "absent", "--json", "-"], 2),
        (["evaluate", "predicted", "truth", "--json", "-"], 0),
        (["evaluate", "predicted", "truth", "--ignore", "red", "--json", "-"], 2),
        (["train", "{cells}", "--ignore", "red", "--json", "-"], 2),
    ],
)
def test_json_on_stdout(arguments, code, home, scored, scan, models, capsys):
    """PIP18: one document, also of a failure."""
    Path("b.tif").write_bytes(b"")
    capsys.readouterr()
    assert run([argument.format(cells=home / "cells", **models) for argument in arguments]) == code
    out = capsys.readouterr().out
    document = json.loads(out)
    assert {"schema", "version", "command", "seconds", "warnings"} <= set(document)
    assert document["command"] == arguments[0]
    if code == 7:
        assert [failure["exit"] for failure in document["failures"]] == [3]
        assert {"input", "error", "hint", "exit"} == set(document["failures"][0])
    elif code:
        assert document["exit"] == code
        assert document["error"]
        assert document["hint"]


def test_version(place):
    """PIP19: without torch, in a moment."""
    code = "import sys; from unetcli.cli import run; run(['--version']); sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    began = time.monotonic()
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert time.monotonic() - began < 3
    assert ran.returncode == 0
    assert re.fullmatch(r"unet \d+\.\d+\.\d+\S*\n", ran.stdout)
