"""A stack through a whole segmentation: which pixels each page is predicted from."""

import numpy as np
import tifffile
import torch
from handmade import describe
from oracles import whole_image_probabilities

from unetcli.images import intensity_range, normalize
from unetcli.inference.infer import Segmenter
from unetcli.inference.records import Destinations, InferConfig
from unetcli.models import build_network
from unetcli.models.device import choose_device
from unetcli.models.modelfile import save_model


def test_pages_keep_their_order_and_share_a_normalization(tmp_path):
    torch.manual_seed(0)
    arguments = {"features": 4, "depth": 1}
    network = build_network("unet", channels=1, classes=2, **arguments).eval()
    save_model(tmp_path / "m.safetensors", network, describe(arguments))
    pages = (
        np.random.default_rng(0).integers(0, 200, (3, 30, 40)).astype(np.uint8)
        + np.array([0, 20, 55], np.uint8)[:, None, None]
    )
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric="minisblack")
    segmenter = Segmenter([tmp_path / "m.safetensors"], choose_device("cpu", "fp32"))
    config = InferConfig("probabilities", tile=60, batch=1)
    list(segmenter.segment([tmp_path / "a.tif"], Destinations(tmp_path / "p.tif"), config, segmenter.size_for(config)))
    found = tifffile.imread(tmp_path / "p.tif")
    shared = intensity_range(list(pages))
    for page, pixels in enumerate(pages):
        expected = whole_image_probabilities(network, normalize(pixels, shared))
        np.testing.assert_allclose(found[page], expected, atol=1e-5)
        alone = whole_image_probabilities(network, normalize(pixels, intensity_range([pixels])))
        assert np.abs(alone - expected).max() > 1e-3
