"""One scan, one mask: whatever the tiles, the memory, and the layout of the file."""

import numpy as np
import pytest
import tifffile
import torch
from handmade import describe
from oracles import whole_image_probabilities

from unetcli.errors import UnetWarning
from unetcli.images import intensity_range, normalize
from unetcli.inference.infer import Segmenter
from unetcli.inference.records import Destinations, InferConfig
from unetcli.models import build_network
from unetcli.models.device import choose_device
from unetcli.models.modelfile import save_model

pytestmark = pytest.mark.usefixtures("one_thread")

PAGES = np.random.default_rng(3).integers(0, 60000, (3, 67, 90)).astype(np.uint16)
LAYOUTS = {
    "memory-mapped": {},
    "strips": {"rowsperstrip": 7},
    "compressed strips": {"rowsperstrip": 16, "compression": "deflate", "predictor": True},
    "one compressed strip": {"rowsperstrip": 67, "compression": "lzw"},
    "tiles": {"tile": (64, 48)},
    "compressed tiles": {"tile": (32, 32), "compression": "zstd"},
    "BigTIFF": {"bigtiff": True, "tile": (64, 64)},
    "big-endian": {"byteorder": ">"},
    "ImageJ": {"imagej": True, "metadata": {"axes": "ZYX"}},
    "OME": {"ome": True, "metadata": {"axes": "ZYX"}},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model file, its network, and the mask of a single pass over each whole page."""
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    arguments = {"features": 4, "depth": 2}
    torch.manual_seed(1)
    network = build_network("unet", channels=1, classes=2, **arguments).eval()
    shared = intensity_range(list(PAGES))
    logits = np.stack([whole_image_probabilities(network, normalize(page, shared)) for page in PAGES])
    with torch.no_grad():  # so that a half of the pixels is foreground
        network.classifier.bias[1] -= float(np.median(np.log(logits[:, 1] / logits[:, 0])))
    save_model(path, network, describe(arguments))
    whole = [whole_image_probabilities(network, normalize(page, shared))[1] > 0.5 for page in PAGES]
    mask = np.stack(whole).astype(np.uint8) * 255
    assert 0.4 < (mask > 0).mean() < 0.6
    return path, mask


def mask_of(model, scan, *, config=None, precision="fp32"):
    segmenter = Segmenter([model[0]], choose_device("cpu", precision))
    config = config or InferConfig()
    output = scan.with_name("mask.tif")
    list(segmenter.segment([scan], Destinations(output), config, segmenter.size_for(config)))
    return tifffile.imread(output)


@pytest.fixture
def scan(tmp_path):
    tifffile.imwrite(tmp_path / "scan.tif", PAGES, photometric="minisblack")
    return tmp_path / "scan.tif"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layout_of_the_file_does_not_matter(model, tmp_path, layout):
    options = {"photometric": "minisblack"} | LAYOUTS[layout]
    tifffile.imwrite(tmp_path / "scan.tif", PAGES, **options)
    np.testing.assert_array_equal(mask_of(model, tmp_path / "scan.tif"), model[1])


@pytest.mark.parametrize("tile", [1, 60, 84, 1000])
@pytest.mark.parametrize("batch", [1, 3])
def test_tile_and_batch_do_not_matter(model, scan, tile, batch):
    np.testing.assert_array_equal(mask_of(model, scan, config=InferConfig(tile=tile, batch=batch)), model[1])


@pytest.mark.parametrize("megabytes", [0, 1, 4, 4000])
def test_memory_does_not_matter(model, scan, monkeypatch, megabytes):
    monkeypatch.setattr("unetcli.inference.tilesize.usable_memory", lambda: megabytes << 20)
    np.testing.assert_array_equal(mask_of(model, scan), model[1])


def test_running_out_of_memory_does_not_matter(model, scan, monkeypatch):
    forward = torch.nn.ConvTranspose2d.forward

    def scarce(module, tiles, *arguments):
        if isinstance(tiles, torch.Tensor) and tiles.device.type == "cpu" and tiles.numel() > 16 * 9 * 9:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return forward(module, tiles, *arguments)

    monkeypatch.setattr(torch.nn.ConvTranspose2d, "forward", scarce)
    with pytest.warns(UnetWarning, match="out of memory: going on with tiles of"):
        found = mask_of(model, scan)
    np.testing.assert_array_equal(found, model[1])


def test_the_order_of_the_pages_does_not_matter(model, tmp_path):
    order = [2, 0, 1]
    tifffile.imwrite(tmp_path / "scan.tif", PAGES[order], photometric="minisblack")
    np.testing.assert_array_equal(mask_of(model, tmp_path / "scan.tif"), model[1][order])


def test_a_page_alone_has_the_mask_it_has_in_the_stack(model, scan):
    np.testing.assert_array_equal(mask_of(model, scan, config=InferConfig(pages=range(1, 2))), model[1][1])


def test_in_bf16_few_pixels_differ(model, scan):
    small = mask_of(model, scan, config=InferConfig(tile=60), precision="bf16")
    large = mask_of(model, scan, precision="bf16")
    assert (small != large).mean() < 0.01
