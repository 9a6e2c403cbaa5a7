"""``--ignore``: what stands in ignored pixels changes nothing, bit for bit, from the class balance to the scores."""

import json
import shutil

import numpy as np
import pytest
import tifffile

from unetcli.cli import run
from unetcli.dataset.pairs import find_pairs
from unetcli.dataset.survey import survey
from unetcli.training.config import TrainConfig
from unetcli.training.plan import plan

SIZE = 96
IGNORED = np.s_[:, 24:72]  # columns
DEEP = np.s_[:, 40:56]  # farther from labelled pixels than the margin of the network, warps and tile steps included
FEW = ["--features", "3", "--depth", "1", "--epochs", "2", "--patch-size", "60", "--threads", "1", "--workers", "0"]


def scene(seed, dtype=np.uint16):
    """An image of discs, some of which touch, and their ids."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE]
    labels = np.zeros((SIZE, SIZE), dtype)
    for number in range(1, 30):
        cy, cx = rng.uniform(4, SIZE - 4, 2)
        labels[((y - cy) ** 2 + (x - cx) ** 2 < 36) & (labels == 0)] = number
    return (900 + 2500 * (labels > 0) + rng.normal(0, 300, labels.shape)).astype(np.uint16), labels


def semantic(labels):
    return labels % 3


def write(folder, value, *, coding=semantic, dtype=np.uint16, change=lambda image, seed: image):
    """Write four pairs whose masks hold `value` in the ignored columns."""
    for seed in range(4):
        image, labels = scene(seed)
        mask = coding(labels).astype(dtype)
        mask[IGNORED] = value
        for kind, pixels in (("images", change(image, seed)), ("masks", mask)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(folder / kind / f"c{seed}.tif", pixels)
    return folder


def trained(folder, capsys, *options):
    """Train, and return the hash of the weights with the course of losses and scores."""
    model = folder.with_suffix(".safetensors")
    assert run(["train", str(folder), "-o", str(model), *FEW, "--json", "-", "-q", *map(str, options)]) == 0
    result = json.loads(capsys.readouterr().out)
    clocks = ("seconds", "patches_per_second")
    course = [{name: value for name, value in epoch.items() if name not in clocks} for epoch in result["history"]]
    return result["weights_sha256"], course


@pytest.mark.parametrize("task", ["semantic", "instances"])
def test_the_value_that_is_ignored_does_not_matter(task, tmp_path, capsys):
    coding = semantic if task == "semantic" else (lambda labels: labels)
    results = [
        trained(write(tmp_path / f"by{value}", value, coding=coding, dtype=dtype), capsys, "--ignore", value)
        for value, dtype in ((200, np.uint16), (77, np.uint8), (-1, np.int16))
    ]
    assert results[0] == results[1] == results[2]
    whole = trained(write(tmp_path / "none", 0, coding=coding), capsys)
    assert whole != results[0]


def test_a_color_is_ignored_like_a_number(tmp_path, capsys):
    table = np.array([(0, 0, 0), (0, 200, 0), (0, 0, 200), (255, 0, 0), (7, 7, 7)], np.uint8)
    results = []
    for value, said in ((3, "#ff0000"), (4, "7"), (4, "#070707")):
        folder = write(tmp_path / said.strip("#"), value)
        for path in (folder / "masks").iterdir():
            tifffile.imwrite(path, table[tifffile.imread(path)], photometric="rgb")
        results.append(trained(folder, capsys, "--ignore", said))
    assert results[0] == results[1] == results[2]
    masks = str(tmp_path / "ff0000/masks")
    copies = shutil.copytree(masks, tmp_path / "copies")
    assert run(["evaluate", str(copies), masks, "--ignore", "#ff0000", "--metrics", "dice", "--json", "-", "-q"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["class"] for row in found["rows"]} == {"#0000c8", "#00c800", "mean"}
    arguments = [str(tmp_path / "ff0000"), "-m", str(tmp_path / "ff0000.safetensors"), "--ignore", "#ff0000", "-q"]
    assert run(["evaluate", *arguments]) == 0
    for wrong in ("red", "#ff00", "1.5"):
        assert run(["evaluate", str(copies), masks, "--ignore", wrong]) == 2
        assert f"--ignore {wrong} is no mask value" in capsys.readouterr().err
    assert run(["train", str(write(tmp_path / "numbers", 7)), "--ignore", "#ff0000", "--dry-run"]) == 2
    assert "is a color, the masks hold numbers" in capsys.readouterr().err


def test_pixels_deep_under_ignore_have_no_say(tmp_path, capsys):
    """The same values in another order, so that the normalization stays: training and validation stay too."""

    def shuffled(image, seed):
        changed = image.copy()
        changed[DEEP] = np.random.default_rng(seed + 50).permutation(image[DEEP].ravel()).reshape(SIZE, -1)
        return changed

    usual = trained(write(tmp_path / "usual", 7), capsys, "--ignore", 7)
    other = trained(write(tmp_path / "other", 7, change=shuffled), capsys, "--ignore", 7)
    assert usual == other
    seen = trained(write(tmp_path / "seen", 7, change=lambda image, seed: image[::-1]), capsys, "--ignore", 7)
    assert seen != usual


def planned(folder, **options):
    found = survey(find_pairs(folder), ignore=7, **options)
    arguments = {"features": 2, "depth": 1}
    config = TrainConfig(folder / "no.safetensors", arguments=arguments, epochs=1, patch_size=60, device="cpu")
    return found, *plan(config, found)


def test_class_balance_counts_labelled_pixels_only(tmp_path):
    """A class that is rare where it is labelled is weighted as in an image of the labelled part alone."""
    found, decided, _ = planned(write(tmp_path / "a", 7))
    kept = np.r_[0:24, 72:SIZE]
    for seed in range(4):
        image, labels = scene(seed)
        for kind, pixels in (("images", image[:, kept]), ("masks", semantic(labels)[:, kept])):
            (tmp_path / "b" / kind).mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(tmp_path / "b" / kind / f"c{seed}.tif", pixels)
    with pytest.warns(UserWarning, match="no mask has this value"):
        cropped, decided_of_crop, _ = planned(tmp_path / "b")
    assert found.class_shares == cropped.class_shares
    assert decided.class_weights == decided_of_crop.class_weights


def test_patches_of_mostly_ignored_images_show_labelled_pixels(tmp_path):
    """A stroke of foreground and one of background is all that is labelled: 1 % of the pixels."""
    for seed in range(4):
        image, labels = scene(seed)
        mask = np.full(labels.shape, 7, np.uint8)
        y, x = np.argwhere(labels > 0)[40]
        mask[y, x : x + 6] = labels[y, x : x + 6] > 0
        y, x = np.argwhere(labels == 0)[2000]
        mask[y, x : x + 40] = labels[y, x : x + 40] > 0
        for kind, pixels in (("images", image), ("masks", mask)):
            (tmp_path / "cells" / kind).mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(tmp_path / "cells" / kind / f"c{seed}.tif", pixels)
    _, _, trainer = planned(tmp_path / "cells")
    weights = [trainer.dataset[1, index][2] for index in range(60)]
    assert all(float(each.max()) > 0 for each in weights)
    assert max(float((each > 0).float().mean()) for each in weights) < 0.05


def test_mostly_ignored_images_train(tmp_path, capsys):
    def mostly(labels):
        mask = np.full_like(labels, 7)
        mask[40:44, :24] = labels[40:44, :24] > 0
        return mask

    _, course = trained(write(tmp_path / "cells", 7, coding=mostly), capsys, "--ignore", 7)
    for epoch in course:
        assert np.isfinite([epoch["train_loss"], epoch["validation_loss"], epoch["dice"]]).all()
        assert epoch["train_loss"] > 0


@pytest.mark.parametrize("task", ["semantic", "instances"])
def test_scores_do_not_see_what_is_predicted_under_ignore(task, tmp_path, capsys):
    scores = []
    _, labels = scene(0)
    drawn = semantic(labels) if task == "semantic" else labels
    truth = drawn.astype(np.uint16)
    truth[IGNORED] = 300
    tifffile.imwrite(tmp_path / "truth.tif", truth)
    rng = np.random.default_rng(1)
    predicted = np.where(rng.random(labels.shape) < 0.9, drawn, 0)
    for number, under in enumerate((0, predicted.max(), rng.integers(0, 3, labels.shape)[IGNORED])):
        prediction = predicted.astype(np.uint16)
        prediction[IGNORED] = under
        tifffile.imwrite(tmp_path / f"p{number}.tif", prediction)
        arguments = ["evaluate", str(tmp_path / f"p{number}.tif"), str(tmp_path / "truth.tif"), "--ignore", "300"]
        assert run([*arguments, "--task", task, "--json", "-", "-q"]) == 0
        result = json.loads(capsys.readouterr().out)
        scores.append([row["metrics"] for row in result["rows"]])
    assert scores[0]
    assert scores[0] == scores[1] == scores[2]
