"""OME-Zarr: the pixels and the geometry that zarr and ome-zarr see, and folders that are complete or absent."""

import contextlib
import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from unetcli.errors import InputError, OutputError, UsageError
from unetcli.images import ImageInfo, ImageWriter, PixelSize, check_writable, intensity_range, open_image
from unetcli.images.atomic import InputPaths, check_target
from unetcli.images.atomic_folder import atomic_folder, part_of
from unetcli.images.omezarr_encoder import Level, Store

zarr = pytest.importorskip("zarr")

VERSIONS = ("0.4", "0.5")
UNITS = {"t": "second", "z": "nanometer", "y": "micrometer", "x": "micrometer"}
SCALES = {"t": 2.5, "c": 1.0, "z": 500.0, "y": 0.25, "x": 0.125}
COLORS = ((0, 0, 0), (255, 0, 0), (0, 255, 0))


def save(folder, pixels, axes, version="0.4", *, chunks=None, scales=SCALES, shift=None, **more):
    """Write an image as other programs do."""
    format = {"0.4": 2, "0.5": 3}[version]
    types = {"t": "time", "c": "channel"}
    steps = [{"type": "scale", "scale": [scales[a] for a in axes]}]
    if shift:
        steps.append({"type": "translation", "translation": shift})
    scene = {
        "axes": [
            {"name": a, "type": types.get(a, "space"), **({"unit": UNITS[a]} if a in UNITS else {})} for a in axes
        ],
        "datasets": [{"path": "full", "coordinateTransformations": steps}],
    }
    group = zarr.open_group(folder, mode="w", zarr_format=format)
    if format == 2:
        group.attrs.update({"multiscales": [{**scene, "version": "0.4"}], **more})
    else:
        group.attrs["ome"] = {"version": "0.5", "multiscales": [scene], **more}
    array = group.create_array(
        "full", shape=pixels.shape, dtype=pixels.dtype, chunks=chunks or tuple(min(50, n) for n in pixels.shape)
    )
    array[:] = pixels
    return folder


def scan_info(**more):
    values = {
        "path": Path("scan.tif"), "format": "tiff", "axes": "YX", "file_shape": (1300, 1111), "pages": 1,
        "height": 1300, "width": 1111, "channels": 1, "dtype": np.dtype(np.uint16), "bits": 16,
        "pixel_size": PixelSize(0.5, 0.25, "µm", 2.0),
    }  # fmt: skip
    return ImageInfo(**{**values, **more})


def write(target, like, pixels, *, band=300, **more):
    """Write pixels (pages, height, width, channels) in bands that fit no chunk."""
    with ImageWriter(target, like=like, dtype=pixels.dtype, channels=pixels.shape[-1], **more) as writer:
        rows = pixels.reshape(-1, *pixels.shape[2:])
        for top in range(0, len(rows), band):
            writer.write_rows(rows[top : top + band])


def test_an_overlay_has_the_colors_of_a_picture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3)).astype(np.uint8)
    save(tmp_path / "a.zarr", np.zeros((40, 50), np.uint8), "yx")
    with open_image(tmp_path / "a.zarr") as image:
        like = image.info
    with ImageWriter(tmp_path / "o.zarr", like=like, dtype=np.uint8, channels=3, kind="overlay") as writer:
        writer.write_rows(pixels)
    with open_image(tmp_path / "o.zarr") as image:
        assert image.info.joint
        np.testing.assert_array_equal(image.page(0)[:], pixels)
    shown = json.loads((tmp_path / "o.zarr/.zattrs").read_text())["omero"]["channels"]
    assert [channel["window"]["end"] for channel in shown] == [255, 255, 255]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("axes", ["yx", "cyx", "tzyx", "tczyx", "xyz"])
