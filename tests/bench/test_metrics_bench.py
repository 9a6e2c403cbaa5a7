"""The metrics against the reference implementations on the same pairs in the same run.

Run with ``make bench`` or ``pytest tests/bench -m bench``; a reference that is not installed is skipped. They come with
``pip install --no-deps stardist cellpose monai numba llvmlite csbdeep fastremap fill-voids tqdm six``.
"""

import time

import numpy as np
import pytest

from unetcli.metrics import METRICS, boundary, instances

pytestmark = pytest.mark.bench
PAIRS, SIDE, OBJECTS = 100, 512, 200
THRESHOLDS = instances.MAP_THRESHOLDS
ALLOWED = 0.25  # of the time of the faster reference


def draw_pair(seed):
    """About 200 discs of varied size that do not overlap, and the same moved and resized by a few pixels."""
    rng = np.random.default_rng(seed)
    truth, prediction = np.zeros((2, SIDE, SIDE), np.int32)
    y, x = np.mgrid[:SIDE, :SIDE]
    for number, place in enumerate(rng.permutation(225)[:OBJECTS], start=1):
        center = (np.array(divmod(place, 15)) + 0.5) * SIDE / 15 + rng.uniform(-3, 3, 2)
        radius = rng.uniform(7, 13)
        for target, shift, growth in ((truth, 0, 0), (prediction, rng.uniform(-2, 2, 2), rng.uniform(-1, 1))):
            cy, cx = center + shift
            rows, columns = slice(max(0, int(cy) - 16), int(cy) + 17), slice(max(0, int(cx) - 16), int(cx) + 17)
            disc = (y[rows, columns] - cy) ** 2 + (x[rows, columns] - cx) ** 2 < (radius + growth) ** 2
            target[rows, columns][disc] = number
    return truth, prediction


@pytest.fixture(scope="module")
def pairs():
    return [draw_pair(seed) for seed in range(PAIRS)]


def seconds(call, repeats=3):
    call()  # compiled and warm
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return min(times)


def our_matching(pairs):
    names = ["map", "pq", "f1", "seg", "aji_plus"]
    for truth, prediction in pairs:
        table = instances.overlaps(truth, prediction)
        for name in names:
            METRICS[name].score(table)


def test_matching_of_objects(pairs, benchmark):
    references = {}
    try:
        from stardist.matching import matching

        references["stardist"] = lambda: [matching(*pair, thresh=THRESHOLDS) for pair in pairs]
        expected = np.mean([[entry.accuracy for entry in matching(*pair, thresh=THRESHOLDS)] for pair in pairs[:5]])
        ours = np.mean([METRICS["map"](*pair) for pair in pairs[:5]])
        assert ours == pytest.approx(expected, abs=1e-6)
    except ImportError:
        pass
    try:
        from cellpose.metrics import average_precision

        truths, predictions = [truth for truth, _ in pairs], [prediction for _, prediction in pairs]
        references["cellpose"] = lambda: average_precision(truths, predictions, threshold=list(THRESHOLDS))
    except ImportError:
        pass
    if not references:
        pytest.skip("neither stardist nor cellpose is installed")
    times = {name: seconds(call, 1) for name, call in references.items()}
    benchmark.pedantic(our_matching, (pairs,), rounds=3, warmup_rounds=1)
    best = seconds(lambda: our_matching(pairs))
    print(f"matching {PAIRS} pairs: ours {best:.3f} s, " + ", ".join(f"{n} {t:.3f} s" for n, t in times.items()))
    assert best <= ALLOWED * min(times.values())


def our_surfaces(pairs):
    for truth, prediction in pairs:
        distances = boundary.surfaces(truth > 0, prediction > 0)
        boundary.hd95(distances)
        boundary.assd(distances)
        boundary.nsd(distances, 1.0)


def test_distances_between_borders(pairs, benchmark):
    monai = pytest.importorskip("monai.metrics")
    torch = pytest.importorskip("torch")
    tensors = [[torch.from_numpy(mask > 0)[None, None].float() for mask in pair] for pair in pairs]

    def reference():
        for truth, prediction in tensors:
            monai.compute_hausdorff_distance(prediction, truth, include_background=True, percentile=95)
            monai.compute_average_surface_distance(prediction, truth, include_background=True, symmetric=True)
            monai.compute_surface_dice(prediction, truth, [1.0], include_background=True)

    truth, prediction = tensors[0]
    expected = monai.compute_hausdorff_distance(prediction, truth, include_background=True, percentile=95).item()
    assert METRICS["hd95"](*(mask > 0 for mask in pairs[0])) == pytest.approx(expected, rel=1e-5)
    theirs = seconds(reference, 1)
    benchmark.pedantic(our_surfaces, (pairs,), rounds=3, warmup_rounds=1)
    best = seconds(lambda: our_surfaces(pairs))
    print(f"surfaces of {PAIRS} pairs: ours {best:.3f} s, MONAI {theirs:.3f} s")
    assert best <= ALLOWED * theirs
