"""The commands as people use them: train, then infer, on small images, in this process."""

import io
import json
import os
import shutil
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image

from unetcli.cli import run

SMALL = ["--features", "4", "--depth", "2", "--epochs", "1", "--patch-size", "84", "--threads", "1", "--workers", "0"]


def discs(seed, size=72, bits=16):
    """A 16-bit image of bright discs, and their ids."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((size, size), np.uint16)
    y, x = np.mgrid[:size, :size]
    for number in range(1, 13 + 3 * seed):
        cy, cx, radius = *rng.uniform(6, size - 6, 2), rng.uniform(3, 6)
        labels[((y - cy) ** 2 + (x - cx) ** 2 < radius**2) & (labels == 0)] = number
    return (1000 + 3000 * (labels > 0) + rng.normal(0, 300, labels.shape)).astype(np.uint16), labels


def write_folder(folder, number=5, coding=lambda labels: labels):
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for seed in range(number):
        image, labels = discs(seed)
        tifffile.imwrite(
            folder / "images" / f"c{seed}.tif", image, imagej=True, resolution=(2, 2), metadata={"unit": "um"}
        )
        tifffile.imwrite(folder / "masks" / f"c{seed}.tif", coding(labels), compression="zlib")
    return folder


def zero_and_255(labels):
    return np.where(labels > 0, 255, 0).astype(np.uint8)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with data sets and two trained models, used by every test and changed by none."""
    folder = tmp_path_factory.mktemp("home")
    write_folder(folder / "cells")
    write_folder(folder / "binary", coding=zero_and_255)
    for name in ("cells", "binary"):
        assert run(["train", str(folder / name), "-o", str(folder / f"{name}.safetensors"), *SMALL, "-q"]) == 0
    return folder


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def errors(capsys):
    lines = capsys.readouterr().err.splitlines()
    return [line for line in lines if line.startswith(("error:", "hint:"))]


def test_train_and_infer_without_another_word(home, place, capsys):
    shutil.copytree(home / "cells", place / "cells")
    assert run(["train", "cells", *SMALL]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    for said in (
        "folders images/ + masks/",
        "equal names",
        "instances: an id per object",
        "epoch 1/1",
        "0.5 x 0.5",
    ):
        assert said in captured.err
    assert "\r" not in captured.err
    assert "\x1b" not in captured.err
    assert (place / "unet.safetensors").is_file()
    assert (place / "unet.run" / "history.csv").read_text().count("\n") == 2
    config = json.loads((place / "unet.run" / "config.json").read_text())
    assert config["data"]["layout"] == "folders images/ + masks/"
    kept = {"best.safetensors", "config.json", "history.csv", "history.jsonl", "report.html", "state.safetensors"}
    assert {path.name for path in (place / "unet.run").iterdir()} == kept
    page = (place / "unet.run" / "report.html").read_text(encoding="utf-8")
    for said in ("Training of unet.safetensors", "1 of 1 epochs; best: epoch 1", "folders images/ + masks/", "<svg"):
        assert said in page
    shutil.copy(place / "cells/images/c0.tif", place / "scan.tif")
    assert run(["infer", "scan.tif", "-o", "mask.tif"]) == 0
    with tifffile.TiffFile(place / "mask.tif") as mask:
        assert mask.series[0].shape == (72, 72)
        assert mask.imagej_metadata["unit"] == "micron"
        assert mask.pages[0].tags["XResolution"].value == (2, 1)


def test_binary_masks_come_out_as_they_went_in(home, place):
    assert run(["infer", str(home / "binary/images"), "-m", str(home / "binary.safetensors"), "-o", "out", "-q"]) == 0
    written = sorted(p.name for p in (place / "out").iterdir())
    assert written == [f"c{seed}.tif" for seed in range(5)]
    values = np.unique(np.stack([tifffile.imread(place / "out" / name) for name in written]))
    assert set(values) <= {0, 255}
    assert tifffile.imread(place / "out/c0.tif").dtype == np.uint8


def test_a_stack_keeps_its_pages(home, place, capsys):
    stack = np.stack([discs(seed)[0] for seed in range(4)])
    tifffile.imwrite(
        "stack.tif", stack, imagej=True, resolution=(4, 4), metadata={"axes": "ZYX", "unit": "um", "spacing": 2.0}
    )
    model = ["-m", str(home / "binary.safetensors")]
    assert run(["infer", "stack.tif", "-o", "mask.tif", *model]) == 0
    assert "4 pages, axes ZYX" in capsys.readouterr().err
    with tifffile.TiffFile("mask.tif") as mask:
        assert mask.series[0].axes == "ZYX"
        assert mask.series[0].shape == (4, 72, 72)
        assert mask.imagej_metadata["slices"] == 4
        assert mask.imagej_metadata["spacing"] == 2.0
    assert run(["infer", "stack.tif", "--pages", "1-2", "-o", "two.tif", *model, "-q"]) == 0
    np.testing.assert_array_equal(tifffile.imread("two.tif"), tifffile.imread("mask.tif")[1:3])


def test_outputs_do_not_depend_on_the_tile(home, place):
    image = np.tile(discs(1)[0], (3, 4))[:200, :251]
    tifffile.imwrite("scan.tif", image)
    results = []
    for tile in ("60", "100", "auto"):
        arguments = ["--tile", tile, "--precision", "fp32", "-q", "-m", str(home / "cells.safetensors")]
        assert run(["infer", "scan.tif", "-o", f"{tile}.tif", "--probabilities", f"p{tile}.tif", *arguments]) == 0
        results.append((tifffile.imread(f"{tile}.tif"), tifffile.imread(f"p{tile}.tif")))
    for mask, probabilities in results[1:]:
        np.testing.assert_array_equal(mask, results[0][0])
        np.testing.assert_allclose(probabilities, results[0][1], atol=1e-5)
    assert results[0][1].shape == (2, 200, 251)
    np.testing.assert_allclose(results[0][1].sum(axis=0), 1, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (17, 23)])
