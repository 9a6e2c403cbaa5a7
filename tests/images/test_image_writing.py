"""Writing: what comes back, what viewers see, and what is left when something fails."""

import contextlib
import errno
import io
import os
import resource
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Picture

from unetcli.errors import OutputError, UsageError
from unetcli.images import ImageInfo, ImageWriter, PixelSize, atomic_path, check_format, check_writable, open_image
from unetcli.images.atomic import InputPaths
from unetcli.images.tiff_descriptions import describe

ROOT = Path(__file__).resolve().parents[2]


def info_of(page_axes="", page_shape=(), height=20, width=30, **more):
    axes, shape = page_axes + "YX", (*page_shape, height, width)
    return ImageInfo(
        path=Path("input.tif"), format="tiff", axes=axes, file_shape=shape, pages=int(np.prod(page_shape)),
        height=height, width=width, channels=1, dtype=np.dtype(np.uint8), bits=8, page_axes=page_axes,
        page_shape=tuple(page_shape), **more,
    )  # fmt: skip


def write(path, pages, like, chunk=7, **options):
    """Write pages (n, height, width, channels) in chunks of rows."""
    rows = pages.reshape(-1, *pages.shape[2:])
    with ImageWriter(path, like=like, dtype=pages.dtype, channels=pages.shape[3], **options) as writer:
        for start in range(0, len(rows), chunk):
            writer.write_rows(rows[start : start + chunk])


def read(path, **options):
    with open_image(path, **options) as image:
        return image.info, np.stack([page[:] for page in image.pages()])


units = st.sampled_from(["µm", "nm", "mm", "inch", "cm"])
geometries = st.builds(
    info_of,
    page_axes=st.sampled_from(["", "Z", "T", "TZ", "Q"]),
    height=st.integers(1, 30),
    width=st.integers(1, 300),
    flavor=st.sampled_from(["plain", "imagej", "ome"]),
    pixel_size=st.none() | st.builds(PixelSize, st.floats(0.01, 100), st.floats(0.01, 100), units),
    frame_interval=st.none() | st.floats(0.1, 100),
)


@given(geometries, st.sampled_from(["uint8", "uint16", "uint32", "float16", "float32"]), st.integers(1, 3), st.data())
def test_pages_and_geometry_come_back(tmp_path_factory, like, dtype, channels, data):
    sizes = {"": (), "Z": (3,), "T": (4,), "Q": (3,), "TZ": (2, 3)}[like.page_axes]
    like = info_of(like.page_axes, sizes, like.height, like.width, flavor=like.flavor, pixel_size=like.pixel_size,
                   frame_interval=like.frame_interval)  # fmt: skip
    rng = np.random.default_rng(0)
    pages = (rng.random((like.pages, like.height, like.width, channels)) * 300).astype(dtype)
    ome = data.draw(st.booleans()) and dtype != "float16"
    path = tmp_path_factory.mktemp("round") / ("a.ome.tif" if ome else "a.tif")
    write(path, pages, like, chunk=data.draw(st.integers(1, 40)))
    info, back = read(path)
    assert (back == pages).all()
    assert back.dtype == pages.dtype
    assert info.channels == channels
    if like.page_axes == "Q":  # neither OME nor a hyperstack has a word for it
        assert info.page_axes in ("Q", "Z")
    else:
        assert info.page_axes == like.page_axes
    assert info.page_shape == like.page_shape
    same_size(like.pixel_size, info.pixel_size)
    with tifffile.TiffFile(path) as tiff:  # another reader agrees
        assert (tiff.asarray().reshape(like.pages, channels, like.height, like.width) == np.moveaxis(pages, 3, 1)).all()
        assert len(tiff.pages) == like.pages * channels


def same_size(expected, found):
    if expected is None:
        assert found is None
        return
    one, other = expected.in_micrometers(), found.in_micrometers()
    assert one.x == pytest.approx(other.x, rel=1e-6)
    assert one.y == pytest.approx(other.y, rel=1e-6)


