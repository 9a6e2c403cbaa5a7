"""Scans and masks that are OME-Zarr, through the commands."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import tifffile
from faults.harness import FAST
from images.test_omezarr import save

from unetcli.cli import run
from unetcli.images import PixelSize, open_image
from unetcli.images.planes import SegmentCache

zarr = pytest.importorskip("zarr")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model for gray images, and the folder it lies in."""
    folder = tmp_path_factory.mktemp("zarr")
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (folder / "cells" / kind).mkdir(parents=True)
    for number in range(4):
        inside = np.kron(rng.random((9, 9)) < 0.4, np.ones((8, 8), bool))
        image = (1000 + 3000 * inside + rng.normal(0, 300, inside.shape)).astype(np.uint16)
        tifffile.imwrite(folder / f"cells/images/c{number}.tif", image)
        save(folder / f"cells/masks/c{number}.zarr", np.where(inside, 255, 0).astype(np.uint8), "yx")
    arguments = ["train", str(folder / "cells"), "-o", str(folder / "m.safetensors"), *FAST, "-q"]
    assert run(arguments) == 0  # images are TIFF, masks are OME-Zarr
    return folder / "m.safetensors"


def stack(seed=0, pages=3, height=150, width=130):
    return np.random.default_rng(seed).integers(500, 5000, (pages, height, width)).astype(np.uint16)


@pytest.mark.parametrize(
    ("kind", "version"), [("mask", "0.4"), ("classes", "0.5"), ("instances", "0.4"), ("probabilities", "0.5")]
)
def test_same_as_tiff(model, tmp_path, monkeypatch, kind, version):
    """A scan in either format gives the same result in either format, lying on the scan."""
    monkeypatch.chdir(tmp_path)
    tifffile.imwrite("a.tif", stack(), metadata={"axes": "ZYX"}, photometric="minisblack")
    save(tmp_path / "a.zarr", stack(), "zyx", version)
    more = ["-m", str(model), "--output-kind", kind, "--tile", "100", "--threads", "1", "-q"]
    assert run(["infer", "a.tif", "-o", "t.tif", *more]) == 0
    assert run(["infer", "a.zarr", "-o", "m.zarr", "--ngff", version, *more]) == 0
    with open_image("t.tif") as expected, open_image("m.zarr") as found:
        assert found.info.axes == ("CZYX" if kind == "probabilities" else "ZYX")
        assert found.info.pixel_size == PixelSize(0.25, 0.125, "µm", 0.5)
        for page, other in zip(found.pages(), expected.pages(), strict=True):
            np.testing.assert_array_equal(page[:], other[:])
    assert (tmp_path / "m.zarr" / {"0.4": ".zgroup", "0.5": "zarr.json"}[version]).is_file()
    if kind == "mask":
        assert run(["evaluate", "m.zarr", "t.tif", "-q", "--fail-under", "dice=1"]) == 0


def test_folders_of_stores(model, tmp_path, monkeypatch):
    """A store is an image among those of a folder, not a folder of images; parts are nothing."""
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "scans/a.ome.zarr", stack(1, 1)[0], "yx")
    save(tmp_path / "scans/b.zarr", stack(2, 1)[0], "yx")
    save(tmp_path / "scans/c.zarr.part", stack(2, 1)[0], "yx")
    (tmp_path / "scans/c.zarr.part/.zgroup").unlink()
    (tmp_path / "scans/c.zarr.part/.zattrs").unlink()
    tifffile.imwrite("scans/d.tif", stack(3, 1)[0])
    assert run(["infer", "scans", "-o", "masks", "-m", str(model), "--threads", "1", "-q"]) == 0
    assert sorted(path.name for path in Path("masks").iterdir()) == ["a.tif", "b.tif", "d.tif"]
    assert run(["infer", "scans/b.zarr/", "-o", "again.zarr/", "-m", str(model), "--threads", "1", "-q"]) == 0
    assert (
        run(["infer", "scans/b.zarr", "-o", "again.zarr", "-m", str(model), "--threads", "1", "-q", "--skip-existing"])
        == 0
    )
    Path("truth").mkdir()
    Path("again.zarr").rename("truth/b.zarr")
    Path("masks/a.tif").unlink()
    Path("masks/d.tif").unlink()
    assert run(["evaluate", "masks", "truth", "-q", "--fail-under", "dice=1"]) == 0


def test_stores_are_not_mixed_up(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "a.zarr", stack(1, 1)[0], "yx")
    assert run(["infer", "a.zarr", "-o", "a.zarr", "-m", str(model)]) == 2
    assert "would replace this input" in capsys.readouterr().err
    (tmp_path / "notes.zarr").mkdir()
    (tmp_path / "notes.zarr/note.txt").touch()
    assert run(["infer", "a.zarr", "-o", "notes.zarr", "-m", str(model)]) == 5
    assert "other files" in capsys.readouterr().err
    assert run(["infer", "a.zarr", "-o", "m.zarr", "-m", str(model), "--ngff", "3"]) == 2
    assert "--ngff 0.4" in capsys.readouterr().err
    (tmp_path / "a.zarr/.zattrs").write_text("{")
    assert run(["infer", "a.zarr", "-o", "m.zarr", "-m", str(model)]) == 3
    assert "damaged metadata" in capsys.readouterr().err
    assert not Path("m.zarr").exists()
    assert not Path("m.zarr.part").exists()


@pytest.mark.slow
def test_memory_does_not_grow(model, tmp_path, monkeypatch):
    """A scan is read chunk by chunk, and its mask written so: four times the rows take no more memory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(SegmentCache.__init__, "__defaults__", (1 << 20,))
    peaks = []
    for height in (4096, 16384):
        array = np.zeros((height, 512), np.uint16)
        save(tmp_path / "a.zarr", array, "yx", chunks=(256, 256))
        arguments = ["infer", "a.zarr", "-o", "m.zarr", "-m", str(model), "--tile", "572", "-q"]
        assert run(arguments) == 0  # what is loaded once is loaded now
        tracemalloc.start()
        assert run(arguments) == 0
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + array.nbytes / 8


def test_selected_pages_lie_where_they_lie(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "a.zarr", stack(pages=5), "zyx")
    with open_image("a.zarr") as scan:
        began = scan.info.origin or (0.0, 0.0, 0.0)
    assert run(["infer", "a.zarr", "-o", "m.zarr", "--pages", "3-4", "-m", str(model), "-q"]) == 0
    with open_image("m.zarr") as found:
        assert found.info.origin == pytest.approx((began[0] + 3 * 0.5, *began[1:]))
