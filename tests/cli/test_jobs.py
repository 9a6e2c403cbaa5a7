"""What ``unet infer`` reads and where it writes: found, and checked, before the first page is predicted."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from handmade import describe, write_model
from PIL import Image

from unetcli.cli import run
from unetcli.cli.jobs import plan_outputs, stem_of
from unetcli.dataset.labels import LabelCoding
from unetcli.inference import infer as inference
from unetcli.models import build_network
from unetcli.models.modelfile import save_model


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The working folder, with models for masks, for instances, and for two channels."""
    monkeypatch.chdir(tmp_path)
    for kind in ("mask", "instances"):
        write_model(tmp_path / f"{kind}.safetensors", kind)
    arguments = {"features": 2, "depth": 1}
    torch.manual_seed(0)
    network = build_network("unet", channels=2, classes=2, **arguments)
    save_model(tmp_path / "two.safetensors", network, describe(arguments, channels=2))
    return tmp_path


@pytest.fixture
def unpredicted(monkeypatch):
    """Fail where anything is predicted."""

    def failing(*arguments, **options):
        raise AssertionError("predicted")

    monkeypatch.setattr(inference, "predict_bands", failing)


def scan(name, pages=1, height=30):
    rng = np.random.default_rng(0)
    Path(name).parent.mkdir(exist_ok=True)
    tifffile.imwrite(name, rng.integers(0, 255, (pages, height, 40)).astype(np.uint8)[slice(None) if pages > 1 else 0],
                     photometric="minisblack")  # fmt: skip


def infer(*arguments, model="mask"):
    return run(["infer", *arguments, "-m", f"{model}.safetensors", "--precision", "fp32", "--tile", "60"])


def test_images_are_no_channels_because_of_their_numbers(place, capsys):
    """Two frames for a model of two channels, or two images that have both channels."""
    for number in (1, 2):
        scan(f"frames/t_000{number}.tif")
    assert infer("frames", "-o", "m/", model="two") == 3
    assert "1 channels, the model expects 2" in capsys.readouterr().err
    Path("both").mkdir()
    for number in (0, 1):
        tifffile.imwrite(f"both/t_000{number}.tif", np.zeros((2, 30, 40), np.uint8), metadata={"axes": "CYX"})
    assert infer("both", "-o", "b/", model="two") == 0
    assert sorted(path.name for path in Path("b").iterdir()) == ["t_0000.tif", "t_0001.tif"]
    for number in (0, 1):
        scan(f"apart/t_000{number}.tif")
    assert infer("apart", "-o", "a/", model="two") == 0
    assert [path.name for path in Path("a").iterdir()] == ["t.tif"]


def test_an_ignored_value_beyond_the_palette_leaves_the_colors_out(place):
    coding = LabelCoding("semantic", (0, 1), ("background", "cell"), 65535, palette=((0, 0, 0), (255, 0, 0)))
    arguments = {"features": 2, "depth": 1}
    network = build_network("unet", channels=1, classes=2, **arguments)
    save_model(place / "palette.safetensors", network, describe(arguments, coding=coding))
    scan("a.tif")
    assert infer("a.tif", "-o", "m.tif", model="palette") == 0
    assert tifffile.imread("m.tif").dtype == np.uint16


def test_places_are_not_kept_once_for_each_image():
    """10,000 images took 10 GiB for that."""
    paths = [(f"in/{number}.tif",) for number in range(3)]
    jobs = plan_outputs(paths, "absent/", {}, [], None, output_kind="mask", dry_run=True)
    assert len({id(destinations.taken) for _, destinations in jobs}) == 1
    assert len(jobs[0][1].taken) == 6


