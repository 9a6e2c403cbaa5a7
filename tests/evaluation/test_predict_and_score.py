"""``unet evaluate DATA -m MODEL`` gives what ``infer`` and ``evaluate`` give one after the other."""

import json

import numpy as np
import pytest
import tifffile
import torch
from handmade import describe
from PIL import Image

from unetcli.cli import run
from unetcli.dataset.examination import pixel_hash
from unetcli.dataset.labels import LabelCoding
from unetcli.models import build_network
from unetcli.models.modelfile import save_model

IDS = np.zeros((44, 52), np.uint16)
for number, (y, x) in enumerate(((3, 3), (3, 20), (3, 38), (24, 3), (24, 20), (24, 38)), 1):
    IDS[y : y + 12, x : x + 10] = number
BINARY = LabelCoding("semantic", (0, 255), ("background", "cell"))
OBJECTS = LabelCoding("instances", (0,), ("background", "object"))


def image_of(labels, seed):
    rng = np.random.default_rng(seed)
    return (100 + 800 * (labels > 0) + rng.integers(0, 100, labels.shape)).astype(np.uint16)


def save_small_model(path, coding, trained=()):
    """A network with random weights, whose prediction is wrong but not empty."""
    torch.manual_seed(1)
    classes = len(coding.classes)
    network = build_network("unet", channels=1, classes=classes, features=2, depth=1)
    training = {"images": list(trained)}
    save_model(path, network, describe({"features": 2, "depth": 1}, coding=coding, classes=classes, training=training))
    return path


@pytest.fixture
def data(tmp_path):
    for number in range(3):
        labels = np.roll(IDS, number, axis=0)
        image = image_of(labels, number)
        objects = np.where(labels > 0, labels + 10 * number, 0).astype(np.uint16)
        for folder, mask in (("binary", (labels > 0) * np.uint8(255)), ("objects", objects)):
            for kind, array in (("images", image), ("masks", mask)):
                path = tmp_path / folder / kind / f"c{number}.tif"
                path.parent.mkdir(parents=True, exist_ok=True)
                tifffile.imwrite(path, array)
    return tmp_path


def document(capsys, *arguments):
    capsys.readouterr()
    code = run(["evaluate", *map(str, arguments), "--json", "-"])
    out, err = capsys.readouterr()
    return code, json.loads(out), err


@pytest.mark.parametrize(("kind", "coding"), [("binary", BINARY), ("objects", OBJECTS)])
def test_predicting_and_scoring_equals_the_two_steps(data, tmp_path, capsys, kind, coding):
    model = save_small_model(tmp_path / "m.safetensors", coding)
    once = document(capsys, data / kind, "-m", model, "--report", tmp_path / "r.html", "--workers", 3)
    assert run(["infer", str(data / kind / "images"), "-m", str(model), "-o", str(tmp_path / "p") + "/", "-q"]) == 0
    twice = document(capsys, tmp_path / "p", data / kind)
    assert once[0] == twice[0] == 0
    assert once[1]["task"] == twice[1]["task"] == ("binary" if kind == "binary" else "instances")
    assert [row["metrics"] for row in once[1]["rows"]] == [row["metrics"] for row in twice[1]["rows"]]
    assert all(0 < row["metrics"]["dice"] < 1 for row in once[1]["rows"])
    assert 'alt="image"' in (tmp_path / "r.html").read_text()


def test_images_that_were_trained_on_are_a_warning(data, tmp_path, capsys):
    seen = pixel_hash(image_of(IDS, 0)[..., None])[:16]
    model = save_small_model(tmp_path / "m.safetensors", BINARY, [seen])
    code, found, err = document(capsys, data / "binary", "-m", model)
    assert code == 0
    assert "1 of 3 images were used to train" in err
    assert any("1 of 3" in warning for warning in found["warnings"])
    clean = save_small_model(tmp_path / "n.safetensors", BINARY, ["0" * 16])
    assert "were used to train" not in document(capsys, data / "binary", "-m", clean)[2]


def test_images_that_any_of_several_models_was_trained_on_are_a_warning(data, tmp_path, capsys):
    models = []
    for number in range(2):
        seen = pixel_hash(image_of(np.roll(IDS, number, axis=0), number)[..., None])[:16]
        models += ["-m", save_small_model(tmp_path / f"{number}.safetensors", BINARY, [seen])]
    assert "2 of 3 images were used to train" in document(capsys, data / "binary", *models)[2]


