"""Bad image files: what must be refused, in which words, and what must work all the same (FAULTS, B1)."""

import io
import os
import re
import resource
import subprocess
import sys
import textwrap
import time
import zlib

import numpy as np
import pytest
import tifffile
from images.bad_images import OME, REFUSED, plain, png
from images.raw_tiff import raw_tiff

from unetcli.errors import InputError, ResourceError, UnetWarning, UsageError
from unetcli.images import intensity_range, open_image


@pytest.mark.parametrize(("name", "data", "words"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_refused(tmp_path, name, data, words):
    path = tmp_path / name
    path.write_bytes(data)
    start = time.monotonic()
    with pytest.raises(InputError) as caught:
        read_all(path)
    assert time.monotonic() - start < 5
    assert re.search(words, caught.value.message), caught.value.message
    assert caught.value.path == path
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == data


def read_all(path, **options):
    with open_image(path, **options) as image:
        return np.stack([page[:] for page in image.pages()])


DAMAGED = [("lzw", 5), ("zlib", 8), ("jpeg", 7), ("packbits", 32773), ("zstd", 50000), ("lzma", 34925)]


@pytest.mark.parametrize(("name", "number"), DAMAGED)
def test_damaged_strips_are_named(tmp_path, name, number):
    garbage = np.random.default_rng(3).integers(0, 255, 900).astype(np.uint8).tobytes()
    path = tmp_path / "a.tif"
    path.write_bytes(raw_tiff({"width": 64, "height": 64, "compression": number, "rows": 64, "data": garbage}))
    with pytest.raises(InputError, match=rf"cannot decode strip 0 \((?i:{name})\): data damaged"):
        read_all(path)


@pytest.mark.parametrize("compression", ["lzw", "zlib", "packbits", "zstd", "jpeg"])
def test_every_cut_in_a_strip_is_noticed(tmp_path, compression):
    """A strip whose bytes end early, as the directory itself says, is refused and not filled with zeros."""
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, compression=compression, rowsperstrip=64)
    with tifffile.TiffFile(io.BytesIO(file.getvalue())) as tiff:
        offset, count = tiff.pages[0].dataoffsets[0], tiff.pages[0].databytecounts[0]
    strip = file.getvalue()[offset : offset + count]
    number = {"lzw": 5, "zlib": 8, "packbits": 32773, "zstd": 50000, "jpeg": 7}[compression]
    path = tmp_path / "a.tif"
    for share in (0.3, 0.9):
        part = strip[: int(len(strip) * share)]
        path.write_bytes(raw_tiff({"width": 64, "height": 64, "compression": number, "rows": 64, "data": part}))
        with pytest.raises(InputError, match="damaged"):
            read_all(path)


def test_names_that_lie(tmp_path):
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    (tmp_path / "a.tif").write_bytes(png(pixels))
    with pytest.warns(UnetWarning, match="is a PNG despite .tif"):
        assert (read_all(tmp_path / "a.tif")[0, :, :, 0] == pixels).all()
    tifffile.imwrite(tmp_path / "b.tif", pixels)
    (tmp_path / "b.png").write_bytes((tmp_path / "b.tif").read_bytes())
    with pytest.warns(UnetWarning, match="is a TIFF despite .png"):
        assert (read_all(tmp_path / "b.png") == read_all(tmp_path / "b.tif")).all()


def test_a_strip_that_does_not_fit_the_memory(tmp_path, monkeypatch):
    path = tmp_path / "a.tif"
    packed = zlib.compress(bytes(30000 * 3000), 9)
    path.write_bytes(raw_tiff({"width": 30000, "height": 3000, "compression": 8, "rows": 3000, "data": packed}))
    assert read_all(path).shape == (1, 3000, 30000, 1)
    monkeypatch.setattr("unetcli.images.memory.usable_memory", lambda: 200 << 20)
    with pytest.raises(ResourceError, match=r"needs 172 MiB of memory, 200 MiB may be used"):
        read_all(path)


def test_circular_pages_are_read_once(tmp_path):
    path = tmp_path / "a.tif"
    page = {"width": 8, "height": 8, "data": bytes(range(64))}
    path.write_bytes(raw_tiff(page, next_of_last=8))
    with pytest.warns(UnetWarning, match="circular"):
        assert read_all(path).shape == (1, 8, 8, 1)


@pytest.mark.parametrize("compression", ["lzw", "jpeg", "jpeg2000", "jpegxl", "lerc"])
def test_without_imagecodecs(tmp_path, compression):
    pixels = np.zeros((64, 64), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, compression=compression)
    code = f"""
        import sys
        sys.modules["imagecodecs"] = None
        from unetcli.images import open_image
        from unetcli.errors import InputError
        try:
            open_image({str(tmp_path / "a.tif")!r}).page(0)[:]
        except InputError as error:
            print(error.message, "|", error.hint)
    """
    out = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    ).stdout
    assert re.search(rf"(?i){compression}\w* compression needs imagecodecs \| pip install imagecodecs", out), out