def test_any_size(home, place, shape):
    tifffile.imwrite(
        "scan.tif", np.random.default_rng(0).integers(0, 4000, shape).astype(np.uint16), photometric="minisblack"
    )
    assert run(["infer", "scan.tif", "-o", "m.tif", "-m", str(home / "cells.safetensors"), "-q"]) == 0
    assert tifffile.imread("m.tif").shape == shape


def test_extra_outputs_of_one_pass(home, place):
    model = str(home / "cells.safetensors")
    scan = str(home / "cells/images/c0.tif")
    arguments = [
        "--overlay",
        "o/overlay.png",
        "--objects",
        "o/cells.csv",
        "--probabilities",
        "o/p.tif",
        "--json",
        "r.json",
    ]
    assert run(["infer", scan, "-o", "mask.tif", "-m", model, *arguments, "-q"]) == 0
    assert np.asarray(Image.open("o/overlay.png")).shape == (72, 72, 3)
    rows = (place / "o/cells.csv").read_text().splitlines()
    document = json.loads((place / "r.json").read_text())
    (output,) = document["outputs"]
    assert rows[0].startswith("page,id,class,area,centroid_y,centroid_x,top,left,bottom,right")
    assert output["objects"] == len(rows) - 1 == len(np.unique(tifffile.imread("mask.tif"))) - 1
    assert output["shape"] == [1, 72, 72]
    assert document["schema"] == 1
    assert document["failures"] == []


def test_output_kinds(home, place):
    scan = str(home / "binary/images/c0.tif")
    for kind, largest in (("mask", 255), ("classes", 1), ("instances", 1000)):
        assert (
            run(
                [
                    "infer",
                    scan,
                    "-o",
                    f"{kind}.tif",
                    "-m",
                    str(home / "binary.safetensors"),
                    "--output-kind",
                    kind,
                    "-q",
                ]
            )
            == 0
        )
        assert tifffile.imread(f"{kind}.tif").max() <= largest
    np.testing.assert_array_equal(tifffile.imread("mask.tif") > 0, tifffile.imread("classes.tif") > 0)


