"""Inference against a plain loop and MONAI, against its own network, and over tile sizes; all in one run.

Every case runs in turn, several times, and the best counts, so that what other programs take falls on all alike.
The processor time of all threads stands beside the time on the clock: on a shared machine it is the steadier one.
"""

import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np
import pytest
import tifffile
import torch
from handmade import write_model

from unetcli.images import IntensityRange, normalize
from unetcli.inference.infer import Segmenter
from unetcli.inference.predict import Ensemble, predict_bands
from unetcli.inference.records import Destinations, InferConfig
from unetcli.inference.tilesize import choose_tile
from unetcli.inference.tiling import cut
from unetcli.models import build_network, geometry_of
from unetcli.models.device import choose_device, set_threads
from unetcli.models.fusion import ready

pytestmark = [pytest.mark.bench, pytest.mark.timeout(7200)]
FEATURES = 32
PREPARE = partial(normalize, intensity=IntensityRange((0.0,), (255.0,), (128.0,)))
SIDES = [2048, pytest.param(8192, marks=pytest.mark.slow)]


def network_of(padding="valid"):
    torch.manual_seed(0)
    return build_network("unet", channels=1, classes=2, features=FEATURES, padding=padding).eval()


def random_image(side):
    return np.random.default_rng(0).integers(0, 256, (side, side, 1), dtype=np.uint8)


@pytest.fixture(scope="module")
def elsewhere():
    """A process of its own for what is compared with, since `ready` changes how this one keeps its memory."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        yield process


def timed(case, *arguments):
    """Return the seconds on the clock and of the processors that a case takes."""
    clock, processors = time.perf_counter(), time.process_time()
    case(*arguments)
    return time.perf_counter() - clock, time.process_time() - processors


def measured(benchmark, cases, rounds):
    """Return the least of what each case takes, all run in turn."""
    best = dict.fromkeys(cases, (float("inf"), float("inf")))

    def all_in_turn():
        for name, case in cases.items():
            best[name] = tuple(map(min, best[name], case()))

    benchmark.pedantic(all_in_turn, rounds=rounds)
    return best


def rounds(side):
    return 3 if side < 5000 else 1


def report(benchmark, best, pixels, reference):
    """Print and keep Mpx/s and how many times as fast as the reference each case is."""
    for name, (clock, processors) in best.items():
        benchmark.extra_info[name] = (
            f"{pixels / 1e6 / clock:.3f} Mpx/s, {best[reference][0] / clock:.2f} times {reference} "
            f"({best[reference][1] / processors:.2f} by processor time)"
        )
        print(f"{name:20} {benchmark.extra_info[name]}")


def plain_loop(side):
    """What a notebook does: pad, cut 572 tiles at steps of 388, predict in float32, paste. (Not seamless.)"""
    image, network = random_image(side), network_of()

    def loop():
        padded = np.pad(image[..., 0].astype(np.float32) / 255, ((92, 92 + 388), (92, 92 + 388)), mode="reflect")
        mask = np.zeros((side + 388, side + 388), np.uint8)
        with torch.inference_mode():
            for top in range(0, side, 388):
                for left in range(0, side, 388):
                    tile = torch.from_numpy(padded[top : top + 572, left : left + 572].copy())[None, None]
                    mask[top : top + 388, left : left + 388] = network(tile).argmax(1)[0].numpy()

    return timed(loop)


def monai(side, dtype, layout):
    """MONAI's sliding window over a padded network of the same width."""
    from monai.inferers import sliding_window_inference

    image, network = random_image(side), network_of("same").to(dtype, memory_format=layout)

    def windows():
        whole = torch.from_numpy(PREPARE(image)).permute(2, 0, 1)[None].contiguous().to(dtype)
        with torch.inference_mode():
            sliding_window_inference(whole, (512, 512), 4, network, overlap=0.25, mode="gaussian").argmax(1)

    return timed(windows)


def ours(network, device, size, image):
    return timed(lambda: list(predict_bands(Ensemble([network], device), image, PREPARE, size)))


