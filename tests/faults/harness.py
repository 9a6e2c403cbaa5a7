"""A row of the table of faults, how it is run, and what must hold after every run whatever happened."""

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import tifffile

from unetcli.cli import run

OLD = b"what was here before"
FAST = ["--features", "4", "--depth", "2", "--epochs", "1", "--patch-size", "84", "--threads", "1", "--workers", "0",
        "--no-augment"]  # fmt: skip
SHOWN = re.compile(r"(error|hint|warning|note): ")


@dataclass(frozen=True)
class Case:
    """A row: what lies in the folder, what is called, and what must come of it.

    Parameters
    ----------
    build : writes the inputs into an empty folder.
    arguments : {gray} and {rgb} stand for models.
    code : the exit code.
    says : patterns, each of which a line of stderr must contain.
    check : looks at what was written.
    seconds, megabytes : the limits of time and of memory beside what is in use before, generous: a hang, and what a
        lying header makes allocate, is what they find.
    """

    id: str
    build: Callable[[Path], object]
    arguments: Sequence[str]
    code: int = 0
    says: Sequence[str] = ()
    check: Callable[[Path], object] | None = None
    seconds: float = 60
    megabytes: int = 300
    outputs: Sequence[str] = ("m.tif",)


def file(name: str, content: bytes) -> Callable[[Path], object]:
    """Return a builder that writes one file."""
    return lambda place: (place / name).write_bytes(content)


def contents(place: Path) -> dict[str, str]:
    """Return what lies below a folder: the hash of every file, and the kind of everything else."""
    found = {}
    for folder, folders, files in os.walk(place):
        for name in [*folders, *files]:
            path = Path(folder) / name
            if path.is_symlink():
                what = f"-> {path.readlink()}"
            elif path.is_file():
                what = hashlib.sha256(path.read_bytes()).hexdigest()
            else:
                what = "folder" if path.is_dir() else "special"
            found[str(path.relative_to(place))] = what
    return found


def children() -> set[str]:
    """Return the processes that this one has started and that are still there."""
    return {pid for task in Path("/proc/self/task").glob("*/children") for pid in task.read_text().split()}


def memory_kept(*, reset: bool = False) -> int:
    """Return the most memory, in KiB, that this process has held since the last reset, which this may be."""
    if reset:
        with contextlib.suppress(OSError):  # some containers do not allow it: then only a new peak counts
            Path("/proc/self/clear_refs").write_text("5")
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(found[1]) if found else 0


class Watch:
    """What was true before a run, to be compared with what is true after it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.before = contents(place)
        self.children = children()

    def check(self, code: int, stderr: str, outputs: Sequence[str]) -> None:
        """Fail unless inputs are unchanged, outputs old or complete, nothing else is left, and errors have their form.

        Parameters
        ----------
        outputs : files and folders that a run that ends well may write.
        """
        after = contents(self.place)
        may_write = tuple(outputs) if code in (0, 7, 8, 9, 129, 130, 143) else ()
        for name, content in self.before.items():
            if not name.startswith(may_write or ("\0",)):
                assert after.get(name) == content, f"{name} was changed"
        new = {name for name in after if name not in self.before and not name.startswith(tuple(outputs) or ("\0",))}
        assert not new, f"left behind: {new}"
        if not may_write:
            written = [name for name, what in after.items() if name not in self.before and what != "folder"]
            assert not written, f"written in spite of the error: {written}"
        assert not [name for name in after if ".tmp" in name]
        assert children() == self.children
        check_form(code, stderr)


def check_form(code: int, stderr: str) -> None:
    """Fail unless stderr has the lines that the contract promises for an exit code."""
    assert "Traceback" not in stderr
    lines = stderr.splitlines()
    kinds = ["".join(re.findall(r"^(error|hint): ", line)) for line in lines]
    errors, hints = kinds.count("error"), kinds.count("hint")
    if code == 0 or code > 128:
        assert errors == 0, stderr
        return
    assert errors >= 1, stderr
    assert 1 <= hints <= errors, stderr
    if code != 7:  # one block, at the end
        assert kinds[-errors - hints :] == ["error"] * errors + ["hint"] * hints, stderr


def perform(case: Case, place: Path, models: dict[str, str], capsys) -> str:
    """Run a case in this process and in this folder, check everything, and return what it wrote to stderr."""
    case.build(place)
    if case.code:
        for name in case.outputs:
            if Path(name).suffix == ".tif" and not (place / name).exists():
                (place / name).write_bytes(OLD)
    watch = Watch(place)
    capsys.readouterr()
    began, present = time.monotonic(), memory_kept(reset=True)
    code = run([argument.format(**models) for argument in case.arguments])
    seconds = time.monotonic() - began
    captured = capsys.readouterr()
    assert code == case.code, captured.err
    assert captured.out == ""
    assert seconds < case.seconds
    assert memory_kept() - present < case.megabytes << 10
    for pattern in case.says:
        assert re.search(pattern, captured.err), f"{pattern!r} is not in\n{captured.err}"
    watch.check(code, captured.err, case.outputs)
    if case.check is not None:
        case.check(place)
    elif code == 0 and case.arguments[0] == "infer":
        tifffile.imread(place / "m.tif")
    return captured.err