def test_any_axes(tmp_path, version, axes):
    sizes = {"t": 2, "c": 3, "z": 4, "y": 70, "x": 90}
    pixels = np.random.default_rng(0).integers(0, 60000, [sizes[a] for a in axes]).astype(np.uint16)
    chunks = tuple({"z": 3, "c": 2, "y": 30, "x": 40}.get(a, 1) for a in axes)
    save(tmp_path / "a.zarr", pixels, axes, version, chunks=chunks)
    with open_image(tmp_path / "a.zarr") as image:
        info = image.info
        assert info.axes == axes.upper()
        assert info.file_shape == pixels.shape
        assert info.pixel_size == PixelSize(0.25, 0.125, "µm", 0.5 if "z" in axes else None)
        assert info.frame_interval == (2.5 if "t" in axes else None)
        order = [axes.index(a) for a in axes if a in "tz"] + [axes.index("y"), axes.index("x")]
        order += [axes.index("c")] if "c" in axes else []
        pages = pixels.transpose(order).reshape(info.pages, 70, 90, -1)
        for page, expected in zip(image.pages(), pages, strict=True):
            np.testing.assert_array_equal(page[:], expected)
            np.testing.assert_array_equal(page[29:61, 39:90], expected[29:61, 39:90])


def test_only_what_is_looked_at_is_decoded(tmp_path):
    pixels = np.arange(400 * 300).reshape(400, 300)
    save(tmp_path / "a.zarr", pixels, "yx", chunks=(100, 100))
    for damaged in ("0.0", "3.2", "2.1"):
        (tmp_path / "a.zarr/full" / damaged).write_bytes(b"nothing")
    with open_image(tmp_path / "a.zarr") as image:
        np.testing.assert_array_equal(image.page(0)[100:200, :, 0], pixels[100:200])
        with pytest.raises(InputError, match="chunk 3/2: data damaged"):
            image.page(0)[390:, 290:]


def test_axes_of_the_user(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (1, 3, 1, 40, 50)).astype(np.uint8)
    save(tmp_path / "a.zarr", pixels, "tczyx")
    with open_image(tmp_path / "a.zarr", "ZYX") as image:
        assert (image.info.pages, image.info.channels) == (3, 1)
        np.testing.assert_array_equal(image.page(2)[:, :, 0], pixels[0, 2, 0])
    with open_image(tmp_path / "a.zarr", "CTZYX", pages=range(1, 3)) as image:
        assert (image.info.pages, image.info.page_axes) == (2, "T")
    with pytest.raises(InputError, match="names 4"):
        open_image(tmp_path / "a.zarr", "TZYX")


def test_colors_share_a_range(tmp_path):
    pixels = np.stack([np.full((20, 20), 10), np.full((20, 20), 20), np.full((20, 20), 30)]).astype(np.uint8)
    shown = {"channels": [{"color": color} for color in ("FF0000", "00FF00", "0000FF")]}
    save(tmp_path / "a.zarr", pixels, "cyx", omero=shown)
    with open_image(tmp_path / "a.zarr") as image:
        assert image.info.joint
        assert intensity_range(image).high == (30, 30, 30)


def test_fields_of_a_converted_file(tmp_path):
    pixels = np.zeros((30, 30), np.uint8)
    zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2).attrs["bioformats2raw.layout"] = 3
    save(tmp_path / "a.zarr/0", pixels, "yx")
    with open_image(tmp_path / "a.zarr") as image:
        assert image.info.shape == (30, 30, 1)
    save(tmp_path / "a.zarr/1", pixels, "yx")
    with pytest.raises(InputError, match="several images"):
        open_image(tmp_path / "a.zarr")
    with open_image(tmp_path / "a.zarr/1") as image:
        assert image.info.path == tmp_path / "a.zarr/1"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", ["mask", "probabilities"])