@pytest.mark.parametrize("side", SIDES)
def test_against_a_plain_loop(benchmark, elsewhere, side):
    set_threads()
    image, cases = random_image(side), {"a plain loop": lambda: elsewhere.submit(plain_loop, side).result()}
    for precision in ("auto", "fp32"):
        device = choose_device(precision=precision)
        network = ready(network_of(), device)
        cases[f"unet {device.precision}"] = partial(ours, network, device, choose_tile(network, 1, device), image)
    report(benchmark, measured(benchmark, cases, rounds(side)), side**2, "a plain loop")


@pytest.mark.parametrize("side", SIDES)
def test_against_monai(benchmark, elsewhere, side):
    pytest.importorskip("monai", reason="MONAI is not installed: pip install --no-deps monai")
    set_threads()
    image, device = random_image(side), choose_device()
    network = ready(network_of(), device)

    def theirs(dtype, layout):
        return elsewhere.submit(monai, side, dtype, layout).result()

    cases = {
        "MONAI fp32": partial(theirs, torch.float32, torch.contiguous_format),
        "MONAI bf16": partial(theirs, torch.bfloat16, torch.channels_last),
        f"unet {device.precision}": partial(ours, network, device, choose_tile(network, 1, device), image),
    }
    best = measured(benchmark, cases, rounds(side))
    report(benchmark, best, side**2, "MONAI fp32")
    report(benchmark, best, side**2, "MONAI bf16")


def cells(side, pitch=40):
    """A disc in every square of `pitch` pixels, with noise."""
    offsets = np.arange(side) % pitch - pitch // 2
    discs = offsets[:, None] ** 2 + offsets**2 < (pitch // 3) ** 2
    return np.random.default_rng(0).integers(0, 30, (side, side), dtype=np.uint8) + np.uint8(200) * discs


@pytest.mark.parametrize("side", SIDES)
def test_file_to_file(benchmark, tmp_path, side):
    set_threads()
    tifffile.imwrite(tmp_path / "scan.tif", cells(side), tile=(256, 256), compression="deflate")
    device = choose_device()
    paths = {
        kind: write_model(tmp_path / f"{kind}.safetensors", kind, features=FEATURES, depth=4)
        for kind in ("mask", "instances")
    }
    segmenters = {kind: Segmenter([path], device) for kind, path in paths.items()}
    network = segmenters["mask"].networks[0]
    size = segmenters["mask"].size_for(InferConfig())
    geometry = geometry_of(network)
    grid = cut(side, side, geometry, size.tile)
    tile = torch.rand(1, 1, geometry.input_for(grid.core_height), geometry.input_for(grid.core_width))

    def network_only():
        with torch.inference_mode(), device.arithmetic():
            for _ in [write for row in grid.rows() for write in row]:
                network(tile)

    def files(kind, **more):
        destinations = Destinations(tmp_path / "mask.tif", **{name: tmp_path / file for name, file in more.items()})
        for _ in segmenters[kind].segment([tmp_path / "scan.tif"], destinations, InferConfig(), size):
            pass

    cases = {
        "the network alone": partial(timed, network_only),
        "a mask": partial(timed, partial(files, "mask")),
        "and probabilities": partial(timed, partial(files, "mask", probabilities="p.tif")),
        "instances": partial(timed, partial(files, "instances")),
        "table and overlay": partial(timed, partial(files, "instances", objects="o.csv", overlay="o.png")),
    }
    report(benchmark, measured(benchmark, cases, rounds(side)), side**2, "the network alone")


@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_tile_sizes(benchmark, precision):
    set_threads()
    device = choose_device(precision=precision)
    network = ready(network_of(), device)
    chosen = choose_tile(network, 1, device).tile
    tiles = sorted({572, 764, 956, 1212, 1468, 1820, 2236, 2748, chosen})

    def one_tile(tile):
        with torch.inference_mode(), device.arithmetic():
            network(torch.rand(1, 1, tile, tile))

    best = measured(benchmark, {tile: partial(timed, one_tile, tile) for tile in tiles}, 3)
    for tile, (clock, processors) in best.items():
        written = geometry_of(network).core_of(tile) ** 2 / 1e6
        name = f"{tile}{' (chosen)' if tile == chosen else ''}"
        both = written / clock, written / processors * torch.get_num_threads()
        benchmark.extra_info[name] = "{:.3f} Mpx/s ({:.3f} by processor time)".format(*both)
        print(f"{name:20} {benchmark.extra_info[name]}")
