"""The preview shows what training sees: outlines, weights in scale, and variations of the same patch."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from unetcli.cli import run
from unetcli.dataset.pairs import find_pairs
from unetcli.dataset.survey import Survey, survey
from unetcli.inference.outputs import OUTLINE
from unetcli.training.config import TrainConfig
from unetcli.training.plan import plan
from unetcli.training.preview import IGNORED_COLOR, LARGEST_PANEL, SMALLEST_PANEL, preview, scale_colors

SMALL = ["--features", "2", "--depth", "1", "--threads", "1", "--workers", "0"]


def write(folder, name, labels, dtype=np.uint8):
    shade = np.arange(labels.shape[1]) // 4
    for kind, pixels in (("images", 40 + shade + 40 * np.minimum(labels, 2)), ("masks", labels)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(folder / kind / f"{name}.tif", pixels.astype(dtype))


def disc(radius, size=48):
    y, x = np.mgrid[:size, :size] - size // 2
    return (y**2 + x**2 < radius**2).astype(np.uint8)


def drawn(folder, ignore=None, task="auto", **options):
    found = survey(find_pairs(folder), ignore=ignore, task=task)
    options = {"arguments": {"features": 2, "depth": 1}, "epochs": 1, "device": "cpu", **options}
    config = TrainConfig(folder / "unused.safetensors", validation="held*", workers=0, **options)
    decided, trainer = plan(config, found)
    return preview(found, decided, trainer.dataset), decided


def has(picture, color):
    return bool((picture == color).all(axis=2).any())


def test_rows_go_from_least_to_most_foreground_with_one_empty_image_at_most(tmp_path):
    write(tmp_path, "held", disc(5))
    for number, radius in enumerate((9, 0, 3, 0, 6, 0)):
        write(tmp_path, f"n{number}", disc(radius))
    pictures, _ = drawn(tmp_path)
    assert [row.name for row in pictures.rows[1:]] == ["n2", "n4", "n0"]
    assert pictures.rows[0].name in ("n1", "n3", "n5")


def test_foreground_is_counted_once_for_all_images(tmp_path, monkeypatch):
    for number in range(9):
        write(tmp_path, "held" if not number else f"n{number}", disc(2 + number))
    counted = []
    count = Survey.foreground_shares.fget
    monkeypatch.setattr(Survey, "foreground_shares", property(lambda survey: counted.append(survey) or count(survey)))
    drawn(tmp_path)
    assert len(counted) == 1


def test_panels_are_alike_in_size_and_show_outlines(tmp_path):
    for name in ("held", "a"):
        write(tmp_path, name, disc(9))
    (row,) = drawn(tmp_path)[0].rows
    sides = {pixels.shape for _, pixels in row.layers}
    assert len(sides) == 1
    assert SMALLEST_PANEL <= sides.pop()[0] <= LARGEST_PANEL
    for picture in (row.image, *row.augmented):
        assert has(picture, OUTLINE)
    assert not np.array_equal(*row.augmented)


def test_the_largest_weight_is_the_lightest_and_where_objects_touch(tmp_path):
    touching = disc(14).astype(np.uint16)
    touching[:, 24:] *= 2
    write(tmp_path, "held", touching, np.uint16)
    write(tmp_path, "a", touching * 3, np.uint16)  # other ids, so that they are instances
    pictures, decided = drawn(tmp_path, task="instances")
    (row,) = pictures.rows
    assert pictures.largest_weight > 8  # w0 is 10, plus the class balance
    y, x = np.nonzero((row.weights == scale_colors(np.float32(1))).all(axis=2))
    enlargement = len(row.weights) / decided.output_size
    assert len(y)
    assert np.abs(x / enlargement - decided.output_size / 2).max() < 4  # the ridge between the halves


def test_ignored_pixels_are_tinted(tmp_path):
    labels = disc(9)
    labels[:, :10] = 7
    for name in ("held", "a"):
        write(tmp_path, name, labels)
    row = drawn(tmp_path, ignore=7)[0].rows[0]
    assert has(row.weights, IGNORED_COLOR)
    assert "ignored" in row.caption
    whole = disc(9)
    for name in ("held", "a"):
        write(tmp_path / "other", name, whole)
    assert not has(drawn(tmp_path / "other")[0].rows[0].weights, IGNORED_COLOR)


def test_large_patches_are_cropped(tmp_path):
    for name in ("held", "a"):
        write(tmp_path, name, disc(200, 500))
    row = drawn(tmp_path, patch_size=480)[0].rows[0]
    assert row.image.shape == row.weights.shape == (LARGEST_PANEL, LARGEST_PANEL, 3)


def test_a_dry_run_writes_the_preview_alone(tmp_path, monkeypatch, capsys):
    for number in range(5):
        write(tmp_path / "data", f"b [x]\n{number}", disc(4 + number))
    monkeypatch.chdir(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.tif")}
    assert run(["train", "data", *SMALL, "--epochs", "1", "--dry-run", "--preview", "new/look.png"]) == 0
    assert "new/look.png" in capsys.readouterr().err
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == {*before, tmp_path / "new/look.png"}
    assert {path: path.stat().st_mtime_ns for path in before} == before
    with Image.open("new/look.png") as picture:
        assert picture.mode == "RGB"
        assert picture.width > 4 * SMALLEST_PANEL


def test_a_training_draws_it_too(tmp_path, monkeypatch):
    for number in range(4):
        write(tmp_path / "data", f"n{number}", disc(4 + number))
    monkeypatch.chdir(tmp_path)
    assert run(["train", "data", *SMALL, "--epochs", "1", "-q", "--preview", "look.png"]) == 0
    assert (tmp_path / "look.png").is_file()
    assert (tmp_path / "unet.safetensors").is_file()


@pytest.mark.parametrize(("place", "code"), [("look.tif", 2), ("data/images/n0.png", 2), ("data", 5)])
def test_a_preview_is_a_png_and_replaces_no_input(place, code, tmp_path, monkeypatch, capsys):
    for kind, pixels in (("images", 60 + 50 * disc(6)), ("masks", disc(6))):
        (tmp_path / "data" / kind).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "data" / kind / "n0.png")
    (tmp_path / "data.png").mkdir()
    monkeypatch.chdir(tmp_path)
    before = (tmp_path / "data/images/n0.png").read_bytes()
    place = "data.png" if place == "data" else place
    assert run(["train", "data", *SMALL, "--dry-run", "--preview", place]) == code
    assert place in capsys.readouterr().err
    assert (tmp_path / "data/images/n0.png").read_bytes() == before
