"""Bad and odd images through ``unet infer`` and ``unet train`` (FAULTS, B1)."""

import io
import os
import re
import shutil
import socket
import subprocess
import sys
import zlib

import numpy as np
import pytest
import tifffile
from faults.conftest import discs
from faults.harness import FAST, OLD, Case, Watch, check_form, file, perform
from images.bad_images import OME, REFUSED, plain, png
from images.raw_tiff import raw_tiff
from PIL import Image as Picture

from unetcli.cli import run
from unetcli.inference import infer as inference
from unetcli.inference.predict import Band

RNG = np.random.default_rng(0)
IMAGE = discs(0)[0]
GRAY8 = (IMAGE // 16).astype(np.uint8)
COLORS = RNG.integers(0, 255, (40, 50, 3)).astype(np.uint8)
PALETTE = RNG.integers(0, 255, (256, 3)).astype(np.uint8)


def encoded(array, **options):
    """The bytes of a TIFF."""
    stream = io.BytesIO()
    options.setdefault("photometric", "minisblack")
    tifffile.imwrite(stream, array, **options)
    return stream.getvalue()


def picture(array, kind="PNG", mode=None):
    stream = io.BytesIO()
    Picture.fromarray(array, mode).save(stream, kind) if mode is None else array.save(stream, kind)
    return stream.getvalue()


def indexed():
    image = Picture.fromarray(GRAY8, "P")
    image.putpalette(PALETTE.tobytes())
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def mixed_pages(place):
    with tifffile.TiffWriter(place / "a.tif") as tiff:
        for shape in ((64, 64), (64, 64), (32, 48)):
            tiff.write(RNG.integers(0, 255, shape).astype(np.uint8), metadata=None)


def packed(bits, width=40, height=24):
    values = RNG.integers(0, 1 << bits, (height, width))
    rows = ["".join(format(value, f"0{bits}b") for value in row) for row in values]
    data = b"".join(int(row.ljust(-(-len(row) // 8) * 8, "0"), 2).to_bytes(-(-len(row) // 8), "big") for row in rows)
    return raw_tiff({"width": width, "height": height, "bits": bits, "rows": height, "data": data})


def damaged(compression):
    garbage = np.random.default_rng(3).integers(0, 255, 900).astype(np.uint8).tobytes()
    return raw_tiff({"width": 64, "height": 64, "compression": compression, "rows": 64, "data": garbage})


def replaced(value, where=(3, 4)):
    pixels = RNG.random((30, 40)).astype(np.float32)
    pixels[where] = value
    return encoded(pixels)


def shape_of(*shape):
    def check(place):
        assert tifffile.imread(place / "m.tif").shape == shape

    return check


def INFER(*more, name="a.tif", model="gray"):
    return ["infer", name, "-o", "m.tif", "-m", f"{{{model}}}", "--tile", "92", *more]  # spares choosing one


CIRCULAR = raw_tiff({"width": 8, "height": 8, "data": bytes(range(64))}, next_of_last=8)
CZYX = encoded(RNG.integers(0, 255, (2, 3, 30, 40)).astype(np.uint8), ome=True, metadata={"axes": "CZYX"})
TZCYX = encoded(RNG.integers(0, 255, (2, 3, 2, 30, 40)).astype(np.uint8), imagej=True, metadata={"axes": "TZCYX"})
YCBCR = encoded(COLORS, photometric="ycbcr", compression="jpeg", subsampling=(1, 1), compressionargs={"level": 95})

CASES = [
    Case("IMG05-png", file("a.tif", png(GRAY8)), INFER(), says=[r"warning: a\.tif: is a PNG despite \.tif"]),
    Case("IMG05-jpeg", file("a.tif", picture(GRAY8, "JPEG")), INFER(), says=[r"warning: a\.tif: is a JPEG despite"]),
    Case("IMG14", file("a.tif", CIRCULAR), INFER(), says=["warning: a.tif: .*circular"], check=shape_of(8, 8)),
    *(Case(f"IMG17-{number}", file("a.tif", damaged(number)), INFER(), 3,
           [rf"error: a\.tif: cannot decode strip 0 \((?i:{name})\): data damaged"])
      for number, name in ((5, "lzw"), (8, "zlib"), (7, "jpeg"))),
    *(Case(f"IMG21-{bits}", file("a.tif", packed(bits)), INFER(), check=shape_of(24, 40)) for bits in (10, 12)),
    *(Case(f"IMG22-{bits}", file("a.tif", packed(bits)), INFER(), check=shape_of(24, 40)) for bits in (1, 4)),
    Case("IMG23", file("a.tif", replaced(np.nan)), INFER(), says=[r"warning: a\.tif: 1 of 1200 pixels \(0\.083 %\)"]),
    Case("IMG24-inf", file("a.tif", replaced(-np.inf)), INFER(), says=[r"1 of 1200 pixels"]),
    Case("IMG24-nan", file("a.tif", encoded(np.full((9, 9), np.nan, np.float32))), INFER(), 3,
         [r"error: a\.tif: all pixels are NaN"]),
    Case("IMG25", file("a.tif", encoded(np.full((40, 50), 100, np.uint8))), INFER(),
         says=[r"warning: a\.tif: constant image \(value 100\)"], check=shape_of(40, 50)),
    *(Case(f"IMG26-{height}x{width}", file("a.tif", encoded(RNG.integers(0, 99, (height, width)).astype(np.uint8))),
           INFER(), check=shape_of(height, width)) for height, width in ((1, 1), (1, 500), (500, 1), (17, 23), (2, 3))),
    Case("IMG28-int32", file("a.tif", encoded(RNG.integers(-2**31, 2**31, (30, 40)).astype(np.int32))), INFER()),
    Case("IMG28-float64", file("a.tif", encoded(RNG.random((30, 40)) * 1e300)), INFER()),
    Case("IMG28-uint64", file("a.tif", encoded(RNG.integers(0, 2**57, (30, 40)).astype(np.uint64))), INFER()),
    Case("IMG28-float16", file("a.tif", encoded(RNG.random((30, 40)).astype(np.float16))), INFER()),
    Case("IMG30-rgba", file("a.png", png(np.dstack([COLORS, COLORS[..., 0]]))), INFER(name="a.png", model="rgb"),
         says=[r"warning: a\.png: alpha is dropped"], check=shape_of(40, 50)),
    Case("IMG30-la", file("a.png", png(COLORS[..., :2])), INFER(name="a.png"), says=["alpha is dropped"]),
    Case("IMG30-tiff", file("a.tif", encoded(np.dstack([COLORS, COLORS[..., 0]]), photometric="rgb",
                                             extrasamples=["unassalpha"])),
         INFER(model="rgb"), says=["alpha is dropped"]),
    Case("IMG31-jpeg", file("a.tif", YCBCR), INFER(model="rgb"), check=shape_of(40, 50)),
    Case("IMG33-rgb", file("a.tif", encoded(COLORS, photometric="rgb")), INFER(), 3,
         [r"error: a\.tif: 3 channels, the model expects 1", "hint: .*--axes"]),
    Case("IMG33-gray", file("a.tif", encoded(GRAY8)), INFER(model="rgb"), 3, ["1 channels, the model expects 3"]),
    Case("IMG34", file("a.tif", encoded(np.stack([GRAY8] * 5))), INFER(), says=["5 pages, axes Q"],
         check=shape_of(5, 72, 72)),
    Case("IMG34-pages", file("a.tif", encoded(np.stack([GRAY8] * 5))), INFER("--pages", "1-2"),
         check=shape_of(2, 72, 72)),
    Case("IMG35", mixed_pages, INFER(), 3, ["pages differ: 64x64 uint8, 32x48 uint8", "hint: .*--pages"]),
    Case("IMG35-pages", mixed_pages, INFER("--pages", "0-1"), check=shape_of(2, 64, 64)),
    Case("IMG36", file("a.tif", plain((64, 64, 2))), INFER("--axes", "YXC", model="two"), check=shape_of(64, 64)),
    *(Case(f"IMG37-{count}", file("a.tif", encoded(np.stack([GRAY8] * count), metadata=None, planarconfig=None)),
           INFER(), says=[f"{count} pages, axes QYX"], check=shape_of(count, 72, 72)) for count in (3, 4, 5)),
    Case("IMG38-ome", file("a.ome.tif", CZYX), INFER(name="a.ome.tif", model="two"), says=["3 pages, axes CZYX"],
         check=shape_of(3, 30, 40)),
    Case("IMG38-imagej", file("a.tif", TZCYX), INFER(model="two"), says=["6 pages, axes TZCYX"],
         check=shape_of(2, 3, 30, 40)),
    *(Case(f"IMG39-{number}", file("a.tif", raw_tiff({"width": 8, "height": 8, "data": bytes(64),
                                                      "description": OME.format(other=other)})), INFER(), 3,
           [r"error: a\.tif: belongs to a set of files"])
      for number, other in enumerate(("../x.tif", "/etc/passwd", "x.tif"))),
    Case("IMG41", file("a.tif", encoded(RNG.integers(0, 99, (300, 4, 4)).astype(np.uint8), metadata={"axes": "TYX"})),
         INFER(), check=shape_of(300, 4, 4)),
    Case("IMG42-folder", lambda place: (place / "a").mkdir(), INFER(name="a"), 3, ["error: a: "]),
    Case("IMG42-fifo", lambda place: os.mkfifo(place / "a.tif"), INFER(), 3, [r"a\.tif: is not a regular file"]),
    Case("IMG42-device", lambda place: None, INFER(name="/dev/zero"), 3, ["/dev/zero: is not a regular file"]),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_image(case, place, models, capsys):
    perform(case, place, models, capsys)


@pytest.mark.parametrize(("name", "data", "words"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_refused_by_infer(name, data, words, place, models, capsys):
    perform(Case("", file(name, data), INFER(name=name), 3, [rf"error: {name}: .*{words}"], seconds=5),
            place, models, capsys)  # fmt: skip


def data_set_with(name, data):
    """Return a builder of a data set in which one image is bad."""

    def build(place):
        for kind in ("images", "masks"):
            (place / "cells" / kind).mkdir(parents=True)
        for seed in range(2):
            image, inside = discs(seed, 40)
            tifffile.imwrite(place / f"cells/images/c{seed}.tif", image)
            tifffile.imwrite(place / f"cells/masks/c{seed}.tif", inside.astype(np.uint8))
        (place / "cells/images" / name).write_bytes(data)
        tifffile.imwrite(place / "cells/masks" / name.replace(".png", ".tif"), np.eye(40, dtype=np.uint8))

    return build


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [row[1:] for row in REFUSED if row[0] != "IMG36"],
    ids=[row[0] for row in REFUSED if row[0] != "IMG36"],
)
def test_refused_by_train(name, data, words, place, models, capsys):
    """The same words with the path in the data set, before anything is written."""
    arguments = ["train", "cells", "-o", "new.safetensors", *FAST]
    perform(Case("", data_set_with(name, data), arguments, 3, [rf"error: cells/images/{name}: .*{words}"], outputs=()),
            place, models, capsys)  # fmt: skip


def probabilities(place, models, name, data, model="gray", *more):
    """Return what the model says about the image in these bytes."""
    (place / name).write_bytes(data)
    assert run(["infer", name, "-o", "p.tif", "-m", models[model], "--output-kind", "probabilities", "-q", *more]) == 0
    return tifffile.imread(place / "p.tif")


SAME = {
    "IMG06": ("b.png", encoded(IMAGE)),
    "IMG40-bigtiff": ("b.tif", encoded(IMAGE, bigtiff=True)),
    "IMG40-bigendian": ("b.tif", encoded(IMAGE, byteorder=">")),
    "IMG40-tiled": ("b.tif", encoded(IMAGE, tile=(16, 32), compression="zlib")),
    "IMG40-predictor": ("b.tif", encoded(IMAGE, compression="lzw", predictor=2)),
    "IMG40-strips": ("b.tif", encoded(IMAGE, rowsperstrip=7)),
    "IMG46": ("b.png", picture(IMAGE)),
}


@pytest.mark.parametrize("name", SAME)
def test_the_same_pixels_in_another_file(name, place, models):
    expected = probabilities(place, models, "a.tif", encoded(IMAGE))
    assert expected.std() > 0.01
    np.testing.assert_array_equal(probabilities(place, models, *SAME[name]), expected)


def test_colors_in_another_file(place, models):
    """IMG29, IMG40: palette TIFF, palette PNG and planar RGB are the colors they show."""
    true = encoded(PALETTE[GRAY8], photometric="rgb")
    expected = probabilities(place, models, "a.tif", true, "rgb")
    ramp = np.ascontiguousarray(PALETTE.T.astype(np.uint16) * 257)
    for name, data in (
        ("b.png", indexed()),
        ("c.tif", encoded(GRAY8, photometric="palette", colormap=ramp)),
        ("d.tif", encoded(np.moveaxis(PALETTE[GRAY8], -1, 0), photometric="rgb", planarconfig="separate")),
    ):
        np.testing.assert_array_equal(probabilities(place, models, name, data, "rgb"), expected)


def test_inverted_gray_is_turned_round_and_said(place, models, capsys):
    """IMG32."""
    expected = probabilities(place, models, "a.tif", encoded(GRAY8))
    data = encoded(255 - GRAY8, photometric="miniswhite")
    np.testing.assert_array_equal(probabilities(place, models, "b.tif", data), expected)
    assert run(["infer", "b.tif", "-o", "m.tif", "-m", models["gray"]]) == 0
    assert re.search(r"b\.tif: inverted", capsys.readouterr().err)


def test_a_strip_that_does_not_fit_the_memory(place, models, capsys, monkeypatch):
    """IMG10, the part that is refused; images that fit are read in the tests of the readers."""
    monkeypatch.setattr("unetcli.images.memory.usable_memory", lambda: 200 << 20)
    strip = zlib.compress(bytes(30000 * 3000), 1)
    data = raw_tiff({"width": 30000, "height": 3000, "compression": 8, "rows": 3000, "data": strip})
    perform(Case("IMG10", file("a.tif", data), INFER(), 6, [r"a\.tif: .*172 MiB of memory, 200 MiB may be used"]),
            place, models, capsys)  # fmt: skip


def test_without_imagecodecs(place, models):
    """IMG19 to IMG21: each names what is missing; what needs no codec is segmented."""
    for compression in ("jpeg2000", "jpegxl", "lerc", "lzw"):
        tifffile.imwrite(place / f"{compression}.tif", GRAY8, compression=compression)
    (place / "twelve.tif").write_bytes(packed(12))
    (place / "plain.tif").write_bytes(encoded(GRAY8))
    watch = Watch(place)
    code = "import sys; sys.modules['imagecodecs'] = None; from unetcli.cli import run; sys.exit(run(sys.argv[1:]))"
    names = sorted(path.name for path in place.iterdir())
    ran = subprocess.run(
        [sys.executable, "-c", code, "infer", *names, "-o", "out", "-m", models["gray"]],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == 7, ran.stderr
    for name in ("jpeg2000", "jpegxl", "lerc", "lzw"):
        assert re.search(rf"(?i)error: {name}\.tif: .*{name}\w* compression needs imagecodecs", ran.stderr), ran.stderr
    assert re.search(r"error: twelve\.tif: .*12.bit.* needs imagecodecs", ran.stderr)
    assert ran.stderr.count("hint: pip install imagecodecs") == 5
    assert [path.name for path in (place / "out").iterdir()] == ["plain.tif"]
    watch.check(7, ran.stderr, ["out"])


def test_a_socket_is_no_image(place, models, capsys):
    """IMG42."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("a.tif")
        perform(Case("IMG42-socket", lambda place: None, INFER(), 3, ["is not a regular file"]), place, models, capsys)


@pytest.mark.parametrize("change", ["removed", "cut"])
def test_a_file_lost_meanwhile(change, place, models, capsys, monkeypatch):
    """IMG43: the others are done."""
    for name in "abc":
        (place / f"{name}.tif").write_bytes(encoded(IMAGE))
    segment = inference.Segmenter.segment

    def losing(self, sources, *rest):
        if sources[0].name == "b.tif":
            sources[0].unlink() if change == "removed" else os.truncate(sources[0], 999)
        return segment(self, sources, *rest)

    monkeypatch.setattr(inference.Segmenter, "segment", losing)
    assert run(["infer", "*.tif", "-o", "out", "-m", models["gray"]]) == 7
    error = capsys.readouterr().err
    assert re.search(r"error: b\.tif: (does not exist|is truncated)", error)
    check_form(7, error)
    assert sorted(path.name for path in (place / "out").iterdir()) == ["a.tif", "c.tif"]


def test_more_objects_than_16_bits_hold(place, models, capsys, monkeypatch):
    """IMG45: 32-bit ids, said."""
    classes = (np.indices((400, 400)).sum(axis=0) % 2).astype(np.uint8)
    monkeypatch.setattr(inference, "predict_bands", lambda *rest, **more: [Band(0, classes, None)])
    (place / "a.tif").write_bytes(encoded(np.zeros((400, 400), np.uint8)))
    assert run(["infer", "a.tif", "-o", "m.tif", "-m", models["gray"], "--output-kind", "instances"]) == 0
    assert re.search(r"warning: .*80000 objects.*32 bits", capsys.readouterr().err)
    ids = tifffile.imread("m.tif")
    assert ids.dtype == np.uint32
    np.testing.assert_array_equal(ids[classes > 0], np.arange(1, 80001))


@pytest.mark.slow
def test_three_thousand_pages(place, models, capsys):
    """IMG41 in full."""
    data = encoded(RNG.integers(0, 99, (3000, 4, 4)).astype(np.uint8), metadata={"axes": "TYX"})
    perform(Case("IMG41", file("a.tif", data), INFER(), seconds=120, check=shape_of(3000, 4, 4)), place, models, capsys)


def test_a_sparse_slide():
    """IMG44."""
    pytest.skip("10^10 pixels take hours on a CPU; the tests of the readers read such a file with flat memory")


def test_the_checks_can_fail(place, models, capsys):
    """The invariants notice a changed input, a file left behind and an error of the wrong form."""
    (place / "a.tif").write_bytes(OLD)
    watch = Watch(place)
    watch.check(3, "error: a\nhint: b\n", [])
    for bad in ("error: a\n", "Traceback\nerror: a\nhint: b\n", "error: a\nhint: b\nmore\n", ""):
        with pytest.raises(AssertionError):
            watch.check(3, bad, [])
    (place / ".m.tif.tmp-1").write_bytes(b"")
    with pytest.raises(AssertionError, match="left behind"):
        watch.check(3, "error: a\nhint: b\n", [])
    (place / ".m.tif.tmp-1").unlink()
    (place / "a.tif").write_bytes(b"")
    with pytest.raises(AssertionError, match="changed"):
        watch.check(0, "", ["m.tif"])


def test_a_folder_that_must_not_be_read(zygote, place_of_all, models):
    """Named as what it is: an input, not an output."""
    shutil.copy(models["gray"], place_of_all / "g.safetensors")
    tifffile.imwrite(place_of_all / "t.tif", discs(0)[0])
    (place_of_all / "locked").mkdir()
    tifffile.imwrite(place_of_all / "locked" / "a.tif", discs(0)[0])
    (place_of_all / "locked").chmod(0)
    for arguments, code in (
        (["infer", "locked", "-o", "m/", "-m", "g.safetensors"], 3),
        (["infer", "locked/a.tif", "-o", "m.tif", "-m", "g.safetensors"], 3),
        (["infer", "l*", "-o", "m/", "-m", "g.safetensors"], 3),
        (["infer", "t.tif", "-o", "m.tif", "-m", "locked/x.safetensors"], 4),
        (["evaluate", "locked", "t.tif"], 3),
        (["evaluate", "locked/a.tif", "t.tif"], 3),
        (["evaluate", "t.tif", "locked"], 3),
        (["train", "locked/a.tif", "t.tif"], 3),
        (["infer", "t.tif", "-o", "locked/m.tif", "-m", "g.safetensors"], 5),
        (["infer", "t.tif", "-o", "locked/new/m.tif", "-m", "g.safetensors", "--dry-run"], 5),
    ):
        (place_of_all / "err").unlink(missing_ok=True)
        running = zygote.start(arguments, place_of_all, nobody=True)
        assert running.wait() == code, (arguments, (place_of_all / "err").read_text())
        error = (place_of_all / "err").read_text()
        assert re.search("error: locked.*permission denied", error), arguments
        check_form(code, error)
    (place_of_all / "locked").chmod(0o755)
