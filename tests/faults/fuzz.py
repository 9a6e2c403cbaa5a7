"""Damaged files through the real command, each in a process of its own with limits: ``python fuzz.py COUNT [FIRST]``.

Every file is a function of its number. A find is printed with its number; ``python fuzz.py show NUMBER FOLDER`` makes
it again in an empty folder and shows what the program says to it.
"""

import gzip
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from queue import SimpleQueue

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from faults import good_files, mutations
from faults.harness import check_form
from faults.mutations import Random, choose
from faults.zygote import Zygote

CODES = {0, 3, 4, 6}
SECONDS = 30  # a hang limit: a case takes a tenth of a second
MEMORY = 3 << 30  # address space of a process, of which torch maps one third
PART = 50  # numbers that one core takes at once
DRY_RUN = ("--dry-run", "--features", "4", "--depth", "1", "--patch-size", "60", "--threads", "1", "--workers", "0")


@dataclass(frozen=True)
class Damaged:
    """A damaged file and the command that reads it.

    Parameters
    ----------
    files : names and bytes, for an empty folder.
    arguments : of the program; {home} stands for the folder that `good_files.write_home` writes.
    """

    files: dict[str, bytes]
    arguments: tuple[str, ...]


@cache
def good(kind: str) -> list:
    return getattr(good_files, kind)()


@cache
def good_model() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        good_files.write_home(Path(folder))
        return (Path(folder) / "gray.safetensors").read_bytes()


def infer(name: str, data: bytes, channels: int) -> Damaged:
    model = "rgb" if channels == 3 else "gray"
    return Damaged({name: data}, ("infer", name, "-o", "m.tif", "-m", f"{{home}}/{model}.safetensors", "--tile", "60"))


def damaged_image(name: str, data: bytes, rng: Random) -> bytes:
    """Damage what the format is made of, or any byte."""
    kind = rng.random()
    if data[:4] in (b"II*\0", b"MM\0*") and kind < 0.4:
        return mutations.damaged_tags(data, rng)
    if name.endswith(".png") and kind < 0.5:
        return mutations.damaged_chunks(data, rng)
    data = mutations.damaged_bytes(data, rng, header=1200 if name.endswith(".dcm") else 400)
    return data


def image(rng: Random) -> Damaged:
    name, data, channels = choose(good("images"), rng)
    return infer(name, damaged_image(name, data, rng), channels)


def scan(rng: Random) -> Damaged:
    """Metadata of an OME-Zarr, and now and then a chunk."""
    files = dict(choose(good("scans"), rng))
    documents = [name for name in files if Path(name).name in (".zattrs", ".zarray", "zarr.json")]
    if rng.random() < 0.2:
        name = choose(sorted(files), rng)
        files[name] = mutations.damaged_bytes(files[name], rng)
    else:
        name = choose(documents, rng)
        text = mutations.damaged_json_text(json.loads(files[name]), rng)
        files[name] = text.encode("utf-8", "surrogatepass")
    return Damaged(files, infer("a.zarr", b"", 1).arguments)


def packed(rng: Random) -> Damaged:
    data = good_files.nifti((12, 9, 4))
    if rng.random() < 0.6:
        return infer("a.nii.gz", gzip.compress(mutations.damaged_bytes(data, rng), 1, mtime=0), 1)
    return infer("a.nii.gz", mutations.damaged_bytes(gzip.compress(data, 1, mtime=0), rng, header=30), 1)


def description(rng: Random) -> Damaged:
    """OME-XML, and what ImageJ and tifffile write in its place."""
    shape, options, text = choose(good("described"), rng)
    text = mutations.damaged_text(text, rng).encode("utf-8", "replace").replace(b"\0", b" ")
    options = {"imagej": False, "ome": False, "metadata": None, "description": text}
    return infer("a.tif", good_files.tiff(shape, photometric="minisblack", **options), choose([1, 3], rng))


def mask(rng: Random) -> Damaged:
    name, data = choose(good("masks"), rng)
    damaged = damaged_image(name, data, rng)
    if rng.random() < 0.5:
        return Damaged({name: damaged, f"truth/{name}": data}, ("evaluate", name, f"truth/{name}"))
    return Damaged({f"i/{name}": data, f"m/{name}": damaged}, ("train", f"i/{name}", f"m/{name}", *DRY_RUN))


def model(rng: Random) -> Damaged:
    arguments = ("infer", "{home}/scan.tif", "-o", "m.tif", "-m", "x.safetensors", "--tile", "60")
    return Damaged({"x.safetensors": mutations.damaged_model(good_model(), rng)}, arguments)


def dataset(rng: Random) -> Damaged:
    document = dict(good_files.DATASET)
    if rng.random() < 0.5:
        del document["dataset"]
    text = mutations.damaged_json_text(document, rng).encode("utf-8", "surrogatepass")
    files = {"set/dataset.json": text}
    for number in range(2):
        files[f"set/imagesTr/c{number}_0000.tif"] = good_files.tiff((40, 50))
        files[f"set/labelsTr/c{number}.tif"] = good_files.tiff((40, 50), high=2)
    return Damaged(files, ("train", "set", *DRY_RUN))