def test_dry_runs_write_nothing(home, place, capsys):
    assert run(["train", str(home / "cells"), "--dry-run", *SMALL, "--json", "-"]) == 0
    document = json.loads(capsys.readouterr().out)
    for key in ("layout", "rule", "axes", "channels", "coding", "classes", "problems", "patch_size", "batch_size",
                "estimate_seconds", "estimate_memory"):  # fmt: skip
        assert key in document
    assert document["problems"] == []
    assert (
        run(["infer", str(home / "cells/images"), "-o", "out", "-m", str(home / "cells.safetensors"), "--dry-run"]) == 0
    )
    assert list(place.iterdir()) == []


def test_a_dry_run_ends_as_the_training_would(home, place, capsys):
    """Also where only the output is wrong, and after everything was told."""
    (place / "old.safetensors").write_bytes(b"here")
    for output, code, said in (("old.safetensors", 5, "exists already"), ("new.tif", 2, "no .safetensors file")):
        for more in ([], ["--dry-run"]):
            assert run(["train", str(home / "cells"), "-o", output, *SMALL, *more]) == code
            assert said in (error := capsys.readouterr().err)
        assert "this will take about" in error
    assert run(["train", str(home / "cells"), "-o", "old.safetensors", *SMALL, "--dry-run", "--overwrite", "-q"]) == 0
    assert run(["train", str(home / "cells"), "-o", "absent/new.safetensors", *SMALL, "--dry-run", "-q"]) == 0
    assert [path.name for path in place.iterdir()] == ["old.safetensors"]
    assert (place / "old.safetensors").read_bytes() == b"here"


def test_train_document(home, place, capsys):
    assert run(["train", str(home / "cells"), *SMALL, "--json", "-"]) == 0
    document = json.loads(capsys.readouterr().out)
    for key in ("model", "run_folder", "device", "precision", "pairs", "train", "validation", "patches_per_epoch",
                "epochs", "best_epoch", "score", "weights_sha256", "history"):  # fmt: skip
        assert key in document
    assert (document["pairs"], document["train"], document["validation"]) == (5, 4, 1)
    assert document["patches_per_epoch"] == 64


def test_a_model_is_not_replaced_unasked(home, place, capsys):
    (place / "unet.safetensors").write_bytes(b"precious")
    assert run(["train", str(home / "cells"), *SMALL]) == 5
    assert "exists already" in errors(capsys)[0]
    assert (place / "unet.safetensors").read_bytes() == b"precious"
    assert run(["train", str(home / "cells"), *SMALL, "--overwrite", "-q"]) == 0
    assert (place / "unet.safetensors").stat().st_size > 1000


def test_a_model_and_its_document_need_two_files(home, place, capsys):
    assert run(["train", str(home / "cells"), *SMALL, "-o", "a.safetensors", "--json", "./a.safetensors"]) == 2
    assert "a.safetensors: two results would be written to it" in errors(capsys)[0]


def test_inputs_are_never_overwritten(home, place, capsys):
    shutil.copy(home / "cells/images/c0.tif", place / "scan.tif")
    before = (place / "scan.tif").read_bytes()
    for arguments in (["-o", "scan.tif"], ["-o", "./scan.tif"], ["-o", "m.tif", "--probabilities", "scan.tif"]):
        assert run(["infer", "scan.tif", *arguments, "-m", str(home / "cells.safetensors")]) == 2
        assert "would replace this input" in errors(capsys)[0]
        assert (place / "scan.tif").read_bytes() == before