def test_slice_distance_and_frame_interval(tmp_path):
    size = PixelSize(0.2, 0.1, "µm", z=1.5)
    for flavor, name in (("imagej", "a.tif"), ("plain", "a.tif"), ("ome", "a.tif"), ("plain", "a.ome.tif")):
        like = info_of("TZ", (2, 3), flavor=flavor, pixel_size=size, frame_interval=2.5)
        write(tmp_path / name, np.zeros((6, 20, 30, 1), np.uint8), like)
        info, _ = read(tmp_path / name)
        assert info.pixel_size == PixelSize(pytest.approx(0.2), pytest.approx(0.1), "µm", pytest.approx(1.5))
        assert info.frame_interval == 2.5


@pytest.mark.parametrize("values", [(0, 255), (0, 1), (0, 1, 2), (0, 700)])
def test_masks_are_seen_in_fiji(tmp_path, values):
    dtype = np.uint8 if max(values) < 256 else np.uint16
    pages = np.random.default_rng(0).choice(np.array(values, dtype), (3, 20, 30, 1))
    write(tmp_path / "a.tif", pages, info_of("Z", (3,)))
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert tiff.is_imagej
        shown = tiff.imagej_metadata
        assert (shown["min"], shown["max"]) == (0, max(values))
        assert shown["slices"] == 3
        assert tiff.pages[0].compression == 8
        assert not tiff.pages[0].is_tiled  # ImageJ reads no tiles


def test_probabilities_are_a_hyperstack_shown_from_0_to_1(tmp_path):
    pages = np.random.default_rng(0).random((6, 20, 30, 3)).astype(np.float32)
    write(tmp_path / "a.tif", pages, info_of("TZ", (2, 3)), kind="probabilities")
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        shown = tiff.imagej_metadata
        assert (shown["frames"], shown["slices"], shown["channels"], shown["images"]) == (2, 3, 3, 18)
        assert shown["hyperstack"] is True
        assert tuple(shown["Ranges"]) == (0, 1) * 3


def test_an_empty_mask_is_not_shown_as_white(tmp_path):
    write(tmp_path / "a.tif", np.zeros((1, 20, 30, 1), np.uint8), info_of())
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert tiff.imagej_metadata["max"] > 0


@pytest.mark.parametrize("name", ["a.tif", "a.png"])
def test_colors(tmp_path, name):
    table = ((0, 0, 0), (255, 10, 0), (3, 200, 77))
    pages = np.random.default_rng(0).integers(0, 3, (1, 20, 30, 1)).astype(np.uint8)
    write(tmp_path / name, pages, info_of(), colormap=table)
    info, back = read(tmp_path / name, palette="indices")
    assert (back == pages).all()
    assert info.colormap[:3] == table
    assert (read(tmp_path / name)[1][0] == np.array(table, np.uint8)[pages[0, :, :, 0]]).all()
    if name == "a.png":
        assert (np.asarray(Picture.open(tmp_path / name).convert("RGB")) == np.array(table)[pages[0, :, :, 0]]).all()


@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.ome.tif"])
def test_overlays(tmp_path, name):
    pages = np.random.default_rng(0).integers(0, 255, (1, 20, 30, 3)).astype(np.uint8)
    write(tmp_path / name, pages, info_of(), kind="overlay")
    info, back = read(tmp_path / name)
    assert (back == pages).all()
    assert info.joint


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png(tmp_path, dtype):
    pages = (np.random.default_rng(0).random((1, 20, 30, 1)) * 65535).astype(dtype)
    write(tmp_path / "a.png", pages, info_of(pixel_size=PixelSize(0.5, 0.25, "µm")))
    info, back = read(tmp_path / "a.png")
    assert (back == pages).all()
    assert info.pixel_size.in_micrometers().x == pytest.approx(0.25, rel=1e-4)
    assert (np.asarray(Picture.open(tmp_path / "a.png")) == pages[0, :, :, 0]).all()


def test_stream(tmp_path):
    pages = np.random.default_rng(0).integers(0, 255, (3, 20, 30, 1)).astype(np.uint8)
    stream = io.BytesIO()
    write(stream, pages, info_of("Z", (3,)))
    stream.seek(0)
    info, back = read(stream, name="stdin")
    assert (back == pages).all()
    assert info.axes == "ZYX"