def names(rng: Random) -> Damaged:
    text = good_files.LIST if rng.random() < 0.6 else "c1\nc2\n"
    data = mutations.damaged_text(text, rng).encode("utf-8", "surrogatepass")
    if rng.random() < 0.3:
        data = mutations.damaged_bytes(data or b"\0", rng)
    return Damaged({"list.csv": data}, ("train", "{home}/cells", "--validation", "list.csv", *DRY_RUN))


KINDS: list[Callable[[Random], Damaged]] = [
    *[image] * 8, scan, packed, *[description] * 2, *[mask] * 2, *[model] * 4, dataset, names,
]  # fmt: skip


def make(number: int) -> tuple[str, Damaged]:
    """Return the kind and the files of a number."""
    kind = KINDS[number % len(KINDS)]
    return kind.__name__, kind(np.random.default_rng([8, number]))


def perform(number: int, zygote: Zygote, home: Path, place: Path) -> tuple[int, str]:
    """Return the exit code of a number and what is wrong with it, "" where nothing is; `place` is an empty folder."""
    kind, damaged = make(number)
    for name, data in damaged.files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)
    arguments = [argument.replace("{home}", str(home)) for argument in damaged.arguments]
    environment = {"TMPDIR": str(place), "HOME": str(place)}
    running = zygote.start(arguments, place, environment=environment, limits={"RLIMIT_AS": MEMORY})
    try:
        code = running.wait(SECONDS)
        stderr = (place / "err").read_text(encoding="utf-8")
        assert code in CODES, f"exit code {code}"
        check_form(code, stderr)
        left = {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()} - {"err", "out"}
        assert left - {"m.tif"} == set(damaged.files), f"left: {left}"
        assert ("m.tif" in left) == (code == 0 and damaged.arguments[0] == "infer"), f"left: {left}, exit code {code}"
        for name, data in damaged.files.items():
            assert (place / name).read_bytes() == data, f"{name} was changed"
        assert not running.has_children, "a process is left"
    except AssertionError as error:
        said = (place / "err").read_text(encoding="utf-8", errors="replace") if (place / "err").exists() else ""
        return -1, f"{number} ({kind}): {error}\n{said[-1500:]}"
    return code, ""


def fuzz(first: int, count: int, zygote: Zygote, home: Path) -> tuple[Counter, list[str]]:
    """Return how often each kind ended with each exit code, and the finds."""
    outcomes: Counter = Counter()
    finds = []
    for number in range(first, first + count):
        with tempfile.TemporaryDirectory() as folder:
            code, find = perform(number, zygote, home, Path(folder))
        outcomes[KINDS[number % len(KINDS)].__name__, code] += 1
        if find:
            finds.append(find)
    return outcomes, finds


def show(number: int, folder: Path) -> bool:
    """Make a number again in a folder, print what the program says to it, and return whether it is a find."""
    with tempfile.TemporaryDirectory() as home, Zygote() as zygote:
        good_files.write_home(Path(home))
        code, find = perform(number, zygote, Path(home), folder)
    print(*make(number)[1].arguments, f"\n{(folder / 'err').read_text(errors='replace')}", find or f"exit code {code}")
    return bool(find)


def main(count: int, first: int = 0) -> bool:
    """Run that many numbers on all cores, print what was found, and return whether anything was."""
    began = time.monotonic()
    outcomes: Counter = Counter()
    finds = []
    with tempfile.TemporaryDirectory() as home, ExitStack() as stack:
        good_files.write_home(Path(home))
        idle: SimpleQueue = SimpleQueue()
        cores = len(os.sched_getaffinity(0))
        for _ in range(cores):
            idle.put(stack.enter_context(Zygote()))

        def part(start: int) -> tuple[Counter, list[str]]:
            zygote = idle.get()
            try:
                return fuzz(start, min(PART, first + count - start), zygote, Path(home))
            finally:
                idle.put(zygote)

        for some, its_finds in stack.enter_context(ThreadPoolExecutor(cores)).map(
            part, range(first, first + count, PART)
        ):
            outcomes += some
            finds += its_finds
            print(*its_finds, sep="\n", end="\n" if its_finds else "", flush=True)
            if outcomes.total() % 500 == 0:
                print(f"{outcomes.total()} of {count} files", flush=True)
    print(f"{count} files in {time.monotonic() - began:.0f} s, {len(finds)} finds; exit codes:")
    for code in sorted({code for _, code in outcomes}):
        kinds = {kind: number for (kind, its), number in outcomes.items() if its == code}
        print(f"{code if code >= 0 else 'finds':>5}  {sum(kinds.values()):>5}  {kinds}")
    return bool(finds)


if __name__ == "__main__":
    if sys.argv[1] == "show":
        sys.exit(show(int(sys.argv[2]), Path(sys.argv[3])))
    sys.exit(main(*map(int, sys.argv[1:])))
