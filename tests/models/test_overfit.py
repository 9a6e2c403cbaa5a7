"""Every architecture can learn one sample image by heart; those that see only coarsely, as far as they can."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from torch.nn import functional

from unetcli.models import ARCHITECTURES, build_network, default_arguments, geometry_of

FOLDER = Path(__file__).resolve().parents[2] / "sample_data" / "train"
REACHED = {"fcn32s": 0.45, "fcn16s": 0.75, "fcn8s": 0.90}  # 0.56, 0.84 and 0.95 after 800 to 1100 steps
VARIANTS = {
    **{name: (name, {}) for name in ARCHITECTURES},
    "unet same bilinear batch norm": ("unet", {"padding": "same", "upsampling": "bilinear", "batch_norm": True}),
    "unet valid-same": ("unet", {"padding": "valid-same"}),
    "unet valid bilinear": ("unet", {"upsampling": "bilinear"}),
}


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "arguments"), VARIANTS.values(), ids=VARIANTS.keys())
def test_one_image_is_learned_by_heart(architecture: str, arguments: dict):
    torch.manual_seed(0)
    small = {"features": 8, "depth": 3} if "depth" in default_arguments(architecture) else {"features": 8}
    network = build_network(architecture, channels=1, classes=2, **small, **arguments)
    geometry = geometry_of(network)
    side = geometry.output_size(geometry.nearest_legal(128 + 2 * geometry.margin))
    region = (slice(64, 64 + side), slice(64, 64 + side))
    pixels = tifffile.imread(FOLDER / "images/cell_00.tif").astype(np.float32)
    low, high = np.percentile(pixels, [1, 99.8]).astype(np.float32)
    image = np.pad((pixels[region] - low) / (high - low), geometry.margin, mode="reflect")
    target = torch.from_numpy((tifffile.imread(FOLDER / "masks/cell_00.tif")[region] > 0).astype(np.int64))[None]
    best = learn_by_heart(network, torch.from_numpy(image)[None, None], target, enough=REACHED.get(architecture, 0.95))
    assert best > REACHED.get(architecture, 0.95)


def learn_by_heart(network: torch.nn.Module, image: torch.Tensor, target: torch.Tensor, *, enough: float) -> float:
    """Return the best intersection over union in at most 1500 steps of Adam."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    best = 0.0
    for step in range(1500):
        network.train()
        optimizer.zero_grad()
        functional.cross_entropy(network(image), target).backward()
        optimizer.step()
        if step % 20 == 19:
            with torch.no_grad():
                found = network.eval()(image).argmax(1) == 1
            union = (found | (target == 1)).sum().item()
            best = max(best, (found & (target == 1)).sum().item() / union)
            if best > enough:
                break
    return best
