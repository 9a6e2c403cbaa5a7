"""Bad and odd data sets through ``unet train`` (FAULTS, B2)."""

import csv
import math
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from faults.conftest import discs
from faults.harness import FAST, Case, Watch, check_form, perform
from PIL import Image as Picture

from unetcli.cli import run
from unetcli.models.modelfile import load_model

REAL = ["train", "cells", "-o", "new.safetensors", *FAST]
DRY = [*REAL, "--dry-run"]
WRITTEN = ("new.safetensors", "new.run")
IMAGE, INSIDE = discs(0, 40)
MASK = np.where(INSIDE, 255, 0).astype(np.uint8)
THIRDS = np.repeat(np.arange(3), [14, 13, 13])[:, None] * np.ones((1, 40), int)  # three classes in bands


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".tif":
        tifffile.imwrite(path, array, photometric="rgb" if array.shape[2:] == (3,) else "minisblack", **options)
    else:
        Picture.fromarray(array).save(path)


def cells(number=4, image=lambda n: discs(n, 40)[0], mask=lambda n: np.where(discs(n, 40)[1], 255, 0).astype(np.uint8),
          images="cells/images/c{}.tif", masks="cells/masks/c{}.tif"):  # fmt: skip
    """Return a builder of a data set; `image` and `mask` give the pixels of a number, None for no file."""

    def build(place):
        for n in range(number):
            for name, make in ((images, image), (masks, mask)):
                pixels = make(n)
                if pixels is not None:
                    save(place / name.format(n), pixels)

    return build


def odd(index, change, **options):
    """Return a builder of a good data set in which `change(folder)` then spoils something."""

    def build(place):
        cells(**options)(place)
        change(place / "cells")

    return build


def one(index, usual, special):
    """Return a maker of pixels that is `special` for one number."""
    return lambda n: special if n == index else usual(n)


def good_mask(n):
    return np.where(discs(n, 40)[1], 255, 0).astype(np.uint8)


def good_image(n):
    return discs(n, 40)[0]


def bands(*values, dtype=np.uint8):
    """Return a mask maker with a band of rows for each value."""
    table = np.array(values, dtype)
    rows = np.arange(40) * len(values) // 40
    return lambda n: np.repeat(table[rows][:, None], 40, axis=1)


