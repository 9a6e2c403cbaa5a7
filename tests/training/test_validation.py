"""Validation scores whole images, and keeps what is worst to be looked at."""

import numpy as np
import pytest
import torch
from training.test_loop import CPU, discs

from unetcli.dataset.patches import Sample
from unetcli.images import intensity_range, normalize
from unetcli.inference.predict import Ensemble, TileSize, predict_bands
from unetcli.models import build_network
from unetcli.training import validation
from unetcli.training.gallery import BOTH, IGNORED, PREDICTION, TRUTH, picture_of
from unetcli.training.validation import ImageScore, Look, validate

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def network():
    """One that sees either class in about half of the pixels."""
    torch.manual_seed(0)
    network = build_network("unet", channels=1, classes=2, features=2, depth=1).eval()
    with torch.inference_mode():
        background, foreground = network(torch.rand(1, 1, 60, 60))[0]
    network.classifier.bias.data[1] += (background - foreground).median()
    return network


def scored(network, samples, tile=60):
    return validate(network, samples, task="instances", classes=2, device=CPU, size=TileSize(tile))


def test_the_worst_images_are_kept_worst_first(network):
    samples = [discs(seed) for seed in range(validation.WORST + 4)]
    score = scored(network, samples)
    assert len(score.images) == len(samples)
    order = sorted(range(len(samples)), key=lambda index: score.images[index].mean_dice)
    assert [look.index for look in score.worst] == order[: validation.WORST]
    assert all(look.score == score.images[look.index] for look in score.worst)


def test_images_without_a_score_come_last(network):
    empty, image = discs(0), discs(1)
    empty.labels[:] = -1
    score = scored(network, [empty, image])
    assert [look.index for look in score.worst] == [1, 0]
    assert np.isnan(score.images[0].mean_dice)


@pytest.mark.parametrize("largest", [100, 72, 71, 30, 7])
def test_what_is_kept_is_every_nth_pixel_of_the_prediction(network, largest, monkeypatch):
    monkeypatch.setattr(validation, "LARGEST_LOOK", largest)
    sample = discs(2)
    (look,) = scored(network, [sample]).worst
    expected = whole_prediction(Ensemble([network], CPU), sample)
    assert 0 < expected.mean() < 1
    assert max(look.classes.shape) <= largest
    np.testing.assert_array_equal(look.classes, expected[:: look.step, :: look.step])


def whole_prediction(ensemble, sample):
    bands = predict_bands(ensemble, sample.image, lambda pixels: normalize(pixels, sample.intensity), TileSize(60))
    return np.concatenate([band.classes for band in bands])


def look_of(labels, classes, step=1):
    image = np.arange(labels.size, dtype=np.uint8).reshape(*labels.shape, 1)
    sample = Sample("a", image, intensity_range([image]), labels.astype(np.int32))
    return picture_of(Look(0, ImageScore("a", 1.0, (0.25,), 0.5), step, classes.astype(np.uint8)), sample)


def test_outlines_are_drawn_over_the_image(monkeypatch):
    monkeypatch.setattr("unetcli.training.gallery.LARGEST_LOOK", 12)
    labels, classes = np.zeros((12, 12), int), np.zeros((12, 12), int)
    labels[1:5, 1:5], labels[6:11, 2:6], labels[:, 11] = 1, 2, -1
    classes[1:5, 1:5], classes[6:9, 6:9] = 1, 1
    picture = look_of(labels, classes)
    layers = dict(picture.layers)
    assert list(layers) == ["image", "truth", "prediction"]
    assert "0.25" in picture.caption
    assert layers["image"].shape == (12, 12)
    truth, prediction = layers["truth"], layers["prediction"]
    assert tuple(truth[1, 1]) == (*TRUTH, 255)
    assert tuple(truth[6, 3]) == (*TRUTH, 255)
    assert truth[2, 2, 3] == 0  # inside
    assert truth[0, 0, 3] == 0
    assert tuple(truth[4, 11, :3]) == IGNORED
    assert tuple(prediction[1, 1]) == (*BOTH, 255)
    assert tuple(prediction[6, 8]) == (*PREDICTION, 255)
    assert prediction[7, 7, 3] == 0


def test_outlines_of_small_images_are_thin(monkeypatch):
    monkeypatch.setattr("unetcli.training.gallery.LARGEST_LOOK", 48)
    labels = np.zeros((12, 12), int)
    labels[2:10, 2:10] = 1
    layers = dict(look_of(labels, labels).layers)
    assert layers["truth"].shape == (48, 48, 4)
    assert layers["truth"][8:40, 8, 3].all()
    assert not layers["truth"][9:39, 9, 3].any()


def test_pictures_of_thinned_images_fit(monkeypatch):
    labels = np.zeros((13, 30), int)
    labels[3:9, 3:9] = 1
    layers = dict(look_of(labels, labels[::3, ::3], step=3).layers)
    assert layers["image"].shape == (5, 10)
    assert layers["truth"].shape[0] / 5 == layers["truth"].shape[1] / 10