@pytest.mark.parametrize("option", ["--overlay", "--objects", "--probabilities"])
@pytest.mark.parametrize("taken", ["scan.tif", "mask.safetensors"])
def test_no_extra_takes_the_place_of_an_input_beside_a_stream(place, capfdbinary, option, taken):
    scan("scan.tif")
    before = Path(taken).read_bytes()
    assert infer("scan.tif", "-o", "-", option, taken) == 2
    assert Path(taken).read_bytes() == before
    said = capfdbinary.readouterr()
    assert not said.out
    assert taken.endswith(".safetensors") or b"error: scan.tif: the output would replace this input" in said.err


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
@pytest.mark.parametrize(
    ("output", "extras", "model", "words"),
    [
        ("m.png", (), "mask", "m.png: 5 pages do not fit a PNG"),
        ("m.png", (), "instances", "m.png: 5 pages do not fit a PNG"),
        ("m.png", ("--output-kind", "classes"), "mask", "m.png: 5 pages do not fit a PNG"),
        ("m.tif", ("--probabilities", "p.png"), "instances", "p.png: 5 pages do not fit a PNG"),
        ("m.tif", ("--overlay", "o.jpg"), "mask", "o.jpg: JPEG would damage labels"),
        ("m.tif", ("--overlay", "o.nii"), "mask", "NIfTI cannot hold 3 channels"),
        ("p.nii.gz", ("--output-kind", "probabilities"), "mask", "NIfTI cannot hold 2 channels"),
    ],
)
def test_formats_that_cannot_hold_it(place, unpredicted, capsys, output, extras, model, words, more):
    if "nii" in output + "".join(extras):
        pytest.importorskip("nibabel")
    scan("stack.tif", 5)
    assert infer("stack.tif", "-o", output, *extras, *more, model=model) == 2
    assert words in capsys.readouterr().err
    assert not list(place.glob("[mop].*"))


def test_a_dry_run_allows_what_fits(place, unpredicted):
    scan("stack.tif", 2)
    assert infer("stack.tif", "-o", "m.tif", "--overlay", "o.png", "--dry-run", model="instances") == 0
    assert infer("stack.tif", "--pages", "1", "-o", "m.png", "--dry-run", model="instances") == 0
    assert not list(place.glob("[mo]*.png"))


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_pages_of_an_overlay_replace_no_input(place, unpredicted, capsys, more):
    """The channels of an image may be called what the pages of its overlay are called."""
    for channel in range(2):
        scan(f"scan_000{channel}.tif", 2)
    before = Path("scan_0000.tif").read_bytes()
    command = ("scan_0000.tif", "scan_0001.tif", "-o", "m.tif", "--overlay", "./scan.tif", *more)
    assert infer(*command, model="two") == 2
    assert "error: scan_0000.tif: a page of the overlay would replace it" in capsys.readouterr().err
    assert Path("scan_0000.tif").read_bytes() == before
    Path("link.tif").symlink_to("scan_0000.tif")
    assert infer("link.tif", "-o", "m.tif", "--overlay", "scan.tif", *more) == 2


@pytest.mark.parametrize(
    "outputs",
    [
        ("m.tif", "--overlay", "o.png", "--json", "o_0001.png"),
        ("o_0001.tif", "--overlay", "o.tif"),
        ("m.tif", "--overlay", "o.tif", "--probabilities", "o_0000.tif"),
    ],
)
def test_pages_of_an_overlay_replace_no_other_output(place, unpredicted, capsys, outputs):
    scan("stack.tif", 2)
    assert infer("stack.tif", "-o", *outputs) == 2
    assert "a page of the overlay would replace it" in capsys.readouterr().err


def test_pages_of_an_overlay_replace_no_other_overlay(place, capsys):
    scan("in/cell.tif", 2)
    scan("in/cell_0000.tif")
    assert infer("in", "-o", "masks/", "--overlay", "ov/") == 7
    assert "error: ov/cell_0000.png: a page of the overlay would replace it" in capsys.readouterr().err
    assert [path.name for path in Path("ov").iterdir()] == ["cell_0000.png"]
    assert [path.name for path in Path("masks").iterdir()] == ["cell_0000.tif"]
    scan("in/cell.tif")
    assert infer("in", "-o", "masks/", "--overlay", "ov/") == 0
    assert len(list(Path("ov").iterdir())) == 2