def test_one_bad_image_does_not_stop_the_others(home, place, capsys):
    shutil.copytree(home / "cells/images", place / "scans")
    content = (place / "scans/c1.tif").read_bytes()
    (place / "scans/c1.tif").write_bytes(content[: len(content) // 2])
    assert run(["infer", "scans", "-o", "out", "-m", str(home / "cells.safetensors"), "--json", "r.json"]) == 7
    lines = errors(capsys)
    assert "c1.tif" in lines[0]
    assert "truncated" in lines[0]
    assert any("4 of 5" in line for line in lines)
    assert sorted(p.name for p in (place / "out").iterdir()) == ["c0.tif", "c2.tif", "c3.tif", "c4.tif"]
    document = json.loads((place / "r.json").read_text())
    assert [failure["exit"] for failure in document["failures"]] == [3]


def test_existing_outputs_can_be_left(home, place):
    arguments = ["infer", str(home / "cells/images"), "-o", "out", "-m", str(home / "cells.safetensors"), "-q"]
    assert run(arguments) == 0
    (place / "out/c0.tif").write_bytes(b"mine")
    (place / "out/c1.tif").unlink()
    assert run([*arguments, "--skip-existing"]) == 0
    assert (place / "out/c0.tif").read_bytes() == b"mine"
    assert (place / "out/c1.tif").is_file()
    assert run(arguments) == 0
    assert (place / "out/c0.tif").read_bytes() != b"mine"


class Stream(io.BytesIO):
    """A standard stream whose bytes are in `buffer`."""

    def __init__(self, content=b"", terminal=False):
        super().__init__(content)
        self.terminal = terminal

    @property
    def buffer(self):
        return self

    def isatty(self):
        return self.terminal


def test_pipes(home, place, monkeypatch):
    scan = home / "cells/images/c0.tif"
    out = Stream()
    monkeypatch.setattr(sys, "stdin", Stream(scan.read_bytes()))
    monkeypatch.setattr(sys, "stdout", out)
    assert run(["infer", "-", "-o", "-", "-m", str(home / "cells.safetensors"), "-q"]) == 0
    monkeypatch.undo()
    os.chdir(place)
    assert run(["infer", str(scan), "-o", "mask.tif", "-m", str(home / "cells.safetensors"), "-q"]) == 0
    np.testing.assert_array_equal(tifffile.imread(io.BytesIO(out.getvalue())), tifffile.imread("mask.tif"))


def test_no_binary_to_or_from_a_terminal(home, place, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", Stream(terminal=True))
    monkeypatch.setattr(sys, "stdin", Stream(terminal=True))
    model = ["-m", str(home / "cells.safetensors")]
    assert run(["infer", str(home / "cells/images/c0.tif"), "-o", "-", *model]) == 2
    assert run(["infer", "-", "-o", "m.tif", *model]) == 2
    found = errors(capsys)
    assert "refusing to write binary" in found[0]
    assert "terminal" in found[2]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["infer", "absent.tif", "-o", "m.tif"], 2, "no such file"),
        (["infer", "*.nothing", "-o", "m.tif"], 2, "no file matches"),
        (["infer", "{scan}", "-o", "m.jpg"], 2, "JPEG would damage labels"),
        (["infer", "{scan}", "-o", "m.xyz"], 2, "unknown extension"),
        (["infer", "{scan}", "-o", "m.tif", "-m", "absent.safetensors"], 2, "no such model"),
        (["infer", "{scan}", "-o", "m.tif", "-m", "{scan}"], 4, "not a model of this tool"),
        (["infer", "{scan}", "-o", "m.tif", "--device", "cuda:99"], 6, ""),
        (["infer", "{scan}", "-o", "m.tif", "--device", "gpu"], 2, "unknown device"),
        (["infer", "{scan}", "-o", "m.tif", "--tile", "big"], 2, "--tile big"),
        (["infer", "{scan}", "-o", "m.tif", "--threshold", "2"], 2, "--threshold"),
        (["infer", "{scan}", "-o", "m.tif", "--pages", "7"], 2, "pages"),
        (["infer", "{scan}", "-o", "m.tif", "--nonsense"], 2, "--nonsense"),
        (["infer", "{folder}/images", "-o", "m.tif"], 2, "-o names one file"),
        (["train"], 2, "no data"),
        (["train", "absent"], 2, "absent"),
        (["train", "{folder}", "-o", "model.pt"], 2, ".safetensors"),
        (["train", "{folder}", "--max-time", "soon"], 2, "no duration"),
        (["train", "{folder}", "--recipe", "secret"], 2, "unknown recipe"),
        (["train", "{folder}", "--depth", "1000000"], 2, "depth"),
        (["train", "{folder}", "--arch", "gpt"], 2, "unknown architecture"),
        (["train", "{folder}/images"], 3, "mask"),
        (["nonsense"], 2, "nonsense"),
    ],
)
def test_wrong_usage(home, place, capsys, arguments, code, said):
    folder = home / "cells"
    filled = [text.format(folder=folder, scan=folder / "images/c0.tif") for text in arguments]
    if filled[0] == "infer" and "-m" not in filled:
        filled += ["-m", str(home / "cells.safetensors")]
    assert run(filled) == code
    lines = errors(capsys)
    assert len(lines) == 2
    assert lines[0].startswith("error: ")
    assert lines[1].startswith("hint: ")
    assert said in lines[0]
    assert list(place.iterdir()) == []