def test_ome_zarr_reads_it(tmp_path, version, kind):
    reader, io = pytest.importorskip("ome_zarr.reader"), pytest.importorskip("ome_zarr.io")
    like = scan_info(
        pages=6, page_axes="ZT", page_shape=(3, 2), axes="ZTYX", frame_interval=1.5, origin=(0.0, 3.0, 4.0)
    )
    rng = np.random.default_rng(0)
    if kind == "mask":
        pixels = rng.integers(0, 3, (6, 1300, 1111, 1)).astype(np.uint8)
        write(tmp_path / "m.zarr", like, pixels, colormap=COLORS, store=Store(version))
    else:
        pixels = rng.random((6, 1300, 1111, 2)).astype(np.float32)
        write(tmp_path / "m.zarr", like, pixels, kind="probabilities", store=Store(version))
    location = io.parse_url(tmp_path / "m.zarr")
    assert location.fmt.version == version
    (node,) = reader.Reader(location)()
    assert ("Label" in [type(spec).__name__ for spec in node.specs]) == (kind == "mask")
    inner = "tzyx" if kind == "mask" else "tczyx"
    assert [axis["name"] for axis in node.metadata["axes"]] == list(inner)
    assert {axis["name"]: axis.get("unit") for axis in node.metadata["axes"]} | {"c": None} == {
        "t": "second", "c": None, "z": "micrometer", "y": "micrometer", "x": "micrometer",
    }  # fmt: skip
    full = np.asarray(node.data[0])
    expected = pixels.reshape(3, 2, 1300, 1111, -1).transpose(1, 4, 0, 2, 3)
    np.testing.assert_array_equal(full, expected[:, 0] if kind == "mask" else expected)
    assert [level.shape[-2:] for level in node.data] == [(1300, 1111), (650, 556), (325, 278)]
    scales = [level[0]["scale"] for level in node.metadata["coordinateTransformations"]]
    middle = [] if kind == "mask" else [1.0]
    assert scales[0] == [1.5, *middle, 2.0, 0.5, 0.25]
    assert scales[2] == [1.5, *middle, 2.0, 2.0, 1.0]
    assert node.metadata["coordinateTransformations"][0][1]["translation"][-3:] == [0.0, 3.0, 4.0]
    second = np.asarray(node.data[1])
    if kind == "mask":
        np.testing.assert_array_equal(second, full[..., ::2, ::2])
        assert node.metadata["color"][1] == [1, 0, 0, 1]
        assert node.metadata["color"][0][3] == 0  # the background is transparent
    else:
        np.testing.assert_allclose(second[..., 3, 5], full[..., 6:8, 10:12].mean(axis=(-1, -2)), atol=1e-6)
        np.testing.assert_allclose(second[..., 3, 555], full[..., 6:8, 1110].mean(axis=-1), atol=1e-6)  # odd width


@pytest.mark.parametrize("version", VERSIONS)
def test_geometry_comes_back(tmp_path, version):
    pixels = np.random.default_rng(0).integers(0, 9, (3, 60, 70)).astype(np.uint16)
    save(tmp_path / "scan.zarr", pixels, "zyx", version, shift=[100.0, 7.0, 8.0])
    with open_image(tmp_path / "scan.zarr") as scan:
        write(tmp_path / "mask.zarr", scan.info, (pixels[..., None] > 4).astype(np.uint8), store=Store(version))
        assert scan.info.origin == pytest.approx((0.1, 7.0, 8.0))
    with open_image(tmp_path / "mask.zarr") as mask:
        assert mask.info.pixel_size == scan.info.pixel_size
        assert mask.info.origin == pytest.approx(scan.info.origin)
        assert mask.info.axes == "ZYX"


def broken(folder, version, how):
    """Damage a store in one way."""
    meta = folder / {"0.4": ".zattrs", "0.5": "zarr.json"}[version]
    content = json.loads(meta.read_text())
    scene = (content if version == "0.4" else content["attributes"]["ome"])["multiscales"][0]
    if how == "no metadata":
        for name in (".zattrs", ".zgroup", "zarr.json"):
            (folder / name).unlink(missing_ok=True)
        return
    if how == "no array":
        shutil.rmtree(folder / "full")
    elif how == "damaged array":
        (folder / "full" / {"0.4": ".zarray", "0.5": "zarr.json"}[version]).write_text("{}")
    elif how == "cut":
        meta.write_text(meta.read_text()[:-40])
        return
    elif how == "outside":
        scene["datasets"][0]["path"] = "../../secret"
    elif how == "no scale":
        scene["datasets"][0]["coordinateTransformations"][0]["scale"] = [1.0]
    elif how == "negative":
        scene["datasets"][0]["coordinateTransformations"][0]["scale"] = [-1.0, 1.0]
    elif how == "axes":
        scene["axes"] = scene["axes"][:1]
    elif how == "no scene":
        scene.clear()
    elif how == "version":
        (scene if version == "0.4" else content["attributes"]["ome"])["version"] = "0.9"
    meta.write_text(json.dumps(content))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("no metadata", "has no metadata"),
        ("no array", "its array full is missing"),
        ("damaged array", "damaged array full"),
        ("cut", "damaged metadata"),
        ("outside", "leads out of the folder"),
        ("no scale", "scale of 1 numbers for 2 axes"),
        ("negative", "not above 0"),
        ("axes", "damaged metadata .axes y"),
        ("no scene", "damaged metadata"),
        ("version", "is OME-Zarr 0.9; 0.4 and 0.5"),
    ],
)
def test_damage_is_named(tmp_path, version, how, said):
    folder = save(tmp_path / "a.zarr", np.zeros((20, 20), np.uint8), "yx", version)
    broken(folder, version, how)
    with pytest.raises(InputError, match=said) as raised:
        open_image(folder)
    assert raised.value.hint