@pytest.mark.parametrize("pages", [1, 2])
@pytest.mark.parametrize("absent", ["--objects", "--overlay", "--probabilities"])
def test_an_image_is_skipped_where_all_its_outputs_exist(place, capsys, absent, pages):
    scan("a.tif", pages)
    extras = {"--objects": "o.csv", "--overlay": "o.png", "--probabilities": "p.tif"}
    path = Path("o_0000.png" if absent == "--overlay" and pages > 1 else extras[absent])
    command = ("a.tif", "-o", "m.tif", *(word for option in extras.items() for word in option), "--skip-existing")
    assert infer(*command) == 0
    Path("m.tif").write_bytes(b"kept")
    assert infer(*command, "-v") == 0
    assert "1 of 1 outputs exist already" in capsys.readouterr().err
    assert Path("m.tif").read_bytes() == b"kept"
    path.unlink()
    assert infer(*command) == 0
    assert path.exists()
    assert tifffile.imread("m.tif").shape[-2:] == (30, 40)


def test_images_of_a_folder(place):
    names = ["a.tif", "b.stk", "c.btf", "d.tf8", "e.TIFF", "f.lsm", "h.ome.tif"]
    for name in names:
        scan(f"in/{name}")
    for name in ("notes.txt", "table.csv.gz", ".hidden.tif", "~$a.tif"):
        Path("in", name).write_bytes(b"no image")
    assert infer("in", "-o", "masks", "-q") == 0
    assert sorted(path.name for path in Path("masks").iterdir()) == [f"{letter}.tif" for letter in "abcdefh"]


def test_options_that_all_commands_share(capsys):
    """The page of the contract lists them as common to the three; each may mean its own."""
    shared = ("device", "precision", "seed", "workers", "threads", "pages", "axes", "json", "dry-run", "quiet",
              "verbose", "debug")  # fmt: skip
    for command in ("train", "infer"):
        assert run([command, "--help"]) == 0
        assert {f"--{name}" for name in shared} <= set(re.findall(r"--[a-z-]+", capsys.readouterr().out))


def test_workers_may_be_named_without_a_cluster(place):
    scan("a.tif")
    results = []
    for workers in ("0", "2"):
        assert infer("a.tif", "-o", "m.tif", "--workers", workers, "-q") == 0
        results.append(Path("m.tif").read_bytes())
    assert results[0] == results[1]


def test_pages_of_an_overlay_keep_the_extension(place):
    scan("stack.tif", 2)
    assert infer("stack.tif", "-o", "m.tif", "--overlay", "o.v1.ome.tif") == 0
    assert sorted(path.name for path in place.glob("o.*")) == ["o.v1_0000.ome.tif", "o.v1_0001.ome.tif"]
    with tifffile.TiffFile("o.v1_0001.ome.tif") as file:
        assert file.is_ome


def test_an_extra_for_one_image_is_a_file(place):
    """Only several images, or a folder that is named, make a folder of it."""
    scan("a.tif")
    scan("b.tif")
    Path("out").mkdir()
    Path("tables").mkdir()
    assert infer("a.tif", "-o", "out/", "--objects", "cells.csv", "--overlay", "o.png", "-q") == 0
    assert Path("cells.csv").is_file()
    assert Path("o.png").is_file()
    assert infer("a.tif", "-o", "out/", "--objects", "tables", "--overlay", "new", "-q") == 0
    assert Path("tables/a.csv").is_file()
    assert Path("new/a.png").is_file()
    assert infer("a.tif", "b.tif", "-o", "out/", "--objects", "all.csv", "-q") == 0
    assert sorted(path.name for path in Path("all.csv").iterdir()) == ["a.csv", "b.csv"]