def test_other_channels_than_the_models_are_refused_before_work(data, tmp_path, capsys):
    model = save_small_model(tmp_path / "m.safetensors", BINARY)
    tifffile.imwrite(data / "binary/images/c1.tif", np.zeros((44, 52, 3), np.uint8) + IDS[..., None].astype(np.uint8))
    assert run(["evaluate", str(data / "binary"), "-m", str(model)]) == 3
    assert "3 channels, the model expects 1" in capsys.readouterr().err


def test_other_classes_than_the_models_are_refused(data, tmp_path, capsys):
    model = save_small_model(tmp_path / "m.safetensors", LabelCoding("semantic", (0, 1), ("background", "cell")))
    code, found, _ = document(capsys, data / "binary", "-m", model)
    assert (code, found["rows"][0]["class"]) == (0, "cell")  # two classes are two classes, whatever their values
    for number in range(3):
        labels = np.roll(IDS, number, axis=0)
        tifffile.imwrite(data / f"binary/masks/c{number}.tif", (labels % 3 * 100).astype(np.uint8))
    assert run(["evaluate", str(data / "binary"), "-m", str(model)]) == 3
    assert "the model knows 2" in capsys.readouterr().err


RED, BLUE = (255, 0, 0), (0, 0, 255)


def save_classes(path, classes, form):
    """Save class indices (H, W): with a palette in which 1 is red and 2 blue, or the other way round, or as colors."""
    colors = [(0, 0, 0), BLUE, RED] if form == "swapped" else [(0, 0, 0), RED, BLUE]
    if form == "grays":
        colors = [(value,) * 3 for value in range(256)]
    table = np.array(colors, np.uint8)
    if form == "colors":
        return Image.fromarray(table[classes]).save(path)
    image = Image.fromarray(np.array([0, 2, 1], np.uint8)[classes] if form == "swapped" else classes)
    image.putpalette(table.tobytes())
    return image.save(path)


@pytest.mark.parametrize("form", ["palette", "swapped", "colors", "grays"])
def test_colors_tell_which_class_is_which(data, tmp_path, capsys, form):
    """Sorted as numbers, blue would come before red."""
    palette = ((0, 0, 0), RED, BLUE)
    coding = LabelCoding("semantic", (0, 1, 2), ("background", "red", "blue"), palette=palette)
    model = save_small_model(tmp_path / "m.safetensors", coding)
    for number in range(3):
        (data / f"binary/masks/c{number}.tif").unlink()
        classes = (np.roll(IDS, number, axis=0) % 3).astype(np.uint8)
        save_classes(data / f"binary/masks/c{number}.png", classes, form)
        (tmp_path / "truth").mkdir(exist_ok=True)
        save_classes(tmp_path / f"truth/c{number}.png", classes, "palette")
    code, found, _ = document(capsys, data / "binary", "-m", model, "--metrics", "dice")
    assert code == 0
    assert run(["infer", str(data / "binary/images"), "-m", str(model), "-o", str(tmp_path / "p") + "/", "-q"]) == 0
    expected = document(capsys, tmp_path / "p", tmp_path / "truth", "--metrics", "dice")[1]
    by_class = [
        {
            (row["name"], {"1": "red", "2": "blue"}.get(row["class"], row["class"])): row["metrics"]
            for row in each["rows"]
        }
        for each in (found, expected)
    ]
    assert by_class[0] == by_class[1]


def test_numbers_of_which_some_are_the_models_are_no_guess(data, tmp_path, capsys):
    coding = LabelCoding("semantic", (0, 1, 2), ("background", "a", "b"))
    model = save_small_model(tmp_path / "m.safetensors", coding)
    for values, code in (([0, 2, 3], 3), ([0, 100, 200], 0), ([0, 2, 2], 0)):
        for number in range(3):
            classes = np.roll(IDS, number, axis=0) % 3
            tifffile.imwrite(data / f"binary/masks/c{number}.tif", np.array(values, np.uint8)[classes])
        assert run(["evaluate", str(data / "binary"), "-m", str(model), "-q"]) == code
    assert "the model knows 3" in capsys.readouterr().err


