"""Which images the patches of a training come from."""

import numpy as np
import pytest

from unetcli.dataset.augmentation import Augmentation, AugmentationSettings
from unetcli.dataset.labels import IGNORE
from unetcli.dataset.patches import PatchDataset, Sample, Weighting
from unetcli.images import IntensityRange

OUTPUT = 40
STILL = AugmentationSettings(elastic=0.0, rotate=0.0, scale=0.0, flip=False, intensity=0.0)


def plain(value, side, labelled_rows):
    """An image of one gray value whose upper rows are labelled."""
    labels = np.full((side, side), IGNORE, np.int32)
    labels[:labelled_rows] = 0
    labels[0, 0] = 1
    return Sample(
        str(value), np.full((side, side, 1), value, np.uint8), IntensityRange((0.0,), (100.0,), (0.0,)), labels
    )


def test_large_images_do_not_drown_small_ones():
    samples = [plain(10, 400, 400), plain(20, OUTPUT, OUTPUT), plain(30, OUTPUT, OUTPUT // 2)]
    dataset = PatchDataset(
        samples,
        task="semantic",
        augmentation=Augmentation(STILL, patch_size=OUTPUT + 20, output_size=OUTPUT),
        shift=True,
        weighting=Weighting((1.0, 1.0)),
        seed=0,
    )
    drawn = [round(100 * float(dataset[1, index][0].mean())) for index in range(400)]
    assert [drawn.count(value) / 400 for value in (10, 20, 30)] == pytest.approx([0.4, 0.4, 0.2], abs=0.06)
