"""How long the data of one training patch take: the weight map against one distance map per cell, the augmentation.

``pytest tests/bench/test_weightmap_bench.py --benchmark-enable -m bench``
"""

import itertools

import numpy as np
import oracles
import pytest

from unetcli.dataset.augmentation import Augmentation, AugmentationSettings
from unetcli.dataset.weightmap import border_weights, component_borders, insert_ridges

pytestmark = pytest.mark.bench


def crowded(size, cells):
    """Draw `cells` touching cells (size, size) that fill about 70 % of the image."""
    draw = np.random.default_rng(0)
    radius = 1.3 * np.sqrt(0.7 * size * size / cells / np.pi)
    y, x = np.mgrid[:size, :size]
    instances, nearest = np.zeros((size, size), np.int32), np.full((size, size), np.inf)
    for cell, (middle_y, middle_x) in enumerate(draw.uniform(0, size, (cells, 2)), start=1):
        distance = np.hypot(y - middle_y, x - middle_x)
        instances[(distance < nearest) & (distance < radius)] = cell
        nearest = np.minimum(nearest, distance)
    return instances


@pytest.mark.parametrize("cells", [50, 200, 492])
@pytest.mark.parametrize("which", ["fast", "one_distance_map_per_cell"])
@pytest.mark.benchmark(group="weight map 512x512", min_rounds=1, max_time=0.5)
def test_border_weights(benchmark, which, cells):
    instances = insert_ridges(crowded(512, cells))
    compute = border_weights if which == "fast" else oracles.border_weights_per_cell
    weights = benchmark(compute, instances)
    assert weights.max() > 9


@pytest.mark.benchmark(group="weight map 388x388")
def test_ridges_and_border_weights_of_a_patch(benchmark):
    instances = crowded(388, 100)
    assert benchmark(lambda: border_weights(insert_ridges(instances))).max() > 8


@pytest.mark.benchmark(group="weight map 388x388")
def test_component_borders_of_a_patch(benchmark):
    target = (insert_ridges(crowded(388, 100)) > 0).astype(np.int32)
    assert benchmark(component_borders, target).max() > 8


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [120, 1024])
@pytest.mark.benchmark(group="augmented patch 572 -> 388")
def test_augmentation(benchmark, side, channels):
    draw = np.random.default_rng(0)
    image = draw.random((side, side, channels), dtype=np.float32)
    labels = draw.integers(-1, 300, (side, side), dtype=np.int32)
    augmentation = Augmentation(AugmentationSettings(), patch_size=572, output_size=388)
    seeds = itertools.count()
    patch, target = benchmark(lambda: augmentation(image, labels, (side / 2, side / 2), next(seeds)))
    assert (patch.shape, target.shape) == ((572, 572, channels), (388, 388))