@pytest.mark.parametrize(("coding", "task"), [(BINARY, "instances"), (OBJECTS, "semantic"), (OBJECTS, "membranes")])
def test_a_task_that_is_not_the_models_is_refused(data, tmp_path, capsys, coding, task):
    model = save_small_model(tmp_path / "m.safetensors", coding)
    kind = "binary" if coding is BINARY else "objects"
    assert run(["evaluate", str(data / kind), "-m", str(model), "--task", task]) == 2
    assert f"--task {task}, but the model predicts {coding.task}" in capsys.readouterr().err


def test_a_damaged_model_is_code_four(data, tmp_path, capsys):
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"not a model")
    assert run(["evaluate", str(data / "binary"), "-m", str(path)]) == 4


def test_a_prediction_is_compared_with_that_of_a_model(data, tmp_path, capsys):
    model = save_small_model(tmp_path / "m.safetensors", BINARY)
    for number in range(3):
        mask = data / f"binary/masks/c{number}.tif"
        other = tmp_path / "other" / f"c{number}_pred.tif"
        other.parent.mkdir(exist_ok=True)
        other.write_bytes(mask.read_bytes())
        mask.rename(mask.with_name(f"c{number}_mask.tif"))
    code, found, _ = document(
        capsys, data / "binary", "-m", model, "--compare", tmp_path / "other", "--metrics", "dice"
    )
    assert code == 0
    assert found["comparison"]["dice"]["cell"]["difference"] < 0


def test_a_compared_prediction_is_read_as_the_model_knows_the_classes(data, tmp_path, capsys):
    coding = LabelCoding("semantic", (0, 1, 2), ("background", "a", "b"))
    model = save_small_model(tmp_path / "m.safetensors", coding)
    for number in range(3):
        mask = (tifffile.imread(data / f"binary/masks/c{number}.tif") > 0) * np.uint8(2)  # nothing but b
        for path in (data / f"binary/masks/c{number}.tif", tmp_path / f"other/c{number}.tif"):
            path.parent.mkdir(exist_ok=True)
            tifffile.imwrite(path, mask)
    code, found, _ = document(
        capsys, data / "binary", "-m", model, "--compare", tmp_path / "other", "--metrics", "dice"
    )
    assert code == 0
    difference = found["comparison"]["dice"]["b"]
    assert difference["n"] == 3
    assert difference["difference"] == pytest.approx(found["summary"]["dice"]["b"]["mean"] - 1)


def test_how_a_compared_prediction_is_read_is_said(data, tmp_path, capsys):
    model = save_small_model(tmp_path / "m.safetensors", BINARY)
    for number in range(3):
        path = tmp_path / f"other/c{number}.tif"
        path.parent.mkdir(exist_ok=True)
        tifffile.imwrite(path, (tifffile.imread(data / f"binary/masks/c{number}.tif") > 0) * np.uint8(1))
    code, found, err = document(capsys, data / "binary", "-m", model, "--compare", tmp_path / "other")
    assert code == 0
    said = f"{tmp_path / 'other'}: the prediction's 1 is read as the truth's 255 (cell)"
    assert said in found["notes"]
    assert said in err


def test_a_stack_and_its_masks_are_one_case(data, tmp_path, capsys):
    model = save_small_model(tmp_path / "m.safetensors", BINARY)
    images = np.stack([tifffile.imread(data / f"binary/images/c{number}.tif") for number in range(3)])
    masks = np.stack([tifffile.imread(data / f"binary/masks/c{number}.tif") for number in range(3)])
    for name, array in (("volume", images), ("labels", masks)):
        tifffile.imwrite(tmp_path / f"{name}.tif", array, photometric="minisblack")
    stack = [tmp_path / "volume.tif", tmp_path / "labels.tif"]
    code, found, _ = document(capsys, *stack, "-m", model, "--pages", "1-2", "--metrics", "dice")
    assert (code, found["cases"]) == (0, 1)
    assert [(row["name"], row["page"]) for row in found["rows"]] == [("volume", 1), ("volume", 2)]
    tifffile.imwrite(tmp_path / "other.tif", masks, photometric="minisblack")
    code, found, _ = document(capsys, *stack, "-m", model, "--compare", tmp_path / "other.tif", "--metrics", "dice")
    assert (code, found["comparison"]["dice"]["cell"]["n"]) == (0, 1)