def test_bigtiff_when_it_must_be(tmp_path, monkeypatch):
    monkeypatch.setattr("unetcli.images.tiff_encoder._CLASSIC_LIMIT", 1000)
    pages = np.random.default_rng(0).integers(0, 255, (2, 300, 520, 1)).astype(np.uint8)
    write(tmp_path / "a.tif", pages, info_of("Z", (2,), 300, 520), chunk=100)
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert tiff.is_bigtiff
        assert tiff.pages[0].is_tiled
        assert (tiff.asarray() == pages[:, :, :, 0]).all()
    info, back = read(tmp_path / "a.tif")
    assert (back == pages).all()
    assert info.axes == "ZYX"


def test_ome_is_valid_for_others(tmp_path):
    like = info_of("ZT", (2, 3), flavor="ome", pixel_size=PixelSize(0.2, 0.1, "µm", 3.0))
    text = describe(like, np.dtype(np.uint8), 2, 1, ome=False, big=False, shown=None)
    write(tmp_path / "a.tif", np.zeros((6, 20, 30, 2), np.uint8), like)
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert tiff.ome_metadata == text
        assert (tiff.series[0].axes, tiff.series[0].shape) == ("ZTCYX", (2, 3, 2, 20, 30))
    assert 'DimensionOrder="XYCTZ"' in text
    assert 'SizeC="2" SizeZ="2" SizeT="3"' in text


# What must hold when something fails.


def leftovers(folder):
    return sorted(path.name for path in folder.iterdir())


def test_an_error_in_the_block_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(b"old")
    before = threading.active_count()

    def interrupted():
        with ImageWriter(path, like=info_of(), dtype=np.uint8) as writer:
            writer.write_rows(np.zeros((5, 30), np.uint8))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert leftovers(tmp_path) == ["a.tif"]
    assert threading.active_count() == before