def test_odd_bits_without_imagecodecs(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(raw_tiff({"width": 4, "height": 2, "bits": 12, "rows": 2, "data": bytes(12)}))
    code = f"""
        import sys
        sys.modules["imagecodecs"] = None
        from unetcli.images import open_image
        from unetcli.errors import InputError
        try:
            open_image({str(path)!r}).page(0)[:]
        except InputError as error:
            print(error.message, "|", error.hint)
    """
    out = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert re.search(r"12.bit.* needs imagecodecs \| pip install imagecodecs", out.stdout), out.stdout + out.stderr


@pytest.mark.parametrize("bits", [1, 2, 4, 10, 12, 14])
@pytest.mark.parametrize("order", ["<", ">"])
def test_packed_bits(tmp_path, bits, order):
    width, height = 17, 9
    rng = np.random.default_rng(bits)
    values = rng.integers(0, 1 << bits, (height, width))
    rows = []
    for row in values:
        text = "".join(format(v, f"0{bits}b") for v in row)
        rows.append(int(text.ljust(-(-len(text) // 8) * 8, "0"), 2).to_bytes(-(-len(text) // 8), "big"))
    path = tmp_path / "a.tif"
    path.write_bytes(
        raw_tiff({"width": width, "height": height, "bits": bits, "rows": 9, "data": b"".join(rows)}, order=order)
    )
    with open_image(path) as image:
        assert image.info.bits == bits
        assert image.info.dtype == (np.uint8 if bits <= 8 else np.uint16)
        assert (image.page(0)[:, :, 0] == values).all()


def test_pages_that_differ(tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        for shape in ((64, 64), (64, 64), (32, 48)):
            tiff.write(np.full(shape, shape[0], np.uint8), metadata=None)
    with pytest.raises(InputError, match="pages differ: 64x64 uint8, 32x48 uint8") as caught:
        read_all(path)
    assert "--pages" in caught.value.hint
    assert read_all(path, pages=range(0, 2)).shape == (2, 64, 64, 1)
    assert (read_all(path, pages=range(2, 3)) == 32).all()


def test_wrong_axes_and_their_remedy(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 2)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack")
    with pytest.raises(InputError, match="look wrong") as caught:
        read_all(tmp_path / "a.tif")
    assert "--axes YXC" in caught.value.hint
    assert (read_all(tmp_path / "a.tif", axes="YXC")[0] == pixels).all()
    assert read_all(tmp_path / "a.tif", axes="QYX").shape == (64, 64, 2, 1)
    with pytest.raises(InputError, match="has 3 axes"):
        read_all(tmp_path / "a.tif", axes="YX")
    for wrong in ("ZZX", "ABC", "ZX"):
        with pytest.raises(UsageError, match="--axes"):
            read_all(tmp_path / "a.tif", axes=wrong)


@pytest.mark.parametrize("count", [2, 3, 4, 5])
@pytest.mark.parametrize("metadata", [None, {}])
def test_unknown_planes_are_pages_whatever_their_number(tmp_path, count, metadata):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((count, 32, 40), np.uint8), photometric="minisblack",
                     metadata=metadata, planarconfig=None)  # fmt: skip
    with open_image(tmp_path / "a.tif") as image:
        assert (image.info.pages, image.info.channels) == (count, 1)
        assert image.info.axes == "QYX"
        assert any(f"{count} pages" in note and "--axes" in note for note in image.info.notes)


@pytest.mark.parametrize("other", ["../x.tif", "/etc/passwd", "x.tif"])
def test_ome_sets_are_refused_and_never_followed(tmp_path, other):
    folder = tmp_path / "set"
    folder.mkdir()
    for canary in (folder / "x.tif", tmp_path / "x.tif"):
        tifffile.imwrite(canary, np.full((8, 8), 77, np.uint8))
    page = {"width": 8, "height": 8, "data": bytes(64), "description": OME.format(other=other)}
    (folder / "a.tif").write_bytes(raw_tiff(page))
    opened = []
    sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
    with pytest.raises(InputError, match="belongs to a set of files"):
        read_all(folder / "a.tif")
    assert not [name for name in opened if name.endswith(("x.tif", "passwd"))]


def test_not_regular_files(tmp_path):
    with pytest.raises(InputError, match="is a directory"):
        open_image(tmp_path)
    os.mkfifo(tmp_path / "fifo.tif")
    with pytest.raises(InputError, match="not a regular file"):
        open_image(tmp_path / "fifo.tif")
    with pytest.raises(InputError, match="not a regular file"):
        open_image("/dev/zero")
    with pytest.raises(InputError, match="does not exist"):
        open_image(tmp_path / "absent.tif")


def test_file_that_shrinks_while_it_is_open(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(plain((64, 64)))
    with open_image(path) as image:
        os.truncate(path, 1000)
        with pytest.raises(InputError, match=r"truncated: \d+ bytes expected, 1000 present"):
            image.page(0)[:]


def test_too_many_open_files(tmp_path):
    (tmp_path / "a.tif").write_bytes(plain((4, 4)))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
        with pytest.raises(ResourceError, match=r"too many open files \(64\)") as caught:
            held.extend(open_image(tmp_path / "a.tif") for _ in range(100))
        assert "ulimit -n" in caught.value.hint
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for image in held:
            image.close()


def test_values_that_are_not_finite(tmp_path):
    pixels = np.random.default_rng(0).random((20, 20)).astype(np.float32)
    pixels[3, 4], pixels[5, 6] = np.nan, np.inf
    tifffile.imwrite(tmp_path / "a.tif", pixels)
    with open_image(tmp_path / "a.tif") as image, pytest.warns(UnetWarning, match=r"2 of 400 pixels \(0.5 %\)"):
        intensity_range(image)
    tifffile.imwrite(tmp_path / "b.tif", np.full((4, 4), np.nan, np.float32))
    with open_image(tmp_path / "b.tif") as image, pytest.raises(InputError, match="all pixels are NaN") as caught:
        intensity_range(image)
    assert caught.value.path == tmp_path / "b.tif"


def test_many_small_pages_in_linear_time(tmp_path):
    def seconds(count):
        tifffile.imwrite(tmp_path / "a.tif", np.zeros((count, 4, 4), np.uint8), photometric="minisblack",
                         compression="zlib", metadata={"axes": "TYX"})  # fmt: skip
        start = time.perf_counter()
        assert read_all(tmp_path / "a.tif").shape == (count, 4, 4, 1)
        return time.perf_counter() - start

    seconds(30)
    few, many = seconds(300), seconds(3000)
    assert many < 30 * few
    assert many < 10


def test_memory_stays_flat_on_a_huge_sparse_slide(tmp_path):
    """100,000 x 100,000 pixels in tiles, of which one has data."""
    across = -(-100_000 // 256)
    tile = zlib.compress(bytes([7]) * 256 * 256)
    offsets, counts = [0] * across**2, [0] * across**2
    page = {"width": 100_000, "height": 100_000, "compression": 8, "tile_width": 256, "tile_height": 256}
    at = len(raw_tiff({**page, "tile_offsets": tuple(offsets), "tile_counts": tuple(counts)}))
    offsets[5 * across + 3], counts[5 * across + 3] = at, len(tile)
    path = tmp_path / "a.tif"
    path.write_bytes(raw_tiff({**page, "tile_offsets": tuple(offsets), "tile_counts": tuple(counts)}) + tile)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with open_image(path) as image:
        assert image.info.shape == (100_000, 100_000, 1)
        source = image.page(0)
        assert (source[5 * 256 : 6 * 256, 3 * 256 : 4 * 256] == 7).all()
        assert source[5 * 256 - 1 : 5 * 256 + 1, 3 * 256 : 3 * 256 + 1].ravel().tolist() == [0, 7]
        assert (source[99_000:, 99_000:] == 0).all()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 << 10


def test_imagej_stack_that_is_cut(tmp_path):
    data = plain((6, 20, 20), dtype="uint16", imagej=True, metadata={"axes": "ZYX"})
    path = tmp_path / "a.tif"
    for cut in (1200, 3000, 4500):
        path.write_bytes(data[:-cut])
        with pytest.raises(InputError, match=rf"truncated: \d+ bytes expected, {len(data) - cut} present"):
            read_all(path)


@pytest.mark.parametrize("start", [b"\xff\x4f\xff\x51", b"\x89PNG"])
@pytest.mark.parametrize("compression", ["zlib", "lzw", "packbits", "zstd"])
def test_pixels_that_resemble_a_header(tmp_path, compression, start):
    """By chance four bytes of one in 20,000 deflated strips of 200 KB are those that a JPEG 2000 image begins with."""
    pixels = np.full((64, 64), 200, np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, 300, dtype=np.uint8).tobytes()
    pixels.flat[: len(start) + 300] = list(start + noise)
    arguments = {"level": 0} if compression == "zlib" else {}
    tifffile.imwrite(tmp_path / "a.tif", pixels, compression=compression, compressionargs=arguments)
    assert np.array_equal(np.squeeze(read_all(tmp_path / "a.tif")), pixels)


@pytest.mark.parametrize("compression", ["jpeg", "jpeg2000", "png"])
def test_a_large_image_hidden_in_a_small_strip(tmp_path, compression):
    """A strip of 64 x 64 pixels whose own header declares 60,000 x 60,000 is refused before that is allocated."""
    file = io.BytesIO()
    tifffile.imwrite(file, np.zeros((64, 64), np.uint8), compression=compression)
    with tifffile.TiffFile(io.BytesIO(file.getvalue())) as tiff:
        offset, count = tiff.pages[0].dataoffsets[0], tiff.pages[0].databytecounts[0]
        number = int(tiff.pages[0].compression)
    strip = bytearray(file.getvalue()[offset : offset + count])
    if compression == "jpeg":
        at = strip.index(b"\xff\xc0") + 5
        strip[at : at + 4] = (60000).to_bytes(2, "big") * 2
    else:
        at = 16 if compression == "png" else strip.index(b"\xff\x4f\xff\x51") + 8
        strip[at : at + 8] = (60000).to_bytes(4, "big") * 2
    path = tmp_path / "a.tif"
    path.write_bytes(raw_tiff({"width": 64, "height": 64, "compression": number, "rows": 64, "data": bytes(strip)}))
    with pytest.raises(InputError, match="declares 60000x60000 pixels in a part of 64x64"):
        read_all(path)