def instance_ids(n):
    rng = np.random.default_rng(n)
    labels = np.zeros((40, 40), np.uint16)
    for number in range(16):
        y, x = 10 * (number // 4) + 1, 10 * (number % 4) + 1
        labels[y : y + 7, x : x + 5 + rng.integers(3)] = 1 + number + 20 * n
    return labels


def blurred_mask(folder):
    Picture.fromarray(MASK).save(folder / "masks/c0.jpg", quality=60)
    (folder / "masks/c0.tif").unlink()


def colored(n):
    return np.array([(0, 0, 0), (255, 0, 0), (0, 255, 0)], np.uint8)[bands(0, 1, 2)(n)]


def paletted(place):
    cells(mask=lambda n: None)(place)
    for n in range(4):
        image = Picture.fromarray(bands(0, 1, 2)(n), "P")
        image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
        (place / "cells/masks").mkdir(exist_ok=True)
        image.save(place / f"cells/masks/c{n}.png")


def add_ghosts(folder):
    for name in ("images/._c0.tif", "images/.DS_Store", "masks/Thumbs.db", "images/~$c1.tif", "masks/._c0.tif"):
        (folder / name).write_bytes(b"\0\5\x16\7 of another program")


def one_nan(n):
    image = good_image(n).astype(np.float32)
    image[3, 4] = np.nan if n == 0 else image[3, 4]
    return image


CASES = [
    Case("DS01-absent", lambda place: None, REAL, 2, ["error: cells: no such file or folder"]),
    Case("DS01-empty", lambda place: (place / "cells").mkdir(), REAL, 3, ["error: cells: no images found"]),
    Case("DS01-text", lambda place: ((place / "cells").mkdir(), (place / "cells/a.txt").write_text("hello")), REAL, 3,
         [r"error: cells: no images found.*looked in cells", "hint: .*unet train --help"]),
    Case("DS02", cells(12, mask=lambda n: None, images="cells/c{}.tif"), REAL, 3,
         [r"12 images, 0 masks; expected cells/masks/c0\.tif", "hint: tried .*imagesTr.*images/x.*x_mask.*x_masks"]),
    Case("DS03-image", cells(mask=one(2, good_mask, None)), REAL, 3, [r"c2\.tif", "hint: --allow-unpaired"]),
    Case("DS03-mask", cells(image=one(2, good_image, None)), REAL, 3, [r"c2\.tif", "hint: .*unpaired"]),
    Case("DS03-many", odd(0, lambda folder: [save(folder / f"images/z{n}.tif", IMAGE) for n in range(13)]), REAL, 3,
         [r"13 images have no mask: z0\.tif.*z9\.tif.* and 3 more\n"]),
    Case("DS03-nearest", odd(0, lambda folder: (folder / "masks/c2.tif").rename(folder / "masks/d2.tif")), REAL, 3,
         [r"c2\.tif.*d2\.tif"]),
    Case("DS03-allowed", cells(mask=one(2, good_mask, None)), [*DRY, "--allow-unpaired"], 0, ["c2"]),
    Case("DS04", cells(mask=one(1, good_mask, MASK[:, :39])), REAL, 3, [r"c1.*image 40x40, mask 39x40"]),
    Case("DS04-transposed", cells(image=lambda n: good_image(n)[:30], mask=one(1, lambda n: good_mask(n)[:30],
                                                                              MASK[:30].T)), REAL, 3,
         ["image 40x30, mask 30x40"]),
    Case("DS05-png", odd(0, lambda folder: save(folder / "images/c1.png", discs(1, 40)[0])), REAL, 3,
         [r"c1\.png.*c1\.tif|c1\.tif.*c1\.png"]),
    Case("DS05-case", odd(0, lambda folder: shutil.copy(folder / "images/c1.tif", folder / "images/C1.TIF")), REAL, 3,
         [r"C1\.TIF.*c1\.tif|c1\.tif.*C1\.TIF"]),
    Case("DS06", cells(), REAL, 0, [r"foreground +255 "], outputs=WRITTEN),
    Case("DS07-classes", cells(mask=bands(0, 128, 255)), DRY, 0, [r"128 +128 ", r"255 +255 "]),
    Case("DS07-names", cells(mask=bands(0, 1, 2, 3)), [*REAL, "--classes", "a,b"], 2,
         [r"--classes names 2 classes, the masks have 4 values \(0, 1, 2, 3\)"]),
    Case("DS07-jpeg", odd(0, blurred_mask), REAL, 3, [r"c0\.jpg: has \d\d+ values \(0, 1, 2, \.\.\.\): masks must be "
                                                     "lossless"]),
    Case("DS09", cells(mask=one(3, bands(0, 1, 2), bands(0, 1, 2, 7)(0))), DRY, 0,
         [r"warning: cells/masks/c3\.tif: is the only one of 4 masks with value 7, on 25 % of its pixels"]),
    Case("DS10-all", cells(12, mask=bands(0)), REAL, 3, ["no foreground in 12 masks"]),
    Case("DS10-one", cells(mask=one(1, good_mask, MASK * 0)), REAL, 0, ["note: 1 of 4 masks have no foreground: c1"],
         outputs=WRITTEN),
    Case("DS11", cells(mask=bands(255)), DRY, 0, [r"warning: .*4 of 4 masks have no background"]),
    Case("DS12-instances", cells(mask=instance_ids), [*REAL, "--task", "semantic"], 3,
         [r"look.* like instance ids \(max 76\)", "hint: .*--task instances"]),
    Case("DS12-semantic", cells(mask=bands(0, 1, 2, 1, 2)), [*REAL, "--task", "instances"], 3,
         ["error: ", "hint: .*--task semantic"]),
    Case("DS13-colors", cells(mask=colored), DRY, 0, ["#ff0000", "#00ff00"]),
    Case("DS13-palette", paletted, DRY, 0, ["semantic.*3 classes|3 classes"]),
    Case("DS13-rgba", cells(mask=lambda n: np.dstack([colored(n), np.full((40, 40), 255, np.uint8)]),
                            masks="cells/masks/c{}.png"), DRY, 0, ["#ff0000"]),
    Case("DS13-float", cells(mask=lambda n: (good_mask(n) / 255).astype(np.float32)), DRY, 0, [r"foreground +1 "]),
    Case("DS13-bool", cells(mask=lambda n: good_mask(n) > 0), DRY, 0, [r"foreground +1 "]),
    Case("DS13-signed", cells(mask=lambda n: (good_mask(n) > 0).astype(np.int16)), DRY, 0, [r"foreground +1 "]),
    Case("DS13-negative", cells(mask=lambda n: (good_mask(n) > 0).astype(np.int16) - 1), REAL, 3,
         [r"negative values \(-1\)", "hint: --ignore -1"]),
    Case("DS14-channels", cells(image=one(1, good_image, np.dstack([IMAGE] * 3))), REAL, 3,
         [r"differ in their channels: 1 in 3 \(c0\.tif\), 3 in 1 \(c1\.tif\)"]),
    Case("DS14-depth", cells(image=one(1, good_image, (IMAGE // 16).astype(np.uint8))), DRY, 0,
         ["several bit depths.*each file is scaled by itself"]),
    Case("DS14-type", cells(image=one(1, good_image, IMAGE.astype(np.float32))), DRY, 0,
         [r"16-bit uint16 \(3\), 32-bit float32 \(1\): each file is scaled by itself"]),
    Case("DS15", cells(1), REAL, 0, ["a quarter of each of 1 images, apart by a gap .optimistic"], outputs=WRITTEN),
    Case("DS16", cells(2), [*REAL, "--validation", "0.2"], 0, ["validation: 1 image, 1 of 2 files, drawn with seed 0"],
         outputs=WRITTEN),
    Case("DS17", odd(0, lambda folder: shutil.copy(folder / "images/c0.tif", folder / "images/c1.tif")),
         [*DRY, "--validation", "c1"], 0, ["warning: identical images in training and validation.*c0, c1"]),
    Case("DS18-loop", odd(0, lambda folder: (folder / "up").symlink_to("..")), DRY, 0, [r"pairs +4"]),
    Case("DS18-dangling", odd(0, lambda folder: (folder / "images/gone.tif").symlink_to("/nowhere/a.tif")), REAL, 3,
         [r"gone\.tif: is a link to /nowhere/a\.tif, which does not exist"]),
    Case("DS20", odd(0, lambda folder: [(folder / f"images/c{n}.tif").write_bytes(b"") for n in (3, 57)], number=60),
         REAL, 3, [r"c3\.tif: is empty", r"c57\.tif: is empty"]),
    Case("DS23", odd(0, add_ghosts), DRY, 0, [r"pairs +4"]),
    Case("DS25", cells(image=lambda n: good_image(n)[:21, :17], mask=lambda n: np.eye(21, 17, dtype=np.uint8) * 255),
         REAL, 0, ["17x21", r"patches +\d+ -> \d+ pixels"], outputs=WRITTEN),
    Case("DS26-nan", cells(image=one_nan), REAL, 0, [r"warning: cells/images/c0\.tif: 1 of 1600 pixels .*median"],
         outputs=WRITTEN),
    Case("DS26-constant", cells(image=one(1, good_image, np.full((40, 40), 100, np.uint16))), REAL, 0,
         [r"warning: cells/images/c1\.tif: constant image \(value 100\)"], outputs=WRITTEN),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_data_set(case, place, models, capsys):
    perform(case, place, models, capsys)
    if case.code == 0 and "--dry-run" not in case.arguments:
        assert_finite_history(place)
        load_model(place / "new.safetensors")


def assert_finite_history(place):
    """Fail unless losses and Dice of the one epoch are numbers."""
    with (place / "new.run/history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 1
    assert math.isfinite(float(rows[0]["train_loss"]))
    assert math.isfinite(float(rows[0]["validation_loss"]))
    assert math.isfinite(float(rows[0]["dice"]))


def test_class_ids_survive(place, models, capsys):
    """DS08, IMG45: ids with gaps and above 255 are learned as 0, 1, 2 and written as they were."""
    case = Case("DS08", cells(mask=bands(0, 5, 300, dtype=np.uint16)), REAL, 0, [r"5 +5 ", r"300 +300 "],
                outputs=WRITTEN)  # fmt: skip
    perform(case, place, models, capsys)
    assert load_model(place / "new.safetensors")[1].classes == 3
    assert run(["infer", "cells/images/c0.tif", "-o", "m.tif", "-m", "new.safetensors", "-q"]) == 0
    mask = tifffile.imread("m.tif")
    assert mask.dtype == np.uint16
    assert set(np.unique(mask)) <= {0, 5, 300}


def test_zero_and_one_are_zero_and_255(place):
    """DS06: the same model."""
    weights = []
    for name, value in (("one", 1), ("full", 255)):
        cells(mask=lambda n, value=value: (good_mask(n) > 0).astype(np.uint8) * value,
              images=f"{name}/images/c{{}}.tif", masks=f"{name}/masks/c{{}}.tif")(place)  # fmt: skip
        assert run(["train", name, "-o", f"{name}.safetensors", *FAST, "-q"]) == 0
        weights.append(load_model(place / f"{name}.safetensors")[2])
    assert weights[0] == weights[1]


def test_ignored_pixels_fill_batches(place, models, capsys):
    """DS27: an image without a labelled pixel, and patches of it, are no reason for NaN."""
    masks = one(0, good_mask, np.full((40, 40), 7, np.uint8))
    arguments = [*REAL, "--ignore", "7", "--batch-size", "1", "--validation", "c3"]
    perform(Case("DS27", cells(mask=masks), arguments, 0, outputs=WRITTEN), place, models, capsys)
    assert_finite_history(place)


def test_unreadable_file(zygote, place_of_all):
    """DS19: found before the first epoch."""
    cells()(place_of_all)
    (place_of_all / "cells/images/c2.tif").chmod(0)
    running = zygote.start(REAL, place_of_all, nobody=True)
    assert running.wait(60) == 3, (place_of_all / "err").read_text()
    error = (place_of_all / "err").read_text()
    assert "error: cells/images/c2.tif: permission denied" in error
    check_form(3, error)
    assert sorted(path.name for path in place_of_all.iterdir()) == ["cells", "err", "out"]


@pytest.mark.slow
def test_a_hundred_thousand_files(place, capsys):
    """DS21: listed in seconds, by their names alone."""
    for kind in ("images", "masks"):
        (place / "cells" / kind).mkdir(parents=True)
        for number in range(50_000):
            (place / "cells" / kind / f"c{number}.tif").touch()
    began = time.monotonic()
    from unetcli.dataset.pairs import find_pairs

    assert len(find_pairs(Path("cells")).pairs) == 50_000
    assert time.monotonic() - began < 10


NAMES = [
    "a b",
    "new\nline",
    "[1]",
    "[bold]",
    "\u00e9",
    os.fsdecode(b"\xe9"),
    "-leading",
    "x" * 250,
    "%s{}",
    "tab\tx",
]


def test_names_of_every_kind(place, models, capsys):
    """DS22, SEC05: all work in both commands and are printed escaped, on one line."""
    names = [*NAMES, "$(touch x)", ";rm -rf y", "`touch z`"]
    for n, name in enumerate(names):
        image, inside = discs(n % 3, 40)
        save(place / "cells/images" / f"{name}.tif", image + (n if name not in NAMES[:2] else 0))  # two are alike
        save(place / "cells/masks" / f"{name}.tif", inside.astype(np.uint8) * (255 if name != "new\nline" else 0))
    watch = Watch(place)
    assert run([*REAL, "--validation", "0.2"]) == 0
    error = capsys.readouterr().err
    assert "note: " in error
    assert not [line for line in error.splitlines() if line.startswith("line")]
    watch.check(0, error, WRITTEN)
    assert run(["infer", "cells/images", "-o", "out", "-m", "new.safetensors"]) == 0
    error = capsys.readouterr().err
    assert {path.stem for path in (place / "out").iterdir()} == set(names)
    assert len(error.splitlines()) == len(names) + 1
    for shown in ("new\\nline.tif", "[bold].tif", "\\xe9.tif", "tab\\tx.tif"):
        assert shown in error
    os.chdir(place / "cells/images")
    assert run(["infer", "--", "-leading.tif"]) == 2  # names no output
    assert (
        run(["infer", "-o", str(place / "m.tif"), "-m", str(place / "new.safetensors"), "-q", "--", "-leading.tif"])
        == 0
    )
    assert not any((place / "cells/images" / name).exists() for name in "xyz")