def test_a_model_for_other_channels(home, place, capsys):
    Image.fromarray(np.zeros((20, 20, 3), np.uint8) + np.arange(20, dtype=np.uint8)[:, None, None]).save("rgb.png")
    assert run(["infer", "rgb.png", "-o", "m.tif", "-m", str(home / "cells.safetensors")]) == 3
    assert "3 channels, the model expects 1" in errors(capsys)[0]


def test_another_pixel_size_is_a_warning(home, place, capsys):
    tifffile.imwrite("scan.tif", discs(0)[0], imagej=True, resolution=(10, 10), metadata={"unit": "um"})
    assert run(["infer", "scan.tif", "-o", "m.tif", "-m", str(home / "cells.safetensors")]) == 0
    assert "warning: scan.tif: its pixels are 0.1" in capsys.readouterr().err


def test_all_problems_of_a_data_set_together(place, capsys):
    folder = write_folder(place / "cells", 6)
    (folder / "images/c0.tif").write_bytes(b"")
    tifffile.imwrite(folder / "masks/c1.tif", np.zeros((72, 71), np.uint8))
    content = (folder / "images/c2.tif").read_bytes()
    (folder / "images/c2.tif").write_bytes(content[: len(content) // 2])
    before = sorted(place.rglob("*"))
    assert run(["train", "cells", *SMALL]) == 3
    lines = [line for line in errors(capsys) if line.startswith("error:")]
    assert len(lines) == 3
    for said in ("is empty (0 bytes)", "image 72x72, mask 71x72", "truncated"):
        assert sum(said in line for line in lines) == 1
    assert sorted(place.rglob("*")) == before


def test_a_single_image_trains(place):
    write_folder(place / "cells", 1)
    assert run(["train", "cells", "--task", "instances", *SMALL, "-q"]) == 0


def test_divergence_has_its_code(home, place, capsys):
    assert run(["train", str(home / "cells"), *SMALL, "--learning-rate", "1e9", "--optimizer", "sgd"]) == 8
    assert "finite" in errors(capsys)[0]


def test_identical_images_in_training_and_validation_are_named(place, capsys):
    folder = write_folder(place / "cells")
    for kind in ("images", "masks"):
        shutil.copy(folder / kind / "c0.tif", folder / kind / "twin.tif")
    assert run(["train", "cells", "--validation", "twin", "--dry-run", *SMALL]) == 0
    assert "warning: identical images in training and validation" in capsys.readouterr().err
    assert run(["train", "cells", "--validation", "c1", "--dry-run", *SMALL]) == 0
    assert "warning: identical" not in capsys.readouterr().err


def test_a_threshold_is_learned(home, place, capsys):
    from unetcli.models.modelfile import load_model

    model = str(home / "binary.safetensors")
    threshold = load_model(home / "binary.safetensors")[1].training["threshold"]
    assert 0 < threshold < 1
    scan = str(home / "binary/images/c0.tif")
    assert run(["infer", scan, "-o", "auto.tif", "-m", model, "--threshold", "auto"]) == 0
    assert f"threshold: {threshold:g} (the best on validation)" in capsys.readouterr().err
    assert run(["infer", scan, "-o", "given.tif", "-m", model, "--threshold", str(threshold), "-q"]) == 0
    np.testing.assert_array_equal(tifffile.imread("auto.tif"), tifffile.imread("given.tif"))