def test_probabilities_of_png_are_tiff(place):
    """PNG cannot hold them."""
    picture("in/a.png")
    assert infer("in", "-o", "masks", "-q") == infer("in", "-o", "p", "--output-kind", "probabilities", "-q") == 0
    assert [path.name for folder in ("masks", "p") for path in Path(folder).iterdir()] == ["a.png", "a.tif"]


def picture(name):
    Path(name).parent.mkdir(exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 40)).astype(np.uint8)).save(name)


def test_two_inputs_of_one_stem(place, unpredicted, capsys):
    scan("in/a.tif")
    picture("in/a.png")
    assert infer("in", "-o", "masks") == 2
    assert "in/a.png, in/a.tif would write results of one name" in capsys.readouterr().err


def test_folders_that_a_glob_matches_stand_for_their_images(place):
    scan("imgs/a.tif")
    scan("imgs2/b.tif")
    Path("imgs3").mkdir()
    assert infer("imgs*", "-o", "masks", "-q") == 0
    assert sorted(path.name for path in Path("masks").iterdir()) == ["a.tif", "b.tif"]


def test_the_present_folder_has_a_name(place, monkeypatch):
    assert [stem_of(name) for name in ("a.ome.tif", ".", "..", "./", "x/../b.tif")] == [
        "a", place.name, place.parent.name, place.name, "b",
    ]  # fmt: skip


@pytest.mark.parametrize("number", ["\u00b2", "-1", "1.5"])
def test_what_is_no_number_of_pixels(place, unpredicted, capsys, number):
    scan("a.tif")
    assert run(["infer", "a.tif", "-o", "m.tif", "-m", "mask.safetensors", "--tile", number]) == 2
    assert "--tile" in capsys.readouterr().err


LONG = "a" * 300


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["infer", f"{LONG}.tif", "-o", "m.tif", "-m", "mask.safetensors"], 2),
        (["infer", "a.tif", "-o", f"{LONG}.tif", "-m", "mask.safetensors"], 5),
        (["infer", "a.tif", "-o", "m.tif", "-m", f"{LONG}.safetensors"], 4),
        (["infer", "a.tif", "-o", "m.tif", "-m", "mask.safetensors", "--json", f"{LONG}.json"], 5),
        (["evaluate", f"{LONG}.tif", "a.tif"], 2),
        (["evaluate", "a.tif", f"{LONG}.tif"], 2),
        (["train", LONG], 2),
        (["train", "a.tif", "a.tif", "-o", f"{LONG}.safetensors"], 5),
    ],
)
def test_names_that_no_file_can_have(place, unpredicted, capsys, arguments, code):
    """They are found before any work, and are no bug."""
    scan("a.tif")
    assert run(arguments) == code
    assert "aaa" in capsys.readouterr().err


def test_warnings_are_one_line(place, capsys):
    name = "one\nline \x1b[31mred.tif"
    tifffile.imwrite(name, np.where(np.eye(40) > 0, np.nan, np.arange(40, dtype=np.float32)))
    assert infer(name, "-o", "m.tif") == 0
    warned = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert warned
    assert all("one\\nline \\x1b[31mred.tif" in line for line in warned)


@pytest.mark.parametrize("form", [("--json", "-"), ("--json=-",), ("--json", "d.json")])
def test_a_command_that_cannot_be_parsed_has_a_document_too(place, capsys, form):
    assert run(["infer", "a.tif", *form]) == 2
    out, err = capsys.readouterr()
    found = json.loads(out or Path("d.json").read_text())
    assert (found["command"], found["exit"]) == ("infer", 2)
    assert "--output" in found["error"]
    assert f"error: {found['error']}" in err


def test_a_dry_run_sees_that_a_folder_cannot_be_made(place, unpredicted, capsys):
    scan("a.tif")
    Path("file").write_bytes(b"")
    assert infer("a.tif", "-o", "file/new/m.tif", "--dry-run") == infer("a.tif", "-o", "file/new/m.tif") == 5
    assert infer("a.tif", "-o", "new/deep/m.tif", "--dry-run") == 0
    assert not Path("new").exists()