def test_plain_arrays_and_plates_are_refused(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", shape=(5, 5), dtype="u1", zarr_format=3)
    zarr.create_array(tmp_path / "b.zarr", shape=(5, 5), dtype="u1", zarr_format=2)
    zarr.open_group(tmp_path / "c.zarr", mode="w", zarr_format=2).attrs["plate"] = {}
    for name, said in (("a", "without OME metadata"), ("b", "without OME metadata"), ("c", "plate")):
        with pytest.raises(InputError, match=said):
            open_image(tmp_path / f"{name}.zarr")


@pytest.mark.parametrize("task", ["open_image('a.zarr')", "check_format('m.zarr')"])
def test_without_the_package(tmp_path, task):
    save(tmp_path / "a.zarr", np.zeros((20, 20), np.uint8), "yx")
    code = f"""
import sys
sys.modules["zarr"] = None
from unetcli.errors import UnetError
from unetcli.images import *
try:
    {task}
except UnetError as error:
    print(error, error.hint)
"""
    said = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert "needs zarr" in said
    assert "unetcli[zarr]" in said


def test_an_error_leaves_the_old_one(tmp_path):
    like = scan_info(height=20, width=20)
    write(tmp_path / "m.zarr", like, np.full((1, 20, 20, 1), 1, np.uint8))

    def failing():
        with ImageWriter(tmp_path / "m.zarr", like=like, dtype=np.uint8) as writer:
            writer.write_rows(np.full((10, 20), 2, np.uint8))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        failing()
    with open_image(tmp_path / "m.zarr") as image:
        assert (image.page(0)[:] == 1).all()
    assert [path.name for path in tmp_path.iterdir()] == ["m.zarr"]
    write(tmp_path / "m.zarr", like, np.full((1, 20, 20, 1), 3, np.uint8))
    with open_image(tmp_path / "m.zarr") as image:
        assert (image.page(0)[:] == 3).all()
    assert [path.name for path in tmp_path.iterdir()] == ["m.zarr"]


def test_a_full_disk(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(Level, "write", full)
    with pytest.raises(OutputError, match=r"m\.zarr: disk full .needs 400 bytes"):
        write(tmp_path / "m.zarr", scan_info(height=20, width=20), np.zeros((1, 20, 20, 1), np.uint8))
    assert not any(tmp_path.iterdir())


def test_other_folders_are_not_replaced(tmp_path):
    (tmp_path / "m.zarr").mkdir()
    (tmp_path / "m.zarr/thesis.txt").write_text("three years")
    with pytest.raises(OutputError, match="other files"):
        check_writable(tmp_path / "m.zarr")
    with pytest.raises(OutputError, match="other files"), atomic_folder(tmp_path / "m.zarr"):
        pass
    (tmp_path / "f.zarr").write_text("a file")
    with pytest.raises(OutputError, match="not a folder"):
        check_writable(tmp_path / "f.zarr")
    assert (tmp_path / "m.zarr/thesis.txt").exists()


def test_inputs_inside_are_not_replaced(tmp_path):
    scan = save(tmp_path / "a.zarr/0", np.zeros((20, 20), np.uint8), "yx")
    zarr.open_group(tmp_path / "a.zarr", zarr_format=2)
    with pytest.raises(UsageError, match="would replace this input"):
        check_writable(tmp_path / "a.zarr", inputs=InputPaths([scan]))


def test_two_writers_do_not_mix(tmp_path):
    """CON04: each writes a part of its own, the last complete one wins."""
    like = scan_info(height=600, width=30)
    with (
        ImageWriter(tmp_path / "m.zarr", like=like, dtype=np.uint8) as first,
        ImageWriter(tmp_path / "m.zarr", like=like, dtype=np.uint8) as second,
    ):
        for top in range(0, 600, 100):
            first.write_rows(np.full((100, 30), 1, np.uint8))
            second.write_rows(np.full((100, 30), 2, np.uint8))
            assert top or len(list(tmp_path.iterdir())) == 2
    with open_image(tmp_path / "m.zarr") as image:
        assert (image.page(0)[:] == 1).all()
    assert [path.name for path in tmp_path.iterdir()] == ["m.zarr"]


def test_many_swaps_at_once(tmp_path):
    """CON04: whoever ends last, one of them is there, and nothing else."""

    def often(number):
        for _ in range(20):
            with atomic_folder(tmp_path / "m.zarr") as part:
                (part / ".zgroup").write_text(str(number))
                (part / "more").write_text(str(number))

    threads = [threading.Thread(target=often, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.name for path in tmp_path.iterdir()] == ["m.zarr"]
    assert (tmp_path / "m.zarr/.zgroup").read_text() == (tmp_path / "m.zarr/more").read_text()


def test_a_folder_that_is_replaced_while_it_is_looked_at(tmp_path, monkeypatch):
    """What is left of the old one has no metadata any more."""
    target = tmp_path / "m.zarr"
    target.mkdir()

    def replaced(path):
        target.rename(tmp_path / "old")
        target.mkdir()
        return ["more"]

    with monkeypatch.context() as patched:
        patched.setattr(os, "listdir", replaced)
        check_target(target)
    (target / "more").touch()
    with pytest.raises(OutputError, match="other files"):
        check_target(target)


def test_a_part_is_continued_only_for_the_same_key(tmp_path):
    target = tmp_path / "m.zarr"

    def interrupted(key):
        """Return whether a run that is interrupted found what the one before left."""
        with contextlib.suppress(KeyboardInterrupt), atomic_folder(target, key=key) as part:
            before = (part / "chunk").exists()
            (part / "chunk").write_text("data")
            raise KeyboardInterrupt
        return before

    assert not interrupted("a")
    assert part_of(target).is_dir()
    assert interrupted("a")
    assert not interrupted("b")
    assert interrupted("b")
    with atomic_folder(target) as part:
        assert not any(part.iterdir())
        (part / ".zgroup").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["m.zarr"]


def test_each_process_owns_whole_chunks(tmp_path):
    """CON06: processes that write neighboring rows at once write different files, so nothing is lost."""
    like = scan_info(height=640, width=1100)
    target = tmp_path / "m.zarr"
    with (
        atomic_folder(target) as part,
        ImageWriter(target, like=like, dtype=np.uint8, store=Store(rows=64, folder=part)) as writer,
    ):
        level = writer.shared
        code = """
import pickle, sys
import numpy as np
level = pickle.load(sys.stdin.buffer)
for top in range(64 * int(sys.argv[1]), 640, 128):
    level.write(0, top, np.full((64, 1100, 1), 1 + top // 64, np.uint8))
"""
        running = [
            subprocess.Popen([sys.executable, "-c", code, str(number)], stdin=subprocess.PIPE) for number in (0, 1)
        ]
        for process in running:
            process.stdin.write(pickle.dumps(level))
            process.stdin.close()
        assert [process.wait(60) for process in running] == [0, 0]
        writer.skip_rows(640)
    with open_image(tmp_path / "m.zarr") as image:
        np.testing.assert_array_equal(image.page(0)[:, 7, 0], np.repeat(np.arange(1, 11), 64))
        assert zarr.open_array(tmp_path / "m.zarr/0", mode="r").chunks == (64, 512)


def test_nothing_is_written_into_a_scan(tmp_path):
    from unetcli.errors import UsageError
    from unetcli.images.atomic import InputPaths, check_writable

    (tmp_path / "scan.zarr").mkdir()
    check_writable(tmp_path / "mask.zarr", inputs=InputPaths([tmp_path / "scan.zarr"]))
    for name in ("scan.zarr/mask.zarr", "scan.zarr/labels/mask.tif"):
        with pytest.raises(UsageError, match="would lie inside the input"):
            check_writable(tmp_path / name, inputs=InputPaths([tmp_path / "scan.zarr"]))
    assert list((tmp_path / "scan.zarr").iterdir()) == []