@pytest.mark.parametrize("name", ["a.tif", "a.png"])
def test_full_disk(tmp_path, name):
    """A limit on the file size stops writing as a full disk does."""
    path = tmp_path / name
    path.write_bytes(b"old")
    rng = np.random.default_rng(0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
        with pytest.raises(OutputError, match=r"disk full \(needs 1.9 MiB\)") as caught:
            write(path, rng.integers(0, 255, (1, 1000, 2000, 1)).astype(np.uint8), info_of("", (), 1000, 2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.path == path
    assert path.read_bytes() == b"old"
    assert leftovers(tmp_path) == [name]


def test_full_disk_when_synchronizing(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="disk full"):
        write(tmp_path / "a.tif", np.zeros((1, 20, 30, 1), np.uint8), info_of())
    assert leftovers(tmp_path) == []


def test_reader_of_the_stream_goes_away():
    class Closed(io.BytesIO):
        def write(self, data):
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    with pytest.raises(BrokenPipeError):
        write(Closed(), np.zeros((1, 20, 30, 1), np.uint8), info_of())


def test_link_is_replaced_not_followed(tmp_path):
    (tmp_path / "precious").write_bytes(b"old")
    (tmp_path / "a.tif").symlink_to(tmp_path / "precious")
    write(tmp_path / "a.tif", np.zeros((1, 20, 30, 1), np.uint8), info_of())
    assert (tmp_path / "precious").read_bytes() == b"old"
    assert not (tmp_path / "a.tif").is_symlink()


@pytest.mark.parametrize("mask", [0o077, 0o022, 0o000])
def test_permissions_follow_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        write(tmp_path / "a.tif", np.zeros((1, 20, 30, 1), np.uint8), info_of())
    finally:
        os.umask(before)
    assert (tmp_path / "a.tif").stat().st_mode & 0o777 == 0o666 & ~mask


def test_devices_and_folders_are_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "a.tif")
    for target, words in ((tmp_path, "is a directory"), (tmp_path / "a.tif", "is a device or a pipe")):
        with pytest.raises(OutputError, match=words), atomic_path(target):
            pass
    (tmp_path / "null.tif").symlink_to("/dev/null")
    with pytest.raises(OutputError, match="device"):
        check_writable(tmp_path / "null.tif")


def test_what_a_killed_process_left_is_removed(tmp_path):
    code = f"""
        import os, signal, sys
        sys.path.insert(0, {str(ROOT)!r})
        from unetcli.images import atomic_path
        with atomic_path({str(tmp_path / "a.tif")!r}) as path:
            path.write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert len(leftovers(tmp_path)) == 1
    with atomic_path(tmp_path / "a.tif") as living, atomic_path(tmp_path / "a.tif") as other:
        assert len(leftovers(tmp_path)) == 2  # that of a living process stays
        living.write_bytes(b"one")
        other.write_bytes(b"two")
    assert leftovers(tmp_path) == ["a.tif"]
    assert (tmp_path / "a.tif").read_bytes() == b"one"


def test_long_and_odd_names(tmp_path):
    for name in ("x" * 251 + ".tif", "é [1]\n.tif", "-a.tif", os.fsdecode(b"\xe9.tif")):
        write(tmp_path / name, np.ones((1, 20, 30, 1), np.uint8), info_of())
        assert read(tmp_path / name)[1].all()
    assert len(leftovers(tmp_path)) == 4


@pytest.mark.parametrize(
    ("name", "words"),
    [("a.jpg", "JPEG would damage labels"), ("a.jpeg", "JPEG would damage"), ("a.xyz", "unknown extension"),
     ("a", "no extension")],
)  # fmt: skip
def test_extensions_that_cannot_be_written(tmp_path, name, words):
    with pytest.raises(UsageError, match=words) as caught:
        check_format(tmp_path / name)
    assert ".tif" in caught.value.hint


def test_what_png_cannot_hold(tmp_path):
    with pytest.raises(UsageError, match="3 pages do not fit a PNG"):
        ImageWriter(tmp_path / "a.png", like=info_of("Z", (3,)), dtype=np.uint8)
    with pytest.raises(UsageError, match="not opened again"):
        ImageWriter(tmp_path / "a.png", like=info_of(height=16384, width=16384), dtype=np.uint8)
    with pytest.raises(UsageError, match="PNG cannot hold"):
        ImageWriter(tmp_path / "a.png", like=info_of(), dtype=np.float32)


def test_probe_before_the_work(tmp_path):
    check_writable(tmp_path / "new" / "folder" / "a.tif")
    assert leftovers(tmp_path / "new" / "folder") == []
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot be written"):
        check_writable(tmp_path / "file" / "a.tif")
    with pytest.raises(OutputError, match="is a directory"):
        check_writable(tmp_path / "new")
    tifffile.imwrite(tmp_path / "in.tif", np.zeros((4, 4), np.uint8))
    (tmp_path / "link.tif").symlink_to("in.tif")
    for output in ("in.tif", "link.tif", "new/../in.tif"):
        with pytest.raises(UsageError, match="would replace this input"):
            check_writable(tmp_path / output, inputs=InputPaths([tmp_path / "in.tif"]))


def test_read_only_place(tmp_path):
    """As another user where this is root, whom permissions do not stop."""
    tmp_path.chmod(0o555)
    code = f"""
        import os, sys
        sys.path.insert(0, {str(ROOT)!r})
        from unetcli.errors import OutputError
        from unetcli.images import check_writable
        if os.getuid() == 0:
            os.setresuid(65534, 65534, 65534)
        try:
            check_writable({str(tmp_path / "a.tif")!r})
        except OutputError as error:
            print(error.message)
    """
    for folder in tmp_path.parents:
        with contextlib.suppress(OSError):
            folder.chmod(folder.stat().st_mode | 0o055)
    out = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    tmp_path.chmod(0o755)
    if "PermissionError" in out.stderr or "ModuleNotFoundError" in out.stderr:
        pytest.skip("another user cannot read the program here")
    assert "cannot be written: permission denied" in out.stdout, out.stderr


def test_compression_overlaps_with_computing_and_memory_is_bounded(tmp_path, monkeypatch):
    """A slow disk holds the rows back after a few strips; nothing piles up."""
    like = info_of("", (), 6000, 1000)
    most = 0
    with ImageWriter(tmp_path / "a.tif", like=like, dtype=np.uint8) as writer:
        encoder = writer._encoder
        store, lock, waiting = encoder._store, threading.Lock(), [0]

        def slow(plane, packed):
            time.sleep(0.005)
            store(plane, packed)
            with lock:
                waiting[0] -= 1

        monkeypatch.setattr(encoder, "_store", slow)
        for _ in range(6000 // 100):
            writer.write_rows(np.zeros((100, 1000), np.uint8))
            with lock:
                waiting[0] += 100 / encoder._segment_rows
                most = max(most, waiting[0])
    assert most < 14
    assert not read(tmp_path / "a.tif")[1].any()
