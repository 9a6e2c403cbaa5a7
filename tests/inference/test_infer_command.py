"""``unet infer`` with a model made by hand, whose result is known: geometry, sizes, memory, thresholds, types."""

import csv
import errno
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from handmade import describe, write_model
from oracles import objects_of

from unetcli.cli import run
from unetcli.dataset.labels import LabelCoding
from unetcli.images import open_image
from unetcli.inference import infer as inference
from unetcli.models import build_network, unet
from unetcli.models.modelfile import read_description, save_model

DARK, BRIGHT = 20, 200


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for kind in ("mask", "instances"):
        write_model(tmp_path / f"{kind}.safetensors", kind, training={"threshold": 0.9})
    return tmp_path


def drawn(*shape, seed=0):
    """Bright squares on dark ground; the first pixel is bright and the last one dark."""
    rng = np.random.default_rng(seed)
    coarse = rng.random([-(-size // 3) for size in shape]) < 0.4
    pixels = np.where(np.kron(coarse, np.ones([3] * len(shape)))[tuple(map(slice, shape))] > 0, BRIGHT, DARK)
    pixels.flat[0], pixels.flat[-1] = BRIGHT, DARK
    return pixels.astype(np.uint8)


def assert_found(mask, image, kind):
    """Fail unless the pages of a mask (..., H, W) are what is bright in the image."""
    for page, pixels in zip(mask.reshape(-1, *mask.shape[-2:]), image.reshape(-1, *image.shape[-2:]), strict=True):
        bright = (pixels == BRIGHT).astype(np.uint8)
        np.testing.assert_array_equal(page, objects_of(bright) if kind == "instances" else bright * 255)


def infer(scan, output, kind="mask", *more):
    return run(["infer", scan, "-o", output, "-m", f"{kind}.safetensors", "--precision", "fp32", "-q", *map(str, more)])


def error(capsys):
    return capsys.readouterr().err


@pytest.mark.parametrize("kind", ["mask", "instances"])
def test_an_imagej_stack_keeps_its_geometry(place, kind):
    stack = drawn(2, 3, 40, 50)
    metadata = {"axes": "TZYX", "unit": "um", "spacing": 1.5, "finterval": 2.0}
    tifffile.imwrite("scan.tif", stack, imagej=True, resolution=(4, 2), metadata=metadata)
    assert infer("scan.tif", "m.tif", kind) == 0
    with tifffile.TiffFile("scan.tif") as scan, tifffile.TiffFile("m.tif") as mask:
        assert mask.series[0].axes == "TZYX"
        assert mask.series[0].shape == (2, 3, 40, 50)
        for key in ("frames", "slices", "spacing", "finterval", "images", "hyperstack"):
            assert mask.imagej_metadata[key] == scan.imagej_metadata[key], key
        assert mask.imagej_metadata["unit"] in ("micron", "um", "µm")
        for tag in ("XResolution", "YResolution"):
            one, other = (file.pages[0].tags[tag].value for file in (scan, mask))
            assert one[0] / one[1] == other[0] / other[1]
        assert_found(mask.asarray(), stack, kind)


@pytest.mark.parametrize("output", ["m.ome.tif", "m.tif"])
@pytest.mark.parametrize("kind", ["mask", "instances"])
def test_an_ome_tiff_keeps_its_geometry(place, output, kind):
    stack = drawn(3, 40, 50)
    metadata = {"axes": "ZYX", "PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 500.0,
                "PhysicalSizeYUnit": "nm", "PhysicalSizeZ": 2.0, "PhysicalSizeZUnit": "µm"}  # fmt: skip
    tifffile.imwrite("scan.ome.tif", stack, metadata=metadata)
    assert infer("scan.ome.tif", output, kind) == 0
    with tifffile.TiffFile(output) as mask:
        assert mask.is_ome
        assert (mask.series[0].axes, mask.series[0].shape) == ("ZYX", (3, 40, 50))
        assert_found(mask.asarray(), stack, kind)
    with open_image("scan.ome.tif") as scan, open_image(output) as mask:
        one, other = scan.info.pixel_size.in_micrometers(), mask.info.pixel_size.in_micrometers()
        assert (other.x, other.y, other.z) == pytest.approx((one.x, one.y, one.z)) == (0.25, 0.5, 2.0)
        assert mask.info.axes == scan.info.axes


@pytest.mark.parametrize("output", ["m.nii.gz", "m.nii"])
@pytest.mark.parametrize("kind", ["mask", "instances"])
def test_a_nifti_keeps_its_geometry(place, output, kind):
    nibabel = pytest.importorskip("nibabel")
    affine = np.array([[-0.7, 0.1, 0, 90], [0.1, 0.8, 0, -120], [0, 0, 2.5, 7], [0, 0, 0, 1]])
    volume = drawn(50, 40, 3)
    scan = nibabel.Nifti1Image(volume, affine)
    scan.header.set_xyzt_units("mm", "sec")
    nibabel.save(scan, "scan.nii.gz")
    assert infer("scan.nii.gz", output, kind) == 0
    mask = nibabel.load(output)
    np.testing.assert_allclose(mask.affine, affine, atol=1e-5)
    np.testing.assert_allclose(mask.header.get_zooms(), scan.header.get_zooms(), rtol=1e-6)
    assert mask.header.get_xyzt_units()[0] == "mm"
    assert_found(np.asarray(mask.dataobj).T, volume.T, kind)


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (700, 1), (2, 333), (17, 23), (3, 3)])
@pytest.mark.parametrize("kind", ["mask", "instances"])
def test_thin_and_small_images(place, shape, kind):
    """Also with a tile far larger, and one far smaller, than the image."""
    image = drawn(*shape)
    tifffile.imwrite("scan.tif", image, photometric="minisblack")
    for tile in ("auto", "60", "2000"):
        assert infer("scan.tif", "m.tif", kind, "--tile", tile, "--objects", "o.csv") == 0
        mask = tifffile.imread("m.tif")
        assert mask.shape == shape
        if image.min() < image.max():
            assert_found(mask, image, kind)
        if kind == "instances":
            assert mask.max() == len((place / "o.csv").read_text().splitlines()) - 1


@pytest.mark.parametrize("kind", ["mask", "instances"])
def test_lack_of_memory_changes_no_pixel(place, kind, monkeypatch, capsys):
    tifffile.imwrite("scan.tif", drawn(300, 260), photometric="minisblack")
    more = ("--tile", "300", "--objects", "o.csv", "--overlay", "o.png")
    assert infer("scan.tif", "m.tif", kind, *more) == 0
    names = ("m.tif", "o.csv", "o.png")
    before = [(place / name).read_bytes() for name in names]
    forward = unet.UNet.forward

    def small_memory(self, tiles):
        if isinstance(tiles, torch.Tensor) and tiles.device.type != "meta" and tiles.shape[-1] > 160:
            raise torch.OutOfMemoryError("out of memory")
        return forward(self, tiles)

    monkeypatch.setattr(unet.UNet, "forward", small_memory)
    assert run(["infer", "scan.tif", "-o", "m.tif", "-m", f"{kind}.safetensors", "--precision", "fp32", *more]) == 0
    assert "out of memory: going on with tiles of" in error(capsys)
    assert [(place / name).read_bytes() for name in names] == before


def test_a_learned_threshold(place, capsys):
    ramp = np.tile(np.arange(256, dtype=np.uint8), (30, 1))
    tifffile.imwrite("scan.tif", ramp, photometric="minisblack")
    results = {}
    for threshold in ("0.5", "0.9", "auto"):
        arguments = ["infer", "scan.tif", "-o", "m.tif", "-m", "mask.safetensors", "--threshold", threshold]
        assert run([*arguments, "--precision", "fp32"]) == 0
        said = error(capsys)
        assert ("threshold: 0.9 (the best on validation)" in said) == (threshold == "auto")
        results[threshold] = tifffile.imread("m.tif")
    np.testing.assert_array_equal(results["auto"], results["0.9"])
    assert (results["auto"] > 0).sum() < (results["0.5"] > 0).sum()
    write_model("other.safetensors", training={"threshold": 0.7})
    both = ["-m", "mask.safetensors", "-m", "other.safetensors", "--threshold", "auto"]
    assert run(["infer", "scan.tif", "-o", "m.tif", *both]) == 0
    assert "threshold: 0.8" in error(capsys)


@pytest.mark.parametrize("training", [{}, {"threshold": None}, {"threshold": 1.5}, {"threshold": "0.5"}])
def test_models_without_a_threshold(place, capsys, training):
    tifffile.imwrite("scan.tif", drawn(30, 30), photometric="minisblack")
    write_model("old.safetensors", training=training)
    arguments = ["infer", "scan.tif", "-o", "m.tif", "-m", "mask.safetensors", "-m", "old.safetensors"]
    assert run([*arguments, "--threshold", "auto"]) == 4
    said = error(capsys)
    assert "error: old.safetensors: holds no learned threshold: it was not validated" in said
    assert "hint: --threshold 0.5" in said
    assert not (place / "m.tif").exists()
    assert run(arguments) == 0


def test_types_of_probabilities(place, capsys):
    ramp = np.tile(np.arange(256, dtype=np.uint8), (30, 1))
    tifffile.imwrite("scan.tif", ramp, photometric="minisblack")
    assert infer("scan.tif", "p32.tif", "mask", "--output-kind", "probabilities") == 0
    half = ("--probability-type", "float16")
    assert infer("scan.tif", "p16.tif", "mask", "--output-kind", "probabilities", *half) == 0
    assert infer("scan.tif", "m.tif", "mask", "--probabilities", "extra.tif", *half) == 0
    full, less, extra = (tifffile.imread(name) for name in ("p32.tif", "p16.tif", "extra.tif"))
    assert (full.dtype, less.dtype, full.shape) == (np.float32, np.float16, (2, 30, 256))
    np.testing.assert_array_equal(full.astype(np.float16), less)
    np.testing.assert_array_equal(less, extra)
    assert full.std() > 0.3
    assert infer("scan.tif", "x.tif", "mask", "--probability-type", "float64") == 2
    assert "hint: --probability-type takes float32 or float16" in error(capsys)


def test_several_outputs_of_one_pass_agree(place):
    image = drawn(3, 90, 70)
    tifffile.imwrite("scan.tif", image, imagej=True, metadata={"axes": "ZYX"})
    more = ("--objects", "o.csv", "--overlay", "o.png", "--probabilities", "p.tif", "--fill-holes", "--min-size", "4")
    assert infer("scan.tif", "m.tif", "instances", *more, "--json", "r.json") == 0
    ids = tifffile.imread("m.tif")
    with (place / "o.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {int(row["page"]) for row in rows} == {0, 1, 2}
    for row in rows:
        assert (ids[int(row["page"])] == int(row["id"])).sum() == int(row["area"]) >= 4
    (output,) = json.loads((place / "r.json").read_text())["outputs"]
    assert output["objects"] == len(rows) == sum(page.max() for page in ids)
    assert sorted(path.name for path in place.glob("o_*.png")) == ["o_0000.png", "o_0001.png", "o_0002.png"]


@pytest.mark.parametrize("option", ["--objects", "--overlay", "--probabilities", "--json"])
def test_two_results_in_one_file_are_refused(place, capsys, option):
    tifffile.imwrite("scan.tif", drawn(40, 50))
    assert infer("scan.tif", "m.tif", "mask", option, f"../{place.name}/m.tif") == 2
    assert "m.tif: two results would be written to it" in error(capsys)
    assert option == "--json" or not (place / "m.tif").exists()  # else it holds the document that says so


def test_tiles_that_are_far_too_small_are_named(place, capsys):
    tifffile.imwrite("scan.tif", drawn(40, 50))
    command = ["infer", "scan.tif", "-m", "mask.safetensors", "--precision", "fp32", "-o", "m.tif"]
    assert run([*command, "--tile", "1"]) == 0
    assert "hint: tiles of 44 pixels write only 4 of them; --tile auto is many times faster" in error(capsys)
    assert run([*command, "--tile", "100"]) == 0
    assert "hint" not in error(capsys)


@pytest.mark.parametrize("name", ["scan.tif", "-"])
def test_selected_pages_are_scaled_like_the_whole_file(place, name, monkeypatch):
    """Also from a pipe: what is bright on a dark page alone is dark in the stack."""
    stack = np.stack([drawn(40, 50), drawn(40, 50, seed=1) // 5])
    tifffile.imwrite("scan.tif", stack, photometric="minisblack")
    if name == "-":
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((place / "scan.tif").read_bytes())))
    assert infer(name, "m.tif", "mask", "--pages", "1") == 0
    assert not tifffile.imread("m.tif").any()


@pytest.mark.parametrize("damage", ["size", "pixels"])
def test_selected_pages_of_a_file_whose_others_cannot_be_used(place, damage, capsys):
    with tifffile.TiffWriter("scan.tif") as file:
        for page in (drawn(40, 50), drawn(40, 50 if damage == "pixels" else 30, seed=1)):
            file.write(page, photometric="minisblack", compression="zlib", rowsperstrip=40)
    if damage == "pixels":
        with tifffile.TiffFile("scan.tif") as file:
            begin, count = file.pages[1].dataoffsets[0], file.pages[1].databytecounts[0]
        content = bytearray((place / "scan.tif").read_bytes())
        content[begin : begin + count] = bytes(count)
        (place / "scan.tif").write_bytes(content)
    command = ["infer", "scan.tif", "-o", "m.tif", "-m", "mask.safetensors", "--precision", "fp32", "--pages", "0"]
    assert run(command) == 0
    assert_found(tifffile.imread("m.tif"), drawn(40, 50), "mask")
    assert "the selected pages alone decide how bright is bright" in error(capsys)


@pytest.mark.parametrize("options", [("--min-size", "20"), ("--fill-holes",), ("--min-size", "20", "--fill-holes")])
@pytest.mark.parametrize("output", ["mask", "classes", "instances"])
def test_small_objects_leave_the_mask_too(place, output, options, monkeypatch):
    """The mask, the table, the outlines and the figures are of the same objects, page by page and in bands."""
    monkeypatch.setattr("unetcli.inference.instances.BAND", 400)
    stack = drawn(2, 90, 70)
    stack[:, 30:40, 30:40], stack[:, 33:37, 33:37] = BRIGHT, DARK
    tifffile.imwrite("scan.tif", stack, photometric="minisblack")
    more = ("--output-kind", output, *options, "--objects", "o.csv", "--tile", "60", "--json", "r.json")
    assert infer("scan.tif", "m.tif", "mask", *more) == 0
    mask = tifffile.imread("m.tif")
    wanted = {"min_size": 20 if "20" in options else 0, "fill_holes": "--fill-holes" in options}
    bright = (stack == BRIGHT).astype(np.uint8)
    expected = np.stack([objects_of(page, give_back_ridges=False, **wanted) for page in bright])
    assert not np.array_equal(expected > 0, bright)
    if output != "instances":
        expected = (expected > 0) * (255 if output == "mask" else 1)
    np.testing.assert_array_equal(mask, expected)
    assert mask.dtype == (np.uint16 if output == "instances" else np.uint8)
    with (place / "o.csv").open() as file:
        areas = [int(row["area"]) for row in csv.DictReader(file)]
    assert sum(areas) == (mask > 0).sum()
    (told,) = json.loads((place / "r.json").read_text())["outputs"]
    assert told["foreground"] == pytest.approx((mask > 0).mean())


def test_classes_of_an_instance_model_are_those_of_its_objects(place):
    image = drawn(90, 70)
    tifffile.imwrite("scan.tif", image, photometric="minisblack")
    assert infer("scan.tif", "c.tif", "instances", "--output-kind", "classes", "--min-size", "20") == 0
    assert infer("scan.tif", "i.tif", "instances", "--min-size", "20") == 0
    np.testing.assert_array_equal(tifffile.imread("c.tif"), tifffile.imread("i.tif") > 0)


def test_a_mask_of_objects_goes_to_a_stream(place, capfdbinary):
    image = drawn(90, 70)
    tifffile.imwrite("scan.tif", image, photometric="minisblack")
    assert infer("scan.tif", "m.tif", "mask", "--min-size", "20") == 0
    assert infer("scan.tif", "-", "mask", "--min-size", "20") == 0
    assert capfdbinary.readouterr().out == (place / "m.tif").read_bytes()


def test_options_without_effect_are_named(place, capsys):
    tifffile.imwrite("scan.tif", drawn(40, 50), photometric="minisblack")
    three = LabelCoding("semantic", (0, 1, 2), ("background", "a", "b"))
    arguments = {"features": 2, "depth": 1}
    network = build_network("unet", channels=1, classes=3, **arguments)
    save_model(place / "three.safetensors", network, describe(arguments, classes=3, coding=three))

    def said(*more, model="mask"):
        assert run(["infer", "scan.tif", "-o", "m.tif", "-m", f"{model}.safetensors", *more]) == 0
        return error(capsys)

    idle = "warning: --min-size and --fill-holes are for objects"
    for options in (("--min-size", "5"), ("--fill-holes",)):
        assert idle in said("--output-kind", "probabilities", *options)
        assert idle not in said("--output-kind", "probabilities", "--objects", "o.csv", *options)
        assert idle not in said("--probabilities", "p.tif", *options)
    assert "warning: --threshold is for two classes, the model has 3" in said("--threshold", "0.7", model="three")
    assert "warning" not in said(model="three")
    assert "warning" not in said("--threshold", "0.7")


@pytest.mark.parametrize(
    ("trained", "resolution", "unit", "differs"),
    [
        ((0.5, 0.5, "µm"), (2000, 2000), "mm", False),
        ((0.5, 0.5, "µm"), (1000, 1000), "mm", True),
        ((0.5, 0.5, "µm"), (10000, 10000), "cm", True),
        ((0.5, 0.5, "µm"), (20000, 20000), "cm", False),
        ((0.5, 0.5, "µm"), (2, 1), "um", True),
        ((0.5, 0.5, "µm"), (1, 2), "um", True),
        ((500, 500, "nm"), (2, 2), "um", False),
        ((2, 2, "furlong"), (1, 1), "furlong", True),
        ((2, 2, "furlong"), (1, 1), "um", False),
        ((0, 0.5, "µm"), (2, 2), "um", True),
    ],
)
def test_pixel_sizes_are_compared_across_units(place, capsys, trained, resolution, unit, differs):
    """Resolution is pixels per unit, along x and along y."""
    arguments = {"features": 2, "depth": 1}
    network = build_network("unet", channels=1, classes=2, **arguments)
    save_model(place / "sized.safetensors", network, describe(arguments, pixel_size=trained))
    assert read_description(place / "sized.safetensors").pixel_size == trained
    tifffile.imwrite("scan.tif", drawn(40, 50), imagej=True, resolution=resolution, metadata={"unit": unit})
    assert run(["infer", "scan.tif", "-o", "m.tif", "-m", "sized.safetensors"]) == 0
    assert ("warning: scan.tif: its pixels are" in error(capsys)) == differs


def test_selected_pages_lie_where_they_lie(place, capsys):
    """In space a mask of pages A-B begins at slice A, and it is scored there without a warning."""
    nibabel = pytest.importorskip("nibabel")
    affine = np.array([[-0.7, 0.1, 0.2, 90], [0.1, 0.8, 0, -120], [0, 0, 3, -30], [0, 0, 0, 1]])
    volume = drawn(20, 30, 6)
    nibabel.save(nibabel.Nifti1Image(volume, affine), "v.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.where(volume == BRIGHT, 255, 0).astype(np.uint8), affine), "t.nii.gz")
    for pages, first in (("3-5", 3), ("2", 2), ("0-1", 0), ("0-5", 0)):
        assert infer("v.nii.gz", "m.nii.gz", "mask", "--pages", pages) == 0
        found = nibabel.load("m.nii.gz")
        np.testing.assert_allclose(found.affine[:3, 3], (affine @ [0, 0, first, 1])[:3], atol=1e-5)
        np.testing.assert_allclose(found.affine[:3, :3], affine[:3, :3], atol=1e-5)
        assert run(["evaluate", "m.nii.gz", "t.nii.gz", "--pages", pages, "--fail-under", "dice=1"]) == 0
        assert "elsewhere" not in error(capsys)


def test_selected_volumes_of_a_film_begin_at_their_slice(place):
    nibabel = pytest.importorskip("nibabel")
    nibabel.save(nibabel.Nifti1Image(drawn(20, 30, 4, 3), np.diag([1.0, 1, 2, 1])), "v.nii.gz")
    with open_image("v.nii.gz") as image:
        assert (image.info.page_axes, image.info.page_shape) == ("TZ", (3, 4))
    with open_image("v.nii.gz", pages=range(5, 7)) as image:  # the second volume, from its slice 1
        assert image.info.orientation[2][3] == 2
    with open_image("v.nii.gz", pages=range(4, 8)) as image:
        assert image.info.orientation[2][3] == 0


def test_a_dry_run_reads_every_file(place, capsys):
    """Its exit code is that of the real run: pixels that are damaged are found."""
    tifffile.imwrite("nan.tif", np.full((30, 40), np.nan, np.float32))
    tifffile.imwrite("bad.tif", drawn(64, 64), compression="zlib")
    with tifffile.TiffFile("bad.tif") as file:
        start = file.pages[0].dataoffsets[0]
    data = bytearray(Path("bad.tif").read_bytes())
    data[start : start + 20] = bytes(20)
    Path("bad.tif").write_bytes(data)
    for name in ("nan.tif", "bad.tif"):
        assert infer(name, "m.tif", "mask", "--dry-run") == infer(name, "m.tif") == 3
        assert error(capsys).count(f"error: {name}: ") == 2
    assert sorted(path.name for path in place.glob("m.*")) == []


def test_a_full_disk_for_objects_is_no_fault_of_the_image(place, capsys, monkeypatch):
    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(inference, "scratch_file", lambda folder: Full())
    tifffile.imwrite("scan.tif", drawn(30, 40))
    assert infer("scan.tif", "m.tif", "instances") == 5
    assert "error: m.tif: disk full" in error(capsys)
